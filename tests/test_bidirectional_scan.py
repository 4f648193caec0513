"""Laws of the scan in both directions: every backend, every shape of the coefficients, results and gradients."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from thread_counts import same_on_any_threads, threads
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge.dispatch import BACKENDS
from resurge.ops import bidirectional_scan, bidirectional_scan_pairs, diagonal_scan

FAST = [name for name in BACKENDS if name not in ("reference", "triton")]
DEVICE = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}  # without a GPU, in Triton's interpreter
NAMES = ("ahead", "back", "da", "dx")


class Case(NamedTuple):
    """The arguments of one call."""

    a: Tensor
    x: Tensor
    reset: Tensor | None


def make_case(
    seed: int, B: int, T: int, D: int, *, kind: str, is_complex: bool, resets: float, dtype: torch.dtype = torch.float64
) -> Case:
    """Random arguments; `kind` names the axes of the coefficients."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"d": (D,), "td": (T, D), "btd": (B, T, D), "b1d": (B, 1, D)}[kind]
    a = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    x = torch.randn(B, T, D, generator=generator, dtype=torch.float64)
    if is_complex:
        phase = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)
        a, x = torch.polar(a.abs(), phase), torch.complex(x, torch.randn(x.shape, generator=generator).double())
        dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return Case(a.to(dtype), x.to(dtype), torch.rand(B, T, generator=generator) < resets if resets else None)


@st.composite
def cases(draw: st.DrawFn, *, max_steps: int = 97, max_rows: int = 4) -> Case:
    lengths = [T for T in (7, 16, 17, 31, 64, 65, 97) if max_steps >= T]
    return make_case(
        draw(st.integers(0, 10**6)),
        draw(st.integers(1, max_rows)),
        draw(st.one_of(st.integers(1, 5), st.sampled_from(lengths))),
        draw(st.sampled_from([1, 2, 3, 16, 17])),
        kind=draw(st.sampled_from(["d", "td", "btd", "b1d"])),
        is_complex=draw(st.booleans()),
        resets=draw(st.sampled_from([0.0, 0.1, 0.6])),
    )


def weighted(*outputs: Tensor) -> Tensor:
    """A real loss in which every state has a weight of its own, the same ones in every precision."""
    generator = torch.Generator().manual_seed(99)
    terms = []
    for v in outputs:
        wide = torch.complex128 if v.is_complex() else torch.float64
        terms.append((v * torch.randn(v.shape, generator=generator, dtype=wide).to(v)).sum())
    return sum(term.real if term.is_complex() else term for term in terms)  # type: ignore[return-value]


def run(case: Case, backend: str) -> list[Tensor]:
    """[ahead, back, da, dx] on one backend, for fixed random weights of the outputs."""
    device = DEVICE.get(backend, "cpu")
    a, x = (v.detach().clone().to(device).requires_grad_() for v in (case.a, case.x))
    with resurge.backend(backend):
        outputs = bidirectional_scan(a, x, reset=None if case.reset is None else case.reset.to(device))
        gradients = torch.autograd.grad(weighted(*outputs), (a, x))
    return [v.cpu() for v in (*outputs, *gradients)]


