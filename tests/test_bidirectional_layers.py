"""The layers whose recurrence runs in both directions: one system, an output map for each way."""

import copy
from collections.abc import Callable
from itertools import pairwise

import laws
import pytest
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge import Bidirectional, RecurrentLayer, layers
from resurge.models import SequenceClassifier, Stack
from resurge.nn.diagonal import BothWays

NAMES = ["lru", "s5", "diagonalreim", "diagonalexp", "diagonalstableexp"]
B, T, D = 3, 19, 6


def build(name: str) -> BothWays:
    torch.manual_seed(1)
    layer = layers.bidirectional(name, D, d_state=8)
    assert isinstance(layer, BothWays)
    return layer.double()


def two_layers(layer: BothWays, name: str) -> Bidirectional:
    """The same map as two layers of one direction: each with its own half of C, the skip with the first."""
    ways = []
    for way in range(2):
        one = layers.create(name, D, d_state=8).double()
        values = dict(layer.named_parameters())
        for part in ("C_re", "C_im"):
            values[part] = values[part].chunk(2, 1)[way]
        if way:
            values["D"] = torch.zeros_like(values["D"])
        with torch.no_grad():
            for parameter_name, parameter in one.named_parameters():
                parameter.copy_(values[parameter_name])
        ways.append(one)
    return Bidirectional(*ways)


def some_resets() -> Tensor:
    return torch.rand(B, T, generator=torch.Generator().manual_seed(3)) < 0.2


@pytest.mark.parametrize("reset", [None, some_resets()], ids=["whole", "documents"])
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_two_layers_that_share_all_but_the_output_map(name: str, reset: Tensor | None) -> None:
    layer = build(name)
    apart = two_layers(layer, name)
    x = laws.inputs(layer, T, B)
    y, expected = layer(x, reset=reset)[0], apart(x, reset=reset)[0]
    assert_close(y, expected, torch.float64, "y")
    weights = torch.randn_like(y)
    found = torch.autograd.grad((y * weights).sum(), list(layer.parameters()))
    gradients = torch.autograd.grad((expected * weights).sum(), list(apart.parameters()))
    one = {part: gradient for (part, _), gradient in zip(apart.named_parameters(), gradients, strict=True)}
    for (part, _), gradient in zip(layer.named_parameters(), found, strict=True):
        ahead, back = one[f"ahead.{part}"], one[f"back.{part}"]
        if part in ("C_re", "C_im"):
            wanted = torch.cat([ahead, back], 1)
        else:
            wanted = ahead if part == "D" else ahead + back
        assert_close(gradient, wanted, torch.float64, part)


@pytest.mark.parametrize("reset", [None, some_resets()], ids=["whole", "documents"])
def test_uneven_times_are_those_of_two_layers(reset: Tensor | None) -> None:
    layer = build("s5")
    x, dt = laws.inputs(layer, T, B), 0.5 + torch.rand(B, T, dtype=torch.float64)
    y, _ = layer(x, reset=reset, dt=dt)
    assert_close(y, two_layers(layer, "s5")(x, reset=reset, dt=dt)[0], torch.float64, "y")
    even, _ = layer(x, reset=reset, dt=torch.ones_like(dt))
    assert_close(even, layer(x, reset=reset)[0], torch.float64, "dt = 1")


@pytest.mark.parametrize("name", NAMES)
def test_the_flipped_sequence_exchanges_the_ways(name: str) -> None:
    layer = build(name)
    flipped = copy.deepcopy(layer)
    with torch.no_grad():
        for part in ("C_re", "C_im"):
            C = getattr(layer, part)
            getattr(flipped, part).copy_(torch.cat(C.chunk(2, 1)[::-1], 1))
    x = laws.inputs(layer, T, B)
    assert_close(flipped(x.flip(1))[0].flip(1), layer(x)[0], torch.float64, "y")


@pytest.mark.parametrize(
    "law",
    [
        laws.law_no_state_is_the_initial_state,
        laws.law_autocast_keeps_the_state,
        laws.law_a_hundred_thousand_steps_stay_finite,
        laws.law_saved_and_loaded_it_is_the_same,
        laws.law_param_groups_hold_every_parameter_once,
        laws.law_every_parameter_is_initialised_and_used,
    ],
    ids=lambda law: law.__name__.removeprefix("law_"),
)
@pytest.mark.parametrize("name", NAMES)
def test_law(name: str, law: Callable[[RecurrentLayer], None]) -> None:
    law(build(name))


