"""Laws of the short convolution: every backend against the definition, forward and all gradients."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_counts import same_on_any_threads
from tolerances import assert_close
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import resurge
from resurge.ops import short_conv
from resurge.ops.launch import table

BACKENDS = ["numba", "torch"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of Triton; without a GPU, in its interpreter
NAMES = ("y", "new_state", "dx", "dweight", "dbias", "dstate")


class Case(NamedTuple):
    """The arguments of one call."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    state: Tensor
    reset: Tensor | None


def make_case(
    seed: int, B: int, T: int, D: int, K: int, resets: float = 0.0, dtype: torch.dtype = torch.float64
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias, state = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in [(B, T, D), (D, K), (D,), (B, K - 1, D)]
    )
    return Case(x, weight, bias, state, torch.rand(B, T, generator=generator) < resets if resets else None)


def cases(steps: list[int], channels: list[int], dtype: torch.dtype = torch.float64) -> st.SearchStrategy[Case]:
    return st.builds(
        make_case,
        seed=st.integers(0, 10**6),
        B=st.integers(1, 3),
        T=st.one_of(st.integers(1, 9), st.sampled_from(steps)),
        D=st.sampled_from(channels),
        K=st.integers(2, 8),
        resets=st.sampled_from([0.0, 0.02, 0.5]),
        dtype=st.just(dtype),
    )


MANY = cases([31, 64, 130, 300], [1, 2, 3, 17, 40, 1030])


def loss_of(*outputs: Tensor) -> Tensor:
    """A loss in which every number has a weight of its own, the same ones in every precision."""
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in outputs]
    return sum((v.double() * w.to(v.device)).sum() for v, w in zip(outputs, weights, strict=True))  # type: ignore[return-value]


def run(case: Case, backend: str) -> list[Tensor]:
    """The outputs and the gradients to x, weight, bias and state on one backend."""
    device = DEVICE if backend == "triton" else "cpu"
    arguments = [v.detach().clone().to(device).requires_grad_() for v in case[:4]]
    reset = None if case.reset is None else case.reset.to(device)
    with resurge.backend(backend):
        outputs = short_conv(*arguments, reset=reset)
        return [v.cpu() for v in (*outputs, *torch.autograd.grad(loss_of(*outputs), arguments))]