def brute_force(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Both results as explicit sums of products of coefficients, in numpy: no recurrence anywhere."""
    x = case.x.numpy()
    B, T, D = x.shape
    a = np.broadcast_to(case.a.numpy(), (B, T, D))
    reset = np.zeros((B, T), bool) if case.reset is None else case.reset.numpy()
    ahead, back = np.zeros_like(x), np.zeros_like(x)
    for b in range(B):
        for t in range(T):
            for s in range(T):
                first, last = min(s, t), max(s, t)
                if reset[b, first + 1 : last + 1].any():
                    continue
                if s <= t:
                    ahead[b, t] += a[b, s + 1 : t + 1].prod(0) * x[b, s]
                if s >= t:
                    back[b, t] += a[b, t:s].prod(0) * x[b, s]
    return ahead, back


@settings(max_examples=15)
@given(cases(max_steps=31))
def test_reference_is_the_definition(case: Case) -> None:
    with resurge.backend("reference"):
        outputs = bidirectional_scan(case.a, case.x, reset=case.reset)
    for name, actual, expected in zip(NAMES, outputs, brute_force(case), strict=False):
        assert_close(actual, torch.from_numpy(expected), torch.float64, name)


@pytest.mark.parametrize("backend", FAST)
@given(case=cases())
def test_backends_agree_with_the_reference(backend: str, case: Case) -> None:
    for name, actual, expected in zip(NAMES, run(case, backend), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, f"{backend}: {name}")


@settings(max_examples=8, phases=[Phase.generate])  # shrinking takes minutes in the interpreter
@given(case=cases(max_steps=17, max_rows=2))
def test_triton_agrees_with_the_reference(case: Case) -> None:
    for name, actual, expected in zip(NAMES, run(case, "triton"), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, name)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["d", "btd"])
def test_triton_cuts_time_in_pieces(is_complex: bool, kind: str) -> None:
    case = make_case(1, 1, 17, 3, kind=kind, is_complex=is_complex, resets=0.1)
    from resurge.ops.launch import recording

    with recording() as launches:
        run(case, "triton")
    assert {launch.kernel.fn.__name__ for launch in launches} == {
        "bidirectional_summary",
        "bidirectional_forward",
        "bidirectional_backward",
        "diagonal_forward",
    }
    for name, actual, expected in zip(NAMES, run(case, "triton"), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("backend", ["triton", *FAST])
def test_every_precision(backend: str, dtype: torch.dtype, is_complex: bool) -> None:
    row = (2, 5) if is_complex else (5,)
    scan = bidirectional_scan_pairs if is_complex else bidirectional_scan
    results = []
    for name, kind in ((backend, dtype), ("reference", torch.float64)):
        generator = torch.Generator().manual_seed(1)
        a, x = (0.5 * torch.randn(2, 9, *row, generator=generator).to(dtype) for _ in range(2))
        a, x = (v.to(DEVICE.get(name, "cpu"), kind).requires_grad_() for v in (a, x))
        with resurge.backend(name):
            outputs = scan(a, x)
            results.append([*outputs, *torch.autograd.grad(weighted(*outputs), (a, x))])
    assert all(v.dtype == dtype for v in results[0])
    for name, actual, expected in zip(NAMES, *results, strict=True):
        assert_close(actual.cpu(), expected, dtype, name)


@pytest.mark.parametrize("backend", FAST)
@given(case=cases())
def test_it_equals_two_scans(backend: str, case: Case) -> None:
    with resurge.backend(backend):
        outputs = bidirectional_scan(case.a, case.x, reset=case.reset)
        alone = [diagonal_scan(case.a, case.x, reset=case.reset, reverse=reverse)[0] for reverse in (False, True)]
    assert all(torch.equal(both, one) for both, one in zip(outputs, alone, strict=True))


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["d", "btd"])
def test_rows_and_threads_change_no_bit(is_complex: bool, kind: str) -> None:
    case = make_case(1, 3, 400, 64, kind=kind, is_complex=is_complex, resets=0.01, dtype=torch.float32)
    result = same_on_any_threads(lambda: run(case, "numba"))
    assert case.reset is not None
    row = slice(1, 2)
    ahead, back, _, dx = run(Case(case.a if kind == "d" else case.a[row], case.x[row], case.reset[row]), "numba")
    assert torch.equal(ahead, result[0][row])
    assert torch.equal(back, result[1][row])
    assert dx.shape == (1, 400, 64)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["d", "btd"])
def test_long_rows_are_cut_in_pieces_for_the_threads(is_complex: bool, kind: str) -> None:
    case = make_case(4, 1, 8200, 3, kind=kind, is_complex=is_complex, resets=0.0005)
    case = case._replace(a=case.a / case.a.abs() * (0.9995 + 0.0005 * case.a.abs()))  # long memories
    results = []
    for count in (1, 3):
        with threads(count):
            results.append(run(case, "numba"))
    for name, whole, pieces in zip(NAMES, *results, strict=True):
        assert_close(pieces, whole, torch.float64, name)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["d", "td", "btd", "b1d"])
def test_gradcheck(backend: str, is_complex: bool, kind: str) -> None:
    case = make_case(3, 2, 5, 3, kind=kind, is_complex=is_complex, resets=0.2)
    arguments = [v.clone().requires_grad_() for v in (case.a, case.x)]

    def function(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return bidirectional_scan(a, x, reset=case.reset)

    with resurge.backend(backend):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


def test_the_gradient_of_one_way_alone() -> None:
    case = make_case(5, 2, 9, 4, kind="d", is_complex=True, resets=0.2)
    for which in (0, 1):
        found = []
        for backend in ("numba", "reference"):
            a, x = (v.clone().requires_grad_() for v in (case.a, case.x))
            with resurge.backend(backend):
                output = bidirectional_scan(a, x, reset=case.reset)[which]
                found.append(torch.autograd.grad(weighted(output), (a, x)))
        for name, actual, expected in zip(NAMES[2:], *found, strict=True):
            assert_close(actual, expected, torch.float64, name)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy, in the interpreter, on inf
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_passes_a_reset(backend: str) -> None:
    device = DEVICE.get(backend, "cpu")
    a, x = torch.full((2,), 0.5, device=device), torch.ones(1, 12, 2, device=device)
    x[:, [1, 9]] = math.inf
    reset = torch.zeros(1, 12, dtype=torch.bool, device=device)
    reset[:, [4, 8]] = True
    with resurge.backend(backend):
        outputs = bidirectional_scan(a, x, reset=reset)
        alone = bidirectional_scan(a, x[:, 4:8])
    for both, one in zip(outputs, alone, strict=True):
        assert torch.equal(both[:, 4:8], one)


def test_inputs_of_any_layout() -> None:
    x = torch.randn(5, 4, 3, dtype=torch.float64).transpose(0, 2)
    a = torch.rand(5, dtype=torch.float64).expand(4, 5)
    outputs = bidirectional_scan(a, x)
    expected = bidirectional_scan(a.contiguous(), x.contiguous())
    assert all(torch.equal(u, v) for u, v in zip(outputs, expected, strict=True))


@pytest.mark.parametrize("value", [1e30, 1e-42, 0.0])
def test_extreme_inputs_stay_finite(value: float) -> None:
    x = torch.full((1, 1000, 4), value, requires_grad=True)
    a = torch.tensor([0.0, 0.5, 1e-30, 0.99], requires_grad=True)
    outputs = bidirectional_scan(a, x)
    gradients = torch.autograd.grad(sum(v.sum() for v in outputs) / 1e30, (a, x))  # type: ignore[arg-type]
    assert all(bool(torch.isfinite(v).all()) for v in (*outputs, *gradients))
    assert float(outputs[1][0, -1, 0].detach()) == pytest.approx(value)


def test_coefficient_gradients_keep_their_digits_over_long_sums() -> None:
    x = torch.rand(1, 200_000, 4)
    found = []
    for dtype in (torch.float32, torch.float64):
        a = torch.tensor([0.1, 0.5, 0.7, 0.9], dtype=torch.float32).to(dtype).requires_grad_()
        ahead, back = bidirectional_scan(a, x.to(dtype))
        found.append(torch.autograd.grad(ahead.sum() + back.sum(), a)[0].double())
    assert float(((found[0] - found[1]) / found[1]).abs().max()) < 1e-6


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("with_reset", [False, True])
def test_the_registered_operator_is_sound(pairs: bool, with_reset: bool) -> None:
    row = (2, 3) if pairs else (3,)
    cuts = [torch.rand(2, 5) < 0.3 if with_reset else None for _ in range(2)]
    a, x = (torch.randn(shape, requires_grad=True) for shape in [(1, 1, *row), (2, 5, *row)])
    torch.library.opcheck(torch.ops.resurge.bidirectional_scan.default, (a, x, *cuts))


def test_compiled_exported_and_checkpointed_it_is_the_same() -> None:
    case = make_case(8, 2, 11, 4, kind="btd", is_complex=False, resets=0)
    wanted = [v.clone().requires_grad_() for v in (case.a, case.x)]

    def loss(a: Tensor, x: Tensor) -> Tensor:
        ahead, back = bidirectional_scan(a, x)
        return (ahead * back.cos()).sum()

    expected = torch.autograd.grad(loss(*wanted), wanted)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    stored = torch.utils.checkpoint.checkpoint(loss, *wanted, use_reentrant=False)
    for other in (compiled(*wanted), stored):
        for name, actual, one in zip(NAMES[2:], torch.autograd.grad(other, wanted), expected, strict=True):
            assert_close(actual, one, torch.float64, name)

    class Scan(torch.nn.Module):
        def forward(self, a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return bidirectional_scan(a, x)

    exported = torch.export.export(Scan(), tuple(wanted)).module()
    for actual, one in zip(exported(*wanted), bidirectional_scan(*wanted), strict=True):
        assert_close(actual, one, torch.float64, "exported")


@pytest.mark.filterwarnings("ignore:resurge:UserWarning")
def test_vmap_and_forward_mode_take_the_composable_form() -> None:
    a, x = torch.rand(4, 3, dtype=torch.float64), torch.randn(4, 2, 6, 3, dtype=torch.float64)
    mapped = torch.func.vmap(bidirectional_scan)(a, x)
    for i in range(4):
        for actual, one in zip(mapped, bidirectional_scan(a[i], x[i]), strict=True):
            assert_close(actual[i], one, torch.float64, "vmap")
    tangent = torch.randn_like(x[0])
    _, derivative = torch.func.jvp(lambda x: bidirectional_scan(a[0], x), (x[0],), (tangent,))
    for actual, one in zip(derivative, bidirectional_scan(a[0], tangent), strict=True):
        assert_close(actual, one, torch.float64, "jvp")  # the scan is linear in x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 0, 3)}, "T, D >= 1, and has \\(2, 0, 3\\)"),
        ({"a": torch.zeros(4)}, "a must have shape .* and has \\(4,\\)"),
        ({"reset": torch.zeros(2, 5)}, "reset must be bool"),
        ({"x": torch.zeros(2, 5, 3, dtype=torch.int64)}, "x must be floating point, and is torch.int64"),
        ({"a": torch.zeros(3, device="meta")}, "a is on meta, and x is on cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    arguments = {"a": torch.zeros(3), "x": torch.zeros(2, 5, 3), "reset": None, **change}
    with pytest.raises(resurge.ResurgeError, match=message):
        bidirectional_scan(arguments["a"], arguments["x"], reset=arguments["reset"])  # type: ignore[arg-type]
