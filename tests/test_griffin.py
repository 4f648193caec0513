"""Griffin's parts against their equations, its stack under the models' laws, RecurrentGemma against Hugging Face's."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import laws
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tolerances import assert_close
from torch import Tensor, nn
from torch.nn.functional import conv1d
from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

import resurge
from resurge.interop import recurrentgemma
from resurge.layers import RGLRU, GemmaHawk, Hawk, LocalAttention
from resurge.models import Blocks, LanguageModel, MixerMLPBlock, ResidualBlock, griffin
from resurge.nn import RMSNorm
from resurge.nn.embedding import ScaledEmbedding, TiedHead
from resurge.nn.gated_mlp import GatedMLP
from resurge.nn.rotary import rotate
from resurge.nn.short_conv import ShortConv
from resurge.state import named_tensors


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def hawk_by_sums(layer: Hawk, x: Tensor, *, first_in_full: bool) -> Tensor:
    """The block of the paper with the recurrence as an explicit sum, and with PyTorch's convolution."""
    T, N = x.shape[1], layer.d_state
    u = conv1d(layer.linear_x(x).mT, layer.conv_1d.weight, layer.conv_1d.bias, padding=layer.width - 1, groups=N)
    u, unit = u[..., :T].mT, layer.rg_lru
    r = torch.sigmoid(u @ torch.block_diag(*unit.recurrent_gate_weight) + unit.recurrent_gate_bias.flatten())
    i = torch.sigmoid(u @ torch.block_diag(*unit.input_gate_weight) + unit.input_gate_bias.flatten())
    a = torch.sigmoid(-unit.recurrent_param) ** (unit.c * r)
    scale = torch.sqrt(1 - a**2)
    if first_in_full:
        scale = torch.cat([torch.ones_like(scale[:, :1]), scale[:, 1:]], 1)
    products = torch.log(a).cumsum(1)
    decay = torch.tril(torch.ones(T, T))[..., None] * torch.exp(products[:, :, None] - products[:, None])
    h = torch.einsum("btsd,bsd->btd", decay, scale * i * u)
    y: Tensor = layer.linear_out(h * gelu(layer.linear_y(x)))
    return y


@pytest.mark.parametrize(("kind", "first_in_full"), [(Hawk, False), (GemmaHawk, True)])
@pytest.mark.parametrize("width", [2, 4, 7])
def test_hawk_equals_the_papers_equations(kind: type[Hawk], first_in_full: bool, width: int) -> None:
    torch.manual_seed(width)
    layer = kind(6, 12, 3, width=width).double()
    for parameter in (layer.conv_1d.weight, layer.conv_1d.bias, layer.linear_x.bias, layer.linear_y.bias):
        nn.init.normal_(parameter)
    x = torch.randn(2, 40, 6, dtype=torch.float64)
    assert_close(layer(x)[0], hawk_by_sums(layer, x, first_in_full=first_in_full), torch.float64, "y")


def test_the_first_step_enters_in_full_wherever_a_document_starts() -> None:
    torch.manual_seed(0)
    layer = GemmaHawk(6, 8).double()
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    reset = torch.zeros(2, 20, dtype=torch.bool)
    reset[0, 7] = reset[1, 8] = True
    y, state = layer(x, reset=reset)
    for b, start in enumerate((7, 8)):
        for piece in (slice(0, start), slice(start, 20)):
            expected = hawk_by_sums(layer, x[b : b + 1, piece], first_in_full=True)
            assert_close(y[b : b + 1, piece], expected, torch.float64, f"row {b}")
    initial = layer.initial_state(2)
    going_on = initial._replace(h=torch.cat([initial.h[:, :-1], torch.ones(2, 1)], 1))  # zeros, but something was seen
    expected = hawk_by_sums(layer, x, first_in_full=False)
    assert_close(layer(x, going_on)[0], expected, torch.float64, "not the first step")
    assert layer.initial_state(3).h[:, -1].tolist() == [0, 0, 0]
    assert state.h[:, -1].tolist() == [1, 1]