def brute_force(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Each output as a sum over every step there is, in numpy, by where the step and the resets lie."""
    x, weight, bias, state = (v.numpy() for v in case[:4])
    (B, T, _), K = x.shape, weight.shape[1]
    inputs = np.concatenate([state, x], 1)
    y, last = np.tile(bias, (B, T, 1)), np.zeros_like(state)
    for b in range(B):
        resets = [] if case.reset is None else np.flatnonzero(case.reset[b]).tolist()
        for s in range(-(K - 1), T):
            entering = inputs[b, s + K - 1]
            for t in range(max(s, 0), T):
                if t - s < K and not any(s < r <= t for r in resets):
                    y[b, t] += weight[:, K - 1 - (t - s)] * entering
            if s > T - K and not any(s < r for r in resets):
                last[b, s - (T - K + 1)] = entering
    return y, last


@given(cases([20], [1, 3]))
def test_reference_is_the_definition(case: Case) -> None:
    with resurge.backend("reference"):
        outputs = short_conv(*case[:4], reset=case.reset)
    for name, actual, expected in zip(NAMES, outputs, brute_force(case), strict=False):
        assert_close(actual, torch.from_numpy(expected), torch.float64, name)


@pytest.mark.parametrize("K", range(2, 9))
@pytest.mark.parametrize("T", [1, 5, 40])
def test_it_equals_torchs_convolution(K: int, T: int) -> None:
    torch.manual_seed(K)
    peer = torch.nn.Conv1d(6, 6, K, groups=6, padding=K - 1).double()
    x = torch.randn(2, T, 6, dtype=torch.float64)
    y, _ = short_conv(x, peer.weight[:, 0], peer.bias)
    assert_close(y, peer(x.mT)[..., :T].mT, torch.float64, "y")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(case=MANY)
def test_backends_agree_with_the_reference(backend: str, case: Case) -> None:
    for name, actual, expected in zip(NAMES, run(case, backend), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, f"{backend}: {name}")


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and blocks so small that a few steps make several of them."""
    monkeypatch.setitem(table()["short_conv_forward"], "STEPS", 6)
    monkeypatch.setitem(table()["short_conv_backward"], "STEPS", 5)
    for kernel in ("short_conv_forward", "short_conv_backward"):
        monkeypatch.setitem(table()[kernel], "BLOCK_D", 4)


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize(
    ("T", "D", "K", "resets"), [(1, 1, 2, 0.0), (2, 3, 4, 0.5), (5, 5, 4, 0.0), (13, 3, 4, 0.2), (11, 2, 8, 0.1)]
)
def test_triton_agrees_with_the_reference(T: int, D: int, K: int, resets: float) -> None:
    case = make_case(T, 2, T, D, K, resets)
    for name, actual, expected in zip(NAMES, run(case, "triton"), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@settings(max_examples=40)
@given(case=MANY)
def test_triton_agrees_with_the_reference_on_a_gpu(case: Case) -> None:
    for name, actual, expected in zip(NAMES, run(case, "triton"), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, name)


@pytest.mark.parametrize("backend", ["triton", *BACKENDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_keeps_a_float32_state(backend: str, dtype: torch.dtype) -> None:
    case = make_case(3, 2, 9, 5, 4)
    narrow = Case(case.x.to(dtype), case.weight.float(), case.bias.float(), case.state.float(), None)
    wide = Case(narrow.x.double(), narrow.weight.double(), narrow.bias.double(), narrow.state.double(), None)
    results = run(narrow, backend)
    assert results[0].dtype == results[2].dtype == dtype
    assert results[1].dtype == results[5].dtype == torch.float32
    for name, actual, expected in zip(NAMES, results, run(wide, "reference"), strict=True):
        assert_close(actual, expected, dtype, name)
    assert_close(results[1], run(wide, "reference")[1], torch.float64, "the state is exact")


@given(case=cases([64, 300], [1, 17, 40], torch.float32))
def test_float32_is_near_the_float64_reference(case: Case) -> None:
    wide = case._replace(**{name: getattr(case, name).double() for name in ("x", "weight", "bias", "state")})
    for name, actual, expected in zip(NAMES, run(case, "numba"), run(wide, "reference"), strict=True):
        assert_close(actual, expected, torch.float32, name)


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=MANY, cuts=st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_any_split_equals_the_whole(backend: str, case: Case, cuts: list[float]) -> None:
    T = case.x.shape[1]
    borders = sorted({0, T, *(min(T, max(1, int(cut * min(T, 12)))) for cut in cuts)})  # most pieces below the width
    x, weight, bias, state = arguments = [v.clone().requires_grad_() for v in case[:4]]
    outputs = []
    with resurge.backend(backend):
        for start, stop in pairwise(borders):
            reset = None if case.reset is None else case.reset[:, start:stop]
            y, state = short_conv(x[:, start:stop], weight, bias, state, reset=reset)
            outputs.append(y)
    joined = torch.cat(outputs, 1)
    pieces = [joined, state, *torch.autograd.grad(loss_of(joined, state), arguments)]
    for name, actual, expected in zip(NAMES, pieces, run(case, backend), strict=True):
        assert_close(actual, expected, torch.float64, name)


def test_no_state_and_no_bias_are_zeros() -> None:
    x, weight, *_ = make_case(0, 2, 7, 3, 4)
    y, state = short_conv(x, weight)
    expected = short_conv(x, weight, torch.zeros(3).double(), torch.zeros(2, 3, 3).double())
    assert torch.equal(y, expected[0])
    assert torch.equal(state, expected[1])


def test_a_reset_equals_a_call_of_its_own_and_shows_in_the_state() -> None:
    x, weight, bias, state, _ = make_case(1, 1, 9, 3, 4)
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, 7] = True
    y, last = short_conv(x, weight, bias, state, reset=reset)
    alone, last_alone = short_conv(x[:, 7:], weight, bias)
    assert torch.equal(y[:, 7:], alone)
    assert torch.equal(last, last_alone)
    assert torch.equal(last[0], torch.cat([torch.zeros(1, 3).double(), x[0, 7:]]))


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_reset_keeps_infinities_out(backend: str) -> None:
    x, weight, bias, state, _ = make_case(2, 1, 6, 3, 3)
    x[:, :3] = torch.inf
    x.requires_grad_()
    reset = torch.zeros(1, 6, dtype=torch.bool)
    reset[0, 3] = True
    with resurge.backend(backend):
        y, _ = short_conv(x, weight, bias, state, reset=reset)
    expected, _ = short_conv(x[:, 3:], weight, bias)
    assert_close(y[:, 3:], expected, torch.float64, "y")
    (dx,) = torch.autograd.grad(y[:, 3:].sum(), x)
    assert bool((dx[:, :3] == 0).all())
    assert bool((dx[:, 3:] != 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("K", [2, 4, 5])
def test_gradcheck(backend: str, K: int) -> None:
    case = make_case(3, 2, 5, 2, K, 0.2)
    arguments = [v.clone().requires_grad_() for v in case[:4]]

    def function(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return short_conv(*arguments, reset=case.reset)

    with resurge.backend(backend):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize("backend", ["triton", *BACKENDS])
@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_of_one_output_alone(backend: str, which: int) -> None:
    case = make_case(5, 2, 2, 3, 4)  # so short that inputs of the state are still in the next one
    results = []
    for name in (backend, "reference"):
        x, state = (v.clone().to(DEVICE if name == "triton" else "cpu").requires_grad_() for v in (case.x, case.state))
        with resurge.backend(name):
            output = short_conv(x, case.weight.to(x), case.bias.to(x), state)[which]
        results.append([v.cpu() for v in torch.autograd.grad(loss_of(output), (x, state))])
    for name, actual, expected in zip(("dx", "dstate"), *results, strict=True):
        assert_close(actual, expected, torch.float64, name)


def test_rows_and_threads_change_no_bit() -> None:
    case = make_case(1, 3, 700, 64, 4, 0.01, torch.float32)
    result = same_on_any_threads(lambda: run(case, "numba"))
    assert case.reset is not None
    row = slice(1, 2)
    alone = short_conv(case.x[row], case.weight, case.bias, case.state[row], reset=case.reset[row])
    assert torch.equal(alone[0], result[0][row])
    assert torch.equal(alone[1], result[1][row])


def test_inputs_of_any_layout() -> None:
    x = torch.randn(5, 4, 3, dtype=torch.float64).transpose(0, 2).requires_grad_()
    weight = torch.randn(4, dtype=torch.float64).expand(5, 4).requires_grad_()
    state = torch.randn(1, 3, 5, dtype=torch.float64).expand(3, 3, 5).requires_grad_()
    bias = torch.randn(1, dtype=torch.float64).expand(5).requires_grad_()
    results = []
    for arguments in ((x, weight, bias, state), tuple(v.contiguous() for v in (x, weight, bias, state))):
        outputs = short_conv(*arguments)
        gradients = torch.autograd.grad(outputs[0].mT.exp().sum() + outputs[1].sum(), (x, weight, bias, state))
        results.append([*outputs, *gradients])
    assert all(torch.equal(u, v) for u, v in zip(*results, strict=True))


@pytest.mark.parametrize("value", [1e30, 1e-42, 0.0])
def test_extreme_inputs_stay_finite(value: float) -> None:
    x = torch.full((1, 300, 4), value, requires_grad=True)
    weight = torch.tensor([[0.0, 1.0], [1e-30, 1e-3], [0.5, 0.5], [-1e7, 1e7]], requires_grad=True)
    y, last = short_conv(x, weight)
    gradients = torch.autograd.grad(y.sum() / 1e30 + last.sum() / 1e30, (x, weight))
    assert all(bool(torch.isfinite(v).all()) for v in (y, last, *gradients))
    assert y[0, 1:, 2].tolist() == pytest.approx([value] * 299)


def test_weight_gradients_keep_their_digits_over_long_sums() -> None:
    x = torch.rand(1, 200_000, 4)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        weight = torch.full((4, 4), 0.1).to(dtype).requires_grad_()
        short_conv(x.to(dtype), weight)[0].sum().backward()
        assert weight.grad is not None
        gradients.append(weight.grad.double())
    assert float(((gradients[0] - gradients[1]) / gradients[1]).abs().max()) < 1e-6


@pytest.mark.parametrize("with_reset", [False, True])
def test_the_registered_operator_is_sound(with_reset: bool) -> None:
    case = make_case(0, 2, 5, 3, 4, 0.3 if with_reset else 0.0, torch.float32)
    arguments = [v.requires_grad_() for v in case[:4]]
    torch.library.opcheck(torch.ops.resurge.short_conv.default, (*arguments, case.reset))


def test_compiled_exported_and_checkpointed_it_is_the_same() -> None:
    case = make_case(0, 2, 9, 3, 4, 0.2)
    expected = run(case, "numba")

    class Module(torch.nn.Module):
        def forward(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
            return short_conv(*arguments, reset=case.reset)

    torch._dynamo.reset()
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    exported = torch.export.export(Module(), tuple(case[:4])).module()
    for way in (compiled, exported, lambda *v: checkpoint(Module(), *v, use_reentrant=False)):
        arguments = [v.clone().requires_grad_() for v in case[:4]]
        outputs = way(*arguments)
        results = [*outputs, *torch.autograd.grad(loss_of(*outputs), arguments)]
        for name, actual, value in zip(NAMES, results, expected, strict=True):
            assert_close(actual, value, torch.float64, name)


@pytest.mark.filterwarnings("ignore:resurge:UserWarning")
def test_vmap_and_forward_mode_take_the_composable_form() -> None:
    cases = [make_case(seed, 2, 6, 3, 4) for seed in range(3)]
    x, weight = torch.stack([case.x for case in cases]), torch.stack([case.weight for case in cases])
    mapped = torch.func.vmap(lambda x, w: short_conv(x, w)[0])(x, weight)
    for i, case in enumerate(cases):
        assert_close(mapped[i], short_conv(case.x, case.weight)[0], torch.float64, "vmap")
    tangent = torch.randn_like(x[0])
    _, derivative = torch.func.jvp(lambda x: short_conv(x, weight[0])[0], (x[0],), (tangent,))
    assert_close(derivative, short_conv(tangent, weight[0])[0], torch.float64, "jvp")  # linear in x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 0, 3)}, r"T, D >= 1, and has \(2, 0, 3\)"),
        ({"x": torch.zeros(2, 3)}, "x must have shape"),
        ({"weight": torch.zeros(3, 9)}, r"D = 3 and K from 2 to 8, and has \(3, 9\)"),
        ({"weight": torch.zeros(4, 4)}, r"weight must have shape .* and has \(4, 4\)"),
        ({"bias": torch.zeros(4)}, r"bias must have shape \(D,\) = \(3,\), and has \(4,\)"),
        ({"state": torch.zeros(2, 4, 3)}, r"state must have shape \(B, K-1, D\) = \(2, 3, 3\), and has \(2, 4, 3\)"),
        ({"reset": torch.zeros(2, 5)}, "reset must be bool"),
        ({"reset": torch.zeros(2, 4, dtype=torch.bool)}, r"\(B, T\) = \(2, 5\), and is torch.bool of \(2, 4\)"),
        ({"x": torch.zeros(2, 5, 3, dtype=torch.int64)}, "x must be floating point, and is torch.int64"),
        ({"state": torch.zeros(2, 3, 3, device="meta")}, "state is on meta, and x is on cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    arguments = {"x": torch.zeros(2, 5, 3), "weight": torch.zeros(3, 4), **change}
    with pytest.raises(resurge.ResurgeError, match=message):
        short_conv(**arguments)
