"""Mamba against Hugging Face's, and its start as the paper's code gives it."""

import math
import warnings
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

import resurge
from resurge.layers import Mamba
from resurge.layers.mamba import MambaState
from resurge.state import named_tensors


def theirs(d_model: int, **options: int) -> Any:
    """Hugging Face's mixer in plain PyTorch, with weights that are not those of the start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer

        mixer = MambaMixer(MambaConfig(hidden_size=d_model, num_hidden_layers=1, **options), layer_idx=0)
    return randomised(mixer).eval()


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("A_log"):
                parameter.add_(0.5 * torch.randn_like(parameter))
            elif parameter.dim() < 2:
                parameter.add_(torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter[0].numel()))
    return module


def pair(d_model: int = 24, **options: int) -> tuple[Any, Mamba]:
    mixer = theirs(d_model, **options)
    names = {"state_size": "d_state", "conv_kernel": "width", "time_step_rank": "dt_rank"}
    layer = Mamba(d_model, **{names.get(name, name): value for name, value in options.items()})
    layer.load_state_dict(mixer.state_dict())
    return mixer, layer


def close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).detach().abs().max()) < 1e-4 * max(1.0, float(expected.detach().abs().max()))


@pytest.mark.parametrize(
    "options",
    [{}, {"state_size": 5, "expand": 3, "conv_kernel": 2}, {"time_step_rank": 7}],
    ids=["usual", "odd", "rank"],
)
def test_outputs_and_gradients_are_those_of_hugging_face(options: dict[str, int]) -> None:
    mixer, layer = pair(**options)
    x, weights = torch.randn(2, 2, 45, 24)
    results = []
    for module in (mixer, layer):
        inputs = x.clone().requires_grad_()
        y = module(inputs)
        y = y[0] if isinstance(y, tuple) else y
        parameters = dict(module.named_parameters())
        gradients = torch.autograd.grad((y * weights).sum(), [inputs, *parameters.values()])
        results.append([y, gradients[0], *(g for _, g in sorted(zip(parameters, gradients[1:], strict=True)))])
    assert float(results[0][0].detach().std()) > 0.1
    for expected, actual in zip(*results, strict=True):
        close(actual, expected)


def test_a_model_of_hugging_face_in_pieces() -> None:
    """Its whole sequence against ours in pieces and in steps, through several blocks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import MambaConfig, MambaModel

        config = MambaConfig(vocab_size=30, hidden_size=16, num_hidden_layers=3, state_size=4)
        model: Any = randomised(MambaModel(config)).eval()
    tokens = torch.randint(30, (2, 20))
    expected = model(tokens, use_cache=False).last_hidden_state
    for borders in ([], [1, 3, 11], list(range(1, 20))):
        h = model.embeddings(tokens)
        for block in model.layers:
            layer = Mamba(16, 4)
            layer.load_state_dict(block.mixer.state_dict())
            x, outputs, state = block.norm(h), [], None
            for start, stop in zip([0, *borders], [*borders, 20], strict=True):
                y, state = layer(x[:, start:stop], state)
                outputs.append(y)
            h = h + torch.cat(outputs, 1)
        close(model.norm_f(h), expected)


def test_the_state_is_that_of_hugging_face() -> None:
    """Decoding goes on from their cache: their recurrent state is ours, their convolution keeps one input more."""
    from transformers import DynamicCache, MambaConfig

    mixer, layer = pair(16)
    cache = DynamicCache(config=MambaConfig(hidden_size=16, num_hidden_layers=1))
    x = torch.randn(2, 9, 16)
    with torch.no_grad():
        mixer(x, cache_params=cache)
        _, state = layer(x)
        conv, h = cache.layers[0].conv_states, cache.layers[0].recurrent_states
        conv, h = (v[0] if isinstance(v, (dict, list)) else v for v in (conv, h))
        close(state.h, h)
        close(state.conv, conv.mT[:, -3:])


