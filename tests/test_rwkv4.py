"""RWKV-4 against Hugging Face's, against the paper's equations spelt out as sums, and as it starts."""

import math

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

import resurge
from resurge import RecurrentLayer
from resurge.layers import RWKV4, RWKV4ChannelMix
from resurge.models import LanguageModel, rwkv4
from resurge.nn.token_shift import shifted

B, T, D = 2, 21, 16


def scrambled(layer: nn.Module) -> nn.Module:
    """Parameters that no initialisation gives, so that nothing cancels by chance."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return layer


def inputs(dtype: torch.dtype = torch.float64, length: int = T) -> Tensor:
    return torch.randn(B, length, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


def hugging_face(layers: int = 2) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.RwkvConfig(
        vocab_size=11, hidden_size=D, num_hidden_layers=layers, context_length=64, rescale_every=0, use_cache=True
    )
    torch.manual_seed(0)
    model: nn.Module = transformers.RwkvForCausalLM(config).eval()
    return scrambled(model)


def test_time_mixing_equals_the_papers_sums() -> None:
    layer, x = scrambled(RWKV4(D).double()), inputs()
    before = torch.cat([torch.zeros(B, 1, D), x[:, :-1]], 1).double()
    k, v, r = (
        (mu * x + (1 - mu) * before) @ linear.weight.T
        for mu, linear in (
            (layer.time_mix_key, layer.key),
            (layer.time_mix_value, layer.value),
            (layer.time_mix_receptance, layer.receptance),
        )
    )
    w, u = torch.exp(layer.time_decay), layer.time_first
    wkv = []
    for t in range(T):
        weights = [torch.exp(-(t - 1 - i) * w + k[:, i]) for i in range(t)] + [torch.exp(u + k[:, t])]
        wkv.append(sum(weight * v[:, i] for i, weight in enumerate(weights)) / sum(weights))
    expected = (torch.sigmoid(r) * torch.stack(wkv, 1)) @ layer.output.weight.T
    assert_close(layer(x)[0], expected, torch.float64, "y")


def test_channel_mixing_equals_the_papers_equations() -> None:
    layer, x = scrambled(RWKV4ChannelMix(D, 3).double()), inputs()
    before = torch.cat([torch.zeros(B, 1, D), x[:, :-1]], 1).double()
    k, r = (
        (mu * x + (1 - mu) * before) @ linear.weight.T
        for mu, linear in ((layer.time_mix_key, layer.key), (layer.time_mix_receptance, layer.receptance))
    )
    expected = torch.sigmoid(r) * (torch.relu(k) ** 2 @ layer.value.weight.T)
    assert_close(layer(x)[0], expected, torch.float64, "y")


@pytest.mark.parametrize("kind", ["attention", "feed_forward"])
def test_layers_equal_hugging_faces_whole_and_in_pieces(kind: str) -> None:
    peer = getattr(hugging_face().rwkv.blocks[0], kind)
    layer: RecurrentLayer = RWKV4(D) if kind == "attention" else RWKV4ChannelMix(D)
    assert not layer.load_state_dict(peer.state_dict(), strict=True).missing_keys
    layer.requires_grad_(False)
    peer.requires_grad_(False)
    x = inputs(torch.float32)
    expected, _ = peer(x)
    assert float((layer(x)[0] - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    outputs, state = [], None
    for piece in (slice(0, 4), slice(4, 5), slice(5, T)):
        y, state = layer(x[:, piece], state)
        outputs.append(y)
    assert float((torch.cat(outputs, 1) - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def from_hugging_face(peer: nn.Module, depth: int) -> LanguageModel:
    """Our model with the weights of theirs."""
    embedding = nn.Sequential(nn.Embedding(11, D), nn.LayerNorm(D))
    model = LanguageModel(11, rwkv4(D, depth), embedding=embedding, head=nn.Linear(D, 11, bias=False))
    theirs, ours = peer.state_dict(), {}
    ours["embedding.0.weight"] = theirs["rwkv.embeddings.weight"]
    ours["head.weight"] = theirs["head.weight"]
    for part in ("weight", "bias"):
        ours[f"embedding.1.{part}"] = theirs[f"rwkv.blocks.0.pre_ln.{part}"]
        ours[f"norm.{part}"] = theirs[f"rwkv.ln_out.{part}"]
    for place in range(2 * depth):
        block = f"rwkv.blocks.{place // 2}."
        mixer, norm = (("attention.", "ln1."), ("feed_forward.", "ln2."))[place % 2]
        for name, value in theirs.items():
            for prefix, own in ((block + mixer, "mixer."), (block + norm, "norm.norm.")):
                if name.startswith(prefix):
                    ours[f"stack.blocks.{place}.{own}{name.removeprefix(prefix)}"] = value
    model.load_state_dict(ours)
    return model.eval()


@torch.no_grad()
def test_the_language_model_equals_hugging_faces_whole_and_in_pieces() -> None:
    peer = hugging_face(3)
    model = from_hugging_face(peer, 3)
    tokens = torch.randint(11, (B, T), generator=torch.Generator().manual_seed(6))
    whole = peer(tokens, use_cache=True)
    ours, _ = model(tokens)
    scale = float(whole.logits.abs().max())
    assert float((ours - whole.logits).abs().max()) < 1e-5 * scale
    state, their_state, outputs, theirs = None, None, [], []
    for piece in (slice(0, 7), slice(7, 9), slice(9, T)):  # a single step of several rows mixes them up in theirs
        logits, state = model(tokens[:, piece], state)
        found = peer(tokens[:, piece], state=their_state, use_cache=True)
        their_state = found.state
        outputs.append(logits)
        theirs.append(found.logits)
    assert float((torch.cat(outputs, 1) - torch.cat(theirs, 1)).abs().max()) < 1e-5 * scale
    assert float((torch.cat(outputs, 1) - ours).abs().max()) < 1e-5 * scale
    their_x, their_num, their_den, their_m = (their_state[i] for i in (1, 2, 3, 4))
    for layer in range(3):
        mine = state[2 * layer]
        scale_m = torch.exp(mine.m - their_m[:, :, layer])
        for a, b in (
            (mine.x, their_x),
            (mine.num * scale_m, their_num),
            (mine.den * scale_m, their_den),
        ):
            assert_close(a, b[:, :, layer], torch.float32, "state")


def test_the_initialisation_is_that_of_the_published_code() -> None:
    d, depth, layer = 64, 5, 3
    rho, tau = layer / (depth - 1), 1 - layer / depth
    mix = RWKV4(d, layer=layer, n_layers=depth).requires_grad_(False)
    channel = RWKV4ChannelMix(d, layer=layer, n_layers=depth).requires_grad_(False)
    for i in (0, 1, 17, d - 1):
        assert float(mix.time_decay[i]) == pytest.approx(-5 + 8 * (i / (d - 1)) ** (0.7 + 1.3 * rho), rel=1e-5)
        assert float(mix.time_first[i]) == pytest.approx(math.log(0.3) + (-0.5, 0, 0.5)[(i + 1) % 3], rel=1e-5)
        assert float(mix.time_mix_key[0, 0, i]) == pytest.approx((i / d) ** tau, rel=1e-5)
        assert float(mix.time_mix_value[0, 0, i]) == pytest.approx((i / d) ** tau + 0.3 * rho, rel=1e-5)
        assert float(mix.time_mix_receptance[0, 0, i]) == pytest.approx((i / d) ** (tau / 2), rel=1e-5)
        for part in (channel.time_mix_key, channel.time_mix_receptance):
            assert float(part[0, 0, i]) == pytest.approx((i / d) ** tau, rel=1e-5)
    wide = channel.key.weight  # (4 d, d): orthogonal columns of norm sqrt(4)
    assert_close(wide.T @ wide, 4 * torch.eye(d), torch.float32, "W_k")
    for weight in (mix.key.weight, mix.value.weight, mix.receptance.weight, mix.output.weight):
        assert_close(weight @ weight.T, torch.eye(d), torch.float32, "orthogonal")


def test_a_stack_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    stack, x = rwkv4(D, 2), inputs(torch.float32)
    assert torch.equal(stack(x)[0], x)
    (stack(x)[0] * torch.randn_like(x)).sum().backward()
    trained = [
        block.mixer.output.weight if place % 2 == 0 else block.mixer.value.weight
        for place, block in enumerate(stack.blocks)
    ]
    assert all(bool((weight.grad != 0).any()) for weight in trained)
    assert not torch.equal(rwkv4(D, 2, zero_init=False)(x)[0], x)


def test_an_average_stays_between_its_values() -> None:
    layer, x = RWKV4(D), 30 * inputs(torch.float32, 500)
    with torch.no_grad():
        layer.receptance.weight.zero_()
        layer.output.weight.copy_(2 * torch.eye(D))  # y = wkv
        y, _ = layer(x)
        v = layer.value(torch.lerp(shifted(x, torch.zeros(B, D)), x, layer.time_mix_value))
    highest, lowest = v.cummax(1).values, v.cummin(1).values
    slack = 1e-5 * float(v.abs().max())
    assert bool((y <= highest + slack).all())
    assert bool((y >= lowest - slack).all())


def test_a_step_needs_no_registered_operator() -> None:
    layer = RWKV4(D)
    state = layer.initial_state(B)
    exported = torch.export.export(_Step(layer), (torch.randn(B, D), *state))
    assert not [node for node in exported.graph.nodes if "resurge" in str(node.target)]


class _Step(nn.Module):
    def __init__(self, layer: RWKV4) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        y, after = self.layer.step(x, type(self.layer.initial_state(1))(*state))
        return y, *after


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RWKV4(4, layer=2, n_layers=2), r"layer must lie in \[0, n_layers\) = \[0, 2\), and is 2"),
        (lambda: RWKV4ChannelMix(4, layer=-1), r"layer must lie in \[0, n_layers\)"),
        (lambda: RWKV4(4, n_layers=0), "n_layers must be at least 1, and is 0"),
        (lambda: RWKV4ChannelMix(4, 0), "expand must be at least 1, and is 0"),
    ],
)
def test_options_out_of_range_are_named(make: object, message: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=message):
        make()