def test_hawk_starts_as_published() -> None:
    torch.manual_seed(0)
    layer = Hawk(300, 400, 4, n_layers=10).requires_grad_(False)
    assert float(layer.linear_x.weight.std()) == pytest.approx(300**-0.5, rel=0.02)
    assert float(layer.linear_y.weight.std()) == pytest.approx(300**-0.5, rel=0.02)
    assert float(layer.linear_out.weight.std()) == pytest.approx((2 / (10 * 400)) ** 0.5, rel=0.02)
    assert float(layer.conv_1d.weight.std()) == pytest.approx(0.05, rel=0.05)
    assert float(layer.rg_lru.input_gate_weight.std()) == pytest.approx(0.1, rel=0.02)
    a = torch.exp(-torch.nn.functional.softplus(layer.rg_lru.recurrent_param))
    assert 0.9 - 1e-4 <= float(a.min()) <= float(a.max()) <= 0.999 + 1e-4
    assert all(bool((p == 0).all()) for name, p in layer.named_parameters() if name.endswith("bias"))


def test_the_decay_of_hawk_is_trained_and_kept_as_that_of_rglru() -> None:
    layer = Hawk(8).to(torch.bfloat16)
    assert layer.rg_lru.recurrent_param.dtype == torch.float32
    assert [id(p) for p in layer.param_groups().recurrent] == [id(layer.rg_lru.recurrent_param)]
    assert set(RGLRU(8).state_dict()) == {
        name.removeprefix("rg_lru.") for name in layer.state_dict() if "rg_lru" in name
    }


def attention_by_hand(layer: LocalAttention, x: Tensor, places: Tensor) -> Tensor:
    """Softmax over the window's keys, query by query, places told in full and turned as complex numbers."""
    q = layer.q_proj(x).unflatten(-1, (layer.n_heads, layer.d_head))
    k, v = layer.k_proj(x)[:, :, None], layer.v_proj(x)
    width = layer.d_head // 2
    angle = places[:, None] * 10_000.0 ** (-2 * torch.arange(width // 2).double() / width)
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]

    def turned(z: Tensor) -> Tensor:
        pairs = torch.complex(z[..., : width // 2], z[..., width // 2 : width]) * turn
        return torch.cat([pairs.real, pairs.imag, z[..., width:]], -1)

    q, k = turned(q), turned(k)[:, :, 0]
    heads = []
    for t in range(x.shape[1]):
        seen = slice(max(0, t - layer.window + 1), t + 1)
        scores = torch.einsum("bhd,bsd->bhs", q[:, t], k[:, seen]) / math.sqrt(layer.d_head)
        heads.append(torch.einsum("bhs,bsd->bhd", scores.softmax(-1), v[:, seen]).flatten(1))
    y: Tensor = layer.o_proj(torch.stack(heads, 1))
    return y


@pytest.mark.parametrize("window", [2, 3, 8, 19, 20, 21, 64])
@pytest.mark.parametrize("n_heads", [1, 3])
def test_local_attention_equals_the_papers_equations(window: int, n_heads: int) -> None:
    torch.manual_seed(window)
    layer = LocalAttention(24, n_heads, window=window).double()
    nn.init.normal_(layer.o_proj.bias)
    x = torch.randn(2, 20, 24, dtype=torch.float64)
    places = torch.arange(1000, 1020).double()  # only differences matter
    assert_close(layer(x)[0], attention_by_hand(layer, x, places), torch.float64, "y")


def test_keys_older_than_the_window_are_never_seen() -> None:
    torch.manual_seed(0)
    layer = LocalAttention(8, 2, window=5).double()
    x = torch.randn(1, 30, 8, dtype=torch.float64, requires_grad=True)
    y, state = layer(x)
    for t in (4, 5, 17, 29):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        seen = gradient.abs().sum(-1)[0] > 0
        assert seen.nonzero()[:, 0].tolist() == list(range(max(0, t - 4), t + 1))
    (gradient,) = torch.autograd.grad(state.past.sum(), x)
    assert (gradient.abs().sum(-1)[0] > 0).nonzero()[:, 0].tolist() == [26, 27, 28, 29]


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__.removeprefix("law_"))
def test_laws_of_a_window_shorter_than_the_sequence(law: Callable[[resurge.RecurrentLayer], None]) -> None:
    torch.manual_seed(1)
    law(LocalAttention(8, 2, window=4).double())


@given(data=st.data())
def test_a_window_any_split_and_any_resets(data: st.DataObject) -> None:
    torch.manual_seed(1)
    layer = LocalAttention(8, window=data.draw(st.integers(2, 9))).double()
    length = data.draw(st.one_of(st.integers(2, 40), st.integers(120, 140)))
    borders = tuple(sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=6))))
    reset = torch.tensor(data.draw(st.lists(st.booleans(), min_size=3 * length, max_size=3 * length))).view(3, length)
    reset &= torch.rand(3, length) < 0.3
    x = laws.inputs(layer, length)
    whole, state = layer(x, reset=reset)
    cut, state_cut = laws.pieces(layer, x, None, borders, reset)
    assert_close(cut, whole, torch.float64, "y")
    assert_close(state_cut.past, state.past, torch.float64, "past")
    for b in range(3):
        starts = [0, *(t for t in range(1, length) if reset[b, t])]
        for start, stop in zip(starts, [*starts[1:], length], strict=True):
            row = x[b : b + 1, start:stop]
            expected = attention_by_hand(layer, row, torch.arange(stop - start).double())
            assert_close(whole[b : b + 1, start:stop], expected, torch.float64, f"row {b} from {start}")