def test_one_channel_by_hand() -> None:
    """One step of one channel with one state, each number of the equations written out."""
    layer = Mamba(1, 1, 1, width=2, dt_rank=1).double()
    values = {
        "in_proj.weight": [2.0, 3.0], "conv1d.weight": [0.5, 1.5], "conv1d.bias": [0.25],
        "x_proj.weight": [0.3, 0.7, 1.1], "dt_proj.weight": [0.9], "dt_proj.bias": [-0.4], "A_log": [0.2], "D": [0.6],
        "out_proj.weight": [1.3],
    }  # fmt: skip
    for name, parameter in layer.named_parameters():
        parameter.data = torch.tensor(values[name], dtype=torch.float64).view(parameter.shape)
    u, before, h0, dt = 0.75, -0.625, 0.375, 1.75  # of few binary digits

    def silu(v: float) -> float:
        return v / (1 + math.exp(-v))

    x = silu(0.5 * before + 1.5 * 2.0 * u + 0.25)
    delta = dt * math.log1p(math.exp(0.9 * 0.3 * x - 0.4))
    h = math.exp(-math.exp(0.2) * delta) * h0 + delta * x * 0.7 * x
    y = 1.3 * (1.1 * x * h + 0.6 * x) * silu(3.0 * u)
    state = MambaState(torch.tensor([[[before]]]).double(), torch.tensor([[[h0]]]).double())
    found, after = layer.step(torch.tensor([[u]]).double(), state, dt=torch.tensor([dt]).double())
    assert found.item() == pytest.approx(y, rel=1e-12)
    assert after.h.item() == pytest.approx(h, rel=1e-12)
    assert after.conv.item() == pytest.approx(2.0 * u, rel=1e-12)


def test_the_start_is_the_papers() -> None:
    layer = Mamba(64, 16, n_layers=4)
    assert layer.dt_rank == 4
    assert torch.allclose(torch.exp(layer.A_log), torch.arange(1.0, 17).expand(128, 16))
    assert bool((layer.D == 1).all())
    step = nn.functional.softplus(layer.dt_proj.bias.detach().double())
    assert 1e-3 * 0.999 < float(step.min()) < 2e-3
    assert 5e-2 < float(step.max()) < 0.1 * 1.001
    place = torch.log(step / 1e-3) / math.log(100)  # uniform in [0, 1]
    assert float(place.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 128))
    for weight, bound in (
        (layer.dt_proj.weight, 0.5), (layer.conv1d.weight, 0.5), (layer.conv1d.bias, 0.5),
        (layer.in_proj.weight, 1 / 8), (layer.out_proj.weight, 1 / math.sqrt(128) / 2),
    ):  # fmt: skip
        assert 0.9 * bound < float(weight.detach().abs().max()) <= bound
    assert float(nn.functional.softplus(Mamba(32, dt_min=1e-9, dt_max=1e-8).dt_proj.bias.detach().double()).max()) == (
        pytest.approx(1e-4, rel=1e-4)
    )


def test_step_sizes_choose_what_is_kept() -> None:
    """The mechanism of the paper: where Δ is large the state is the present input, where it is 0 nothing changes."""
    layer = Mamba(4, 3, 1, width=2).double()
    x = torch.randn(1, 6, 4, dtype=torch.float64)
    start = layer(torch.randn(1, 5, 4, dtype=torch.float64))[1]
    with torch.no_grad():
        layer.dt_proj.bias.fill_(-200.0)
        assert_close(layer(x, start)[1].h, start.h, torch.float64, "kept")
        layer.dt_proj.bias.fill_(200.0)
        other = layer(torch.randn(1, 5, 4, dtype=torch.float64))[1]
        ends = [layer(x, MambaState(start.conv, h))[1].h for h in (start.h, other.h)]
        assert_close(ends[0], ends[1], torch.float64, "forgotten")


def test_resets_are_those_of_separate_calls_in_the_convolution_too() -> None:
    layer = Mamba(8).double()
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    reset = torch.zeros(1, 12, dtype=torch.bool)
    reset[0, [4, 5]] = True
    y, state = layer(x, reset=reset)
    apart = [layer(part) for part in (x[:, :4], x[:, 4:5], x[:, 5:])]
    assert_close(y, torch.cat([part for part, _ in apart], 1), torch.float64, "y")
    for (name, a), (_, b) in zip(named_tensors(state), named_tensors(apart[-1][1]), strict=True):
        assert_close(a, b, torch.float64, name)


def test_half_precision_keeps_what_sets_the_time_scales() -> None:
    layer = Mamba(8).to(torch.bfloat16)
    kept = {name for name, p in layer.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_log", "D", "dt_proj.bias"}
    assert {id(p) for p in layer.param_groups().recurrent} == {id(layer.A_log), id(layer.D), id(layer.dt_proj.bias)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 0}, "d_state must be at least 1, and is 0"),
        ({"expand": 0}, "expand must be at least 1, and is 0"),
        ({"width": 1}, "width must lie in 2 to 8, and is 1"),
        ({"dt_rank": -1}, "dt_rank must be at least 0, and is -1"),
        ({"dt_min": 0.2}, "dt_min and dt_max must satisfy"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=message):
        Mamba(8, **options)