@pytest.mark.parametrize("name", NAMES)
def test_it_sees_the_whole_sequence_and_has_no_state(name: str) -> None:
    layer = build(name)
    x = laws.inputs(layer, T, B).requires_grad_()
    y, end = layer(x)
    (gradient,) = torch.autograd.grad(y[:, T // 2].sum(), x)
    assert bool((gradient != 0).all())
    with pytest.raises(AssertionError, match="depends on the future"):
        laws.law_causal(layer)
    with pytest.raises(resurge.ResurgeError, match="is a BidirectionalEnd"):
        layer(x, end)
    with pytest.raises(resurge.ResurgeError, match="no step"):
        layer.step(x[:, 0], layer.initial_state(B))


@pytest.mark.parametrize("name", NAMES)
def test_documents_are_those_of_separate_calls(name: str) -> None:
    layer = build(name)
    x, reset = laws.inputs(layer, T, B), torch.zeros(B, T, dtype=torch.bool)
    reset[:, [4, 5, 12]] = True
    borders = [0, 4, 5, 12, T]
    apart = [layer(x[:, start:stop])[0] for start, stop in pairwise(borders)]
    assert_close(layer(x, reset=reset)[0], torch.cat(apart, 1), torch.float64, "y")


@pytest.mark.parametrize("name", ["lru", "s5"])
def test_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    stack = Stack(lambda: layers.bidirectional(name, D, d_state=8), 2, norm="layer")
    model = SequenceClassifier(torch.nn.Linear(2, D), stack, 3).double().eval()
    x, lengths = torch.randn(B, T, 2, dtype=torch.float64), torch.tensor([5, T, 1])
    together, _ = model(x, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, _ = model(x[b : b + 1, :length])
        assert_close(together[b : b + 1], alone, torch.float64, f"row {b}")


@pytest.mark.parametrize("name", ["lru", "s5"])
def test_backends_agree(name: str) -> None:
    layer = build(name)
    x = laws.inputs(layer, 7, 2)
    results = {}
    for backend in ("reference", "numba", "torch", "triton"):
        there = copy.deepcopy(layer).to("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")
        with resurge.backend(backend):
            y, _ = there(x.to(there.D.device))
            gradients = torch.autograd.grad((y * y).sum(), list(there.parameters()))
        results[backend] = [v.cpu() for v in (y, *gradients)]
    for backend, found in results.items():
        for actual, expected in zip(found, results["reference"], strict=True):
            assert_close(actual, expected, torch.float64, backend)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_compilation(name: str) -> None:
    half = build(name).to(torch.bfloat16)
    x = laws.inputs(half, T, B).to(torch.bfloat16)
    y, _ = half(x)
    assert y.dtype == torch.bfloat16
    assert all(getattr(half, part).dtype == torch.float32 for part in half.RECURRENT)
    exact, _ = copy.deepcopy(half).double()(x.double())
    assert_close(y, exact, torch.bfloat16, "y")
    layer = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x.double())[0], layer(x.double())[0], torch.float64, "compiled")


def test_output_maps_start_as_the_papers_have_them() -> None:
    torch.manual_seed(0)
    lru, s5 = layers.BidirectionalLRU(200, 300), layers.BidirectionalS5(200, 300)
    assert lru.C_re.shape == (200, 600)
    assert s5.C_re.shape == (200, 300)  # half of the conjugate pairs, twice
    for C in (lru.C_re.detach(), lru.C_im.detach()):
        for way in C.chunk(2, 1):
            assert float(way.var()) == pytest.approx(1 / 300, rel=0.03)
    first, second = lru.C_re.detach().chunk(2, 1)
    assert abs(float((first * second).mean())) < 1e-4  # drawn anew for each way
    for way in range(2):  # C V with C complex of variance 1 / P in each part, V of orthonormal columns
        total = sum(float(part.detach().chunk(2, 1)[way].square().mean()) for part in (s5.C_re, s5.C_im))
        assert total == pytest.approx(2 / 300, rel=0.05)


def test_the_layer_of_both_ways_is_found_by_the_name_of_the_other() -> None:
    assert type(layers.bidirectional("lru", 4)) is layers.BidirectionalLRU
    assert type(layers.bidirectional("s5", 4)) is layers.BidirectionalS5
    assert type(layers.bidirectional("gru", 4)) is Bidirectional
    assert not [name for name in layers.names() if name.startswith("bidirectional")]
    for name in ("lru", "gru"):
        with pytest.raises(resurge.ResurgeError, match=f"unknown option of layer '{name}'"):
            layers.bidirectional(name, 4, d_stat=3)