def test_local_attention_starts_as_published() -> None:
    torch.manual_seed(0)
    layer = LocalAttention(512, 2, n_layers=9).requires_grad_(False)
    for linear in (layer.q_proj, layer.k_proj, layer.v_proj):
        assert float(linear.weight.std()) == pytest.approx(512**-0.5, rel=0.02)
    assert float(layer.o_proj.weight.std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert not layer.o_proj.bias.any()


def test_products_of_turned_vectors_depend_on_differences_of_places() -> None:
    q, k = torch.randn(2, 1, 12, dtype=torch.float64)
    products = []
    for start in (0.0, 5.0, 1e4):
        places = torch.tensor([start], dtype=torch.float64)
        products.append(float((rotate(q, places, 8) * rotate(k, places + 3, 8)).sum()))
    assert products == pytest.approx([products[0]] * 3, rel=1e-9)
    assert torch.equal(rotate(q, places, 8)[..., 8:], q[..., 8:])


def test_the_gated_mlp_equals_its_equation() -> None:
    torch.manual_seed(0)
    mlp = GatedMLP(6, 18, depth=4).double()
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    W_g, b_g, W_u, b_u, W_d, b_d = mlp.parameters()
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    expected = (gelu(x @ W_g.T + b_g) * (x @ W_u.T + b_u)) @ W_d.T + b_d
    assert_close(mlp(x), expected, torch.float64, "y")
    start = GatedMLP(300, 900, depth=4).requires_grad_(False)
    assert float(start.up_proj.weight.std()) == pytest.approx(300**-0.5, rel=0.02)
    assert float(start.down_proj.weight.std()) == pytest.approx((2 / (4 * 900)) ** 0.5, rel=0.02)


def small_griffin(depth: int = 4) -> LanguageModel:
    torch.manual_seed(0)
    stack = griffin(
        lambda: Hawk(8, 12, 2, n_layers=depth),
        lambda: LocalAttention(8, 2, window=5, n_layers=depth),
        depth,
        dropout=0.2,
    )
    return LanguageModel(11, stack, norm=RMSNorm(8)).double().eval()


def test_every_third_block_attends() -> None:
    kinds = [type(block.mixer).__name__ for block in small_griffin(7).stack.blocks]
    assert kinds == ["Hawk", "Hawk", "LocalAttention"] * 2 + ["Hawk"]
    assert all(type(b.mixer) is Hawk for b in griffin(lambda: Hawk(8), lambda: Hawk(8), 3).blocks)


def test_the_block_is_two_residual_branches() -> None:
    block = small_griffin().stack.blocks[0]
    assert isinstance(block, MixerMLPBlock)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    z = x + block.mixer(x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt())[0]
    expected = z + block.mlp(z / z.square().mean(-1, keepdim=True).add(1e-6).sqrt())
    assert_close(block(x)[0], expected, torch.float64, "y")


@given(data=st.data())
def test_griffin_pieces_lengths_and_documents(data: st.DataObject) -> None:
    model = small_griffin()
    tokens = torch.randint(11, (2, 17))
    reset = torch.rand(2, 17) < data.draw(st.sampled_from([0.0, 0.2]))
    lengths = torch.tensor([17, data.draw(st.integers(1, 17))])
    whole, state = model(tokens, lengths=lengths, reset=reset)
    border = data.draw(st.integers(1, 16))
    first, middle = model(tokens[:, :border], lengths=lengths.clamp(max=border), reset=reset[:, :border])
    second, last = model(tokens[:, border:], middle, lengths=(lengths - border).clamp(min=0), reset=reset[:, border:])
    joined = torch.cat([first, second], 1)
    for b, length in enumerate(lengths.tolist()):
        assert_close(joined[b, :length], whole[b, :length], torch.float64, f"row {b}")
    for (name, a), (_, b) in zip(named_tensors(last), named_tensors(state), strict=True):
        assert_close(a, b, torch.float64, name)


def test_blocks_of_different_widths_are_refused() -> None:
    with pytest.raises(resurge.ResurgeError, match=r"blocks of one d_model.* has those of \[8, 4\]"):
        Blocks([ResidualBlock(Hawk(8)), ResidualBlock(Hawk(4))])
    with pytest.raises(resurge.ResurgeError, match="at least one block"):
        Blocks([])


def gemma(**changes: Any) -> tuple[RecurrentGemmaForCausalLM, dict[str, Any]]:
    """A small model of Hugging Face's, all of its weights random, and its configuration."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 5, "vocab_size": 40, "hidden_size": 32, "intermediate_size": 192, "lru_width": 48,
             "num_attention_heads": 4, "num_key_value_heads": 1, "attention_window_size": 8}  # fmt: skip
    config = RecurrentGemmaConfig(**{**sizes, **changes})
    theirs = RecurrentGemmaForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in theirs.named_parameters():
        parameter.add_(torch.randn_like(parameter) * (0.5 if "conv" in name else 0.2))
    return theirs, config.to_dict()


@pytest.mark.parametrize("pattern", [["recurrent", "recurrent", "attention"], ["recurrent"], ["attention"]])
@pytest.mark.parametrize("steps", [1, 7, 30])
def test_recurrentgemma_equals_hugging_faces(pattern: list[str], steps: int) -> None:
    theirs, config = gemma(block_types=pattern)
    ours = recurrentgemma.from_huggingface(config, theirs.state_dict()).eval()
    tokens = torch.randint(40, (2, steps))
    with torch.no_grad():
        expected = theirs(tokens, use_cache=False).logits
        whole, _ = ours(tokens)
        pieces, state = [], None
        for piece in tokens.split({1: [1], 7: [1, 2, 4], 30: [1, 2, 4, 12, 11]}[steps], 1):
            logits, state = ours(piece, state)
            pieces.append(logits)
    assert float(expected.std()) > 1
    assert float((whole - expected).abs().max()) < 1e-4
    assert float((torch.cat(pieces, 1) - expected).abs().max()) < 1e-4


def test_recurrentgemmas_gradients_equal_hugging_faces() -> None:
    theirs, config = gemma()
    ours = recurrentgemma.from_huggingface(config, theirs.state_dict())
    theirs.requires_grad_(True)
    tokens = torch.randint(40, (2, 12))
    theirs(tokens, use_cache=False).logits.square().mean().backward()
    ours(tokens)[0].square().mean().backward()
    for parameter in ours.parameters():  # so that the weights that go out are the gradients, and norms' are 1 less
        parameter.data = parameter.grad
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, actual in recurrentgemma.to_huggingface(ours).items():
        actual = actual + 1 if name.endswith("_norm.weight") else actual
        expected = gradients[name]
        assert float((actual - expected).norm() / expected.norm()) < 1e-4, name


def test_recurrentgemma_goes_out_as_it_came_in(tmp_path: Path) -> None:
    theirs, config = gemma()
    ours = recurrentgemma.from_huggingface(config, theirs.state_dict())
    assert "embedding.weight" in ours.state_dict()
    assert not [name for name in ours.state_dict() if name.startswith("head")]
    out = recurrentgemma.to_huggingface(ours)
    twin, _ = gemma()
    twin.load_state_dict({**out, "lm_head.weight": out["model.embed_tokens.weight"]})
    tokens = torch.randint(40, (1, 9))
    assert torch.allclose(twin(tokens, use_cache=False).logits, theirs(tokens, use_cache=False).logits, atol=1e-5)
    save_file(out, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        assert torch.allclose(recurrentgemma.load(tmp_path)(tokens)[0], ours(tokens)[0], atol=1e-5)


def test_wrong_weights_and_variants_are_named(tmp_path: Path) -> None:
    theirs, config = gemma()
    weights = theirs.state_dict()
    gate = "model.layers.0.temporal_block.rg_lru.input_gate_bias"
    cases = [
        (config, {k: v for k, v in weights.items() if k != gate}, f"1 weights are missing, '{gate}'"),
        (config, {**weights, "model.layers.9.x": weights[gate]}, "no weight 'model.layers.9.x'"),
        (
            config,
            {**weights, gate: weights[gate][:1]},
            r"input_gate_bias' must have shape \(4, 12\), and has \(1, 12\)",
        ),
        ({**config, "num_key_value_heads": 4}, weights, "'num_key_value_heads' must be 1, and is 4"),
        ({k: v for k, v in config.items() if k != "vocab_size"}, weights, "has no 'vocab_size'"),
    ]
    for changed, given_weights, message in cases:
        with pytest.raises(resurge.ResurgeError, match=message):
            recurrentgemma.from_huggingface(changed, given_weights)
    with pytest.raises(resurge.ResurgeError, match="holds no weights"):
        recurrentgemma.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(resurge.ResurgeError, match="holds no configuration"):
        recurrentgemma.load(tmp_path)


def test_a_tied_head_follows_its_table_through_copies() -> None:
    table = ScaledEmbedding(5, 4, 2.0)
    model = copy.deepcopy(nn.ModuleList([table, TiedHead(table, 30.0)]))
    nn.init.zeros_(model[0].weight)
    assert not model[1](torch.ones(1, 4)).detach().any()
    assert table.weight.detach().any()
    assert len(list(model.parameters())) == len(model.state_dict()) == 1
    logits = TiedHead(table, 3.0)(1e4 * torch.ones(1, 4))
    assert float(logits.detach().abs().max()) <= 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hawk(8, 10, 3), "n_heads must divide d_state = 10, and is 3"),
        (lambda: Hawk(8, 0), "d_state must be at least 1, and is 0"),
        (lambda: Hawk(8, width=9), "width must lie in 2 to 8, and is 9"),
        (lambda: Hawk(8, r_max=1.0), "0 < r_min < r_max < 1"),
        (lambda: ShortConv(8, 1), "width must lie in 2 to 8, and is 1"),
        (lambda: LocalAttention(12, 2), "multiple of 4, and is 12 / 2"),
        (lambda: LocalAttention(8, window=1), "window must be at least 2, and is 1"),
        (lambda: LocalAttention(8, 0), "n_heads must be at least 1, and is 0"),
        (lambda: GatedMLP(8, 0), "d_hidden must be at least 1, and is 0"),
    ],
)
def test_options_out_of_range_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=message):
        make()
