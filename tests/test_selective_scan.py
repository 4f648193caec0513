"""Laws of the selective scan: every backend, with and without its options, forward and gradients."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_counts import same_on_any_threads, threads
from tolerances import assert_close
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import resurge
from resurge.dispatch import BACKENDS
from resurge.ops import selective_scan

FAST = ["numba", "torch"]
PLAIN = [name for name in BACKENDS if name != "triton"]
DEVICE = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}  # without a GPU, in Triton's interpreter


class Case(NamedTuple):
    """The arguments of one call, in the order of the op; those that may be absent may be None."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D_skip: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    h0: Tensor | None
    dt: Tensor | None
    reset: Tensor | None

    def to(self, dtype: torch.dtype, device: str = "cpu") -> "Case":
        return Case(*(v if v is None else v.to(device, dtype if v.is_floating_point() else v.dtype) for v in self))


REAL = Case._fields[:-1]


def make_case(
    seed: int, B: int, T: int, D: int, N: int, *, full: bool = True, resets: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Case:  # fmt: skip
    """Random arguments; not `full` ones have only those that must be given."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    A, dt = -torch.exp(normal(D, N)), torch.exp(0.5 * normal(B, T))
    u, delta, z, b, c, skip, bias, h0 = (
        normal(*shape) for shape in [(B, T, D)] * 3 + [(B, T, N)] * 2 + [(D,)] * 2 + [(B, D, N)]
    )
    reset = torch.rand(B, T, generator=generator) < resets if resets else None
    if full:
        return Case(u, delta - 1, A, b, c, skip, z, bias, h0, dt, reset)
    return Case(u, delta - 1, A, b, c, None, None, None, None, None, reset)


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Case:
    return make_case(
        draw(st.integers(0, 10**6)),
        draw(st.integers(1, 3)),
        draw(st.one_of(st.integers(1, 5), st.sampled_from([16, 17, 31, 32, 33, 64, 65, 97]))),
        draw(st.sampled_from([1, 2, 3, 16, 17, 33])),
        draw(st.sampled_from([1, 2, 3, 5, 16])),
        full=draw(st.booleans()),
        resets=draw(st.sampled_from([0.0, 0.1, 0.6])),
        dtype=dtype,
    )


def call(case: Case) -> tuple[Tensor, Tensor]:
    return selective_scan(*case[:9], dt=case.dt, reset=case.reset)


def weighted(y: Tensor, last: Tensor) -> Tensor:
    """A loss in which every output has a weight of its own, the same ones in every precision."""
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in (y, last)]
    return (y * weights[0]).sum() + (last * weights[1]).sum()


def run(case: Case, backend: str, *, last_matters: bool = True) -> dict[str, Tensor]:
    """Outputs and all gradients on one backend."""
    case = case.to(case.u.dtype, DEVICE.get(backend, "cpu"))
    case = Case(*(v.clone().requires_grad_() if v is not None and v.is_floating_point() else v for v in case))
    wanted = {name: v for name, v in case._asdict().items() if name in REAL and v is not None}
    with resurge.backend(backend):
        y, last = call(case)
        gradients = torch.autograd.grad(weighted(y, last if last_matters else last.detach()), list(wanted.values()))
    named = {"y": y, "h_last": last, **{f"d {name}": g for name, g in zip(wanted, gradients, strict=True)}}
    return {name: v.detach().cpu() for name, v in named.items()}


def assert_same(
    actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype = torch.float64, what: str = ""
) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, dtype, f"{what}: {name}")


def brute_force(case: Case) -> tuple[Tensor, Tensor]:
    """Every state as the explicit sum over s <= t of exp(A (Δ_{s+1} + ... + Δ_t)) Δ_s B_s u_s: no recurrence."""
    u, delta, A, b, c, skip, z, bias, h0, dt = (None if v is None else v.numpy() for v in case[:10])
    (B, T, D), N = u.shape, A.shape[1]
    reset = np.zeros((B, T), bool) if case.reset is None else case.reset.numpy()
    step = np.logaddexp(0, delta + (0 if bias is None else bias)) * (1 if dt is None else dt[..., None])
    y, last = np.zeros_like(u), np.zeros((B, D, N))
    for i in range(B):
        for t in range(T):
            h = np.zeros((D, N))
            for s in range(t + 1):
                if not reset[i, s + 1 : t + 1].any():
                    gain = np.exp(A * step[i, s + 1 : t + 1].sum(0)[:, None])
                    h += gain * (step[i, s] * u[i, s])[:, None] * b[i, s]
            if h0 is not None and not reset[i, : t + 1].any():
                h += np.exp(A * step[i, : t + 1].sum(0)[:, None]) * h0[i]
            y[i, t], last[i] = h @ c[i, t], h
    y += 0 if skip is None else skip * u
    y *= 1 if z is None else z / (1 + np.exp(-z))
    return torch.from_numpy(y), torch.from_numpy(last)


@settings(max_examples=15)
@given(cases())
def test_reference_is_the_definition(case: Case) -> None:
    with resurge.backend("reference"):
        y, last = call(case)
    expected_y, expected_last = brute_force(case)
    assert_close(y, expected_y, torch.float64, "y")
    assert_close(last, expected_last, torch.float64, "h_last")


@pytest.mark.parametrize("backend", FAST)
@given(case=cases())
def test_backends_agree_with_the_reference(backend: str, case: Case) -> None:
    assert_same(run(case, backend), run(case, "reference"), what=backend)


@pytest.mark.parametrize(
    ("B", "T", "D", "N", "resets"),
    [
        (2, 5, 3, 2, 0.3),
        (1, 13, 5, 3, 0.0),
        (1, 1, 1, 1, 0.0),
        (2, 16, 2, 1, 0.6),
        (1, 37, 2, 2, 0.0),
        (1, 50, 1, 2, 0.05),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_triton_agrees_with_the_reference(B: int, T: int, D: int, N: int, resets: float, full: bool) -> None:
    case = make_case(T, B, T, D, N, full=full, resets=resets)  # the longest are cut in pieces
    assert_same(run(case, "triton"), run(case, "reference"), what="triton")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter is too slow")
@given(case=cases())
def test_triton_agrees_with_the_reference_on_a_gpu(case: Case) -> None:
    assert_same(run(case, "triton"), run(case, "reference"), what="triton")


@pytest.mark.parametrize("backend", ["numba", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_keeps_a_float32_state(backend: str, dtype: torch.dtype) -> None:
    case = make_case(1, 2, 9, 3, 2).to(dtype)
    narrow = case._replace(A=case.A.float(), h0=case.h0.float() if case.h0 is not None else None)
    results = run(narrow, backend)
    assert results["y"].dtype == dtype
    assert results["h_last"].dtype == torch.float32
    assert_same(results, run(narrow.to(torch.float64), "reference"), dtype, backend)


@pytest.mark.parametrize("backend", PLAIN)
@given(case=cases(torch.float32))
def test_float32_is_near_the_float64_reference(backend: str, case: Case) -> None:
    assert_same(run(case, backend), run(case.to(torch.float64), "reference"), torch.float32, backend)


@pytest.mark.parametrize("small", [1e-4, 1e-2, 1.0])
def test_small_step_sizes_keep_their_digits(small: float) -> None:
    """The softplus of numbers far below 0, and the logarithm of numbers near 1 in it."""
    case = make_case(2, 1, 8, 40, 2, full=False)
    case = case._replace(delta=torch.full_like(case.delta, float(np.log(np.expm1(small)))))
    for backend in ("numba", "triton"):
        results = run(case.to(torch.float32), backend)
        assert_same(results, run(case.to(torch.float32).to(torch.float64), "reference"), torch.float32, backend)


@pytest.mark.parametrize("backend", PLAIN)
@given(case=cases(), cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3))
def test_any_split_equals_the_whole(backend: str, case: Case, cuts: list[float]) -> None:
    T = case.u.shape[1]
    borders = sorted({int(cut * T) for cut in cuts} - {0, T})
    case = Case(*(v.clone().requires_grad_() if v is not None and v.is_floating_point() else v for v in case))
    wanted = {name: v for name, v in case._asdict().items() if name in REAL and v is not None}
    outputs, h = [], case.h0
    with resurge.backend(backend):
        for start, stop in zip([0, *borders], [*borders, T], strict=True):
            rows = {name: getattr(case, name) for name in ("u", "delta", "B", "C", "z", "dt", "reset")}
            part = case._replace(h0=h, **{k: v if v is None else v[:, start:stop] for k, v in rows.items()})
            y, h = call(part)
            outputs.append(y)
        assert h is not None
        joined = torch.cat(outputs, 1)
        gradients = torch.autograd.grad(weighted(joined, h), list(wanted.values()))
    results = {"y": joined, "h_last": h, **{f"d {k}": g for k, g in zip(wanted, gradients, strict=True)}}
    assert_same(results, run(case, backend), what=backend)


@pytest.mark.parametrize("backend", ["numba", "triton", "reference"])
def test_a_reset_keeps_nan_out(backend: str) -> None:
    case = make_case(3, 1, 9, 3, 2, full=False)
    device = DEVICE.get(backend, "cpu")
    u, reset = case.u.clone(), torch.zeros(1, 9, dtype=torch.bool)
    u[:, :4], reset[:, 4] = torch.nan, True
    later = Case(*(v[:, 4:] if v is not None and v.dim() == 3 else v for v in case))
    with resurge.backend(backend):
        y, last = call(case._replace(u=u, reset=reset).to(torch.float64, device))
    with resurge.backend("reference"):
        expected, expected_last = call(later)
    assert_close(y[:, 4:].cpu(), expected, torch.float64, "y")
    assert_close(last.cpu(), expected_last, torch.float64, "h_last")


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("full", [False, True])
def test_gradcheck(backend: str, full: bool) -> None:
    case = make_case(4, 2, 4, 2, 2, full=full, resets=0.2)
    names = [name for name in REAL if getattr(case, name) is not None]
    arguments = [getattr(case, name).requires_grad_() for name in names]

    def function(*values: Tensor) -> tuple[Tensor, Tensor]:
        return call(case._replace(**dict(zip(names, values, strict=True))))

    with resurge.backend(backend):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_the_outputs_alone(backend: str) -> None:
    case = make_case(5, 1, 9, 3, 2, resets=0.1)
    actual, expected = (run(case, name, last_matters=False) for name in (backend, "reference"))
    assert_same(actual, expected, what=backend)


def test_what_is_left_out_is_nothing() -> None:
    case = make_case(6, 2, 40, 3, 2, full=False)
    zeros = {
        "D_skip": torch.zeros(3),
        "delta_bias": torch.zeros(3),
        "h0": torch.zeros(2, 3, 2),
        "dt": torch.ones(2, 40),
    }
    spelt = case._replace(**{name: v.double() for name, v in zeros.items()})
    assert all(torch.equal(a, b) for a, b in zip(call(case), call(spelt), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_carried_in_float32(dtype: torch.dtype) -> None:
    case = make_case(7, 1, 3000, 4, 2, full=False).to(torch.float32)
    case = case._replace(u=case.u.abs(), A=case.A / 1000, B=case.B.abs())  # sums over hundreds of steps
    narrow = case.to(dtype)._replace(A=case.A)
    y, last = call(narrow)
    exact, exact_last = call(narrow.to(torch.float64))
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    assert_close(y, exact, dtype, "y")
    assert_close(last, exact_last, torch.float32, "h_last")  # a state carried in half precision would stall


def test_inputs_of_any_layout() -> None:
    case = make_case(8, 3, 40, 5, 2)
    odd = Case(*(v if v is None else torch.stack([v, v], -1).mT.contiguous().mT[..., 0] for v in case))
    odd = odd._replace(A=case.A.t().contiguous().t(), D_skip=torch.ones(1, dtype=torch.float64).expand(5))
    assert not any(v.is_contiguous() for v in odd if v is not None and v.dim() > 1)
    expected = call(case._replace(D_skip=torch.ones(5, dtype=torch.float64)))
    assert all(torch.equal(a, b) for a, b in zip(call(odd), expected, strict=True))


def test_rows_and_threads_change_no_bit() -> None:
    case = make_case(9, 3, 70, 200, 4, resets=0.02, dtype=torch.float32)
    same_on_any_threads(lambda: list(run(case, "numba").values()))
    whole = run(case, "numba")
    alone = Case(*(v[1:2] if v is not None and len(v) == 3 else v for v in case))
    found = run(alone, "numba")
    for name in ("y", "h_last"):
        assert torch.equal(found[name], whole[name][1:2])


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("resets", [0.0, 0.0005])
def test_few_long_rows_are_cut_in_pieces_for_the_threads(full: bool, resets: float) -> None:
    case = make_case(12, 1, 2700, 5, 3, full=full, resets=resets)
    case = case._replace(delta=case.delta - 6)  # memories longer than a piece
    with threads(1):
        whole = run(case, "numba")
    for count in (2, 3, 5):  # two are pieces for the backward pass alone
        with threads(count):
            found = run(case, "numba")
        assert any(not torch.equal(found[name], value) for name, value in whole.items())  # it was cut
        assert_same(found, whole, what=f"{count} threads")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_output_sees_the_future(backend: str) -> None:
    case = make_case(10, 1, 12, 2, 2).to(torch.float64, DEVICE.get(backend, "cpu"))
    u = case.u.requires_grad_()
    with resurge.backend(backend):
        y, _ = call(case)
        (gradient,) = torch.autograd.grad(y[:, 6].sum(), u)
    assert bool((gradient[:, :7] != 0).all())
    assert bool((gradient[:, 7:] == 0).all())


def test_all_states_are_never_kept() -> None:
    B, T, D, N = 2, 256, 32, 16
    case = make_case(11, B, T, D, N, full=False, dtype=torch.float32)
    sizes: list[int] = []

    def note(v: Tensor) -> Tensor:
        sizes.append(v.numel())
        return v

    case = case._replace(u=case.u.requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(note, lambda v: v):
        call(case)
    kept = B * (T // 32 + 1) * D * N
    assert max(sizes) <= max(kept, B * T * D)
    assert sum(sizes) <= kept + B * T * (2 * D + 2 * N) + 2 * D * N + 2 * D + B * D * N


@pytest.mark.parametrize("value", [1e30, 1e-42, 0.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_inputs_stay_finite(backend: str, value: float) -> None:
    T = 40
    case = make_case(12, 1, T, 3, 2, dtype=torch.float32)
    A = torch.tensor([[-1e4, -1e-4], [-1.0, 0.0], [-1e-30, -1e30]])
    case = case._replace(u=torch.full_like(case.u, value), A=A)
    results = run(case, backend)
    assert all(bool(torch.isfinite(v).all()) for name, v in results.items() if name in ("y", "h_last", "d u"))
    assert_close(results["h_last"], run(case.to(torch.float64), "reference")["h_last"], torch.float32, "h_last")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("delta", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_step_sizes_of_any_size(backend: str, delta: float) -> None:
    case = make_case(13, 1, 9, 3, 2, dtype=torch.float32)
    case = case._replace(delta=torch.full_like(case.delta, delta), z=case.z * delta if case.z is not None else None)
    exact = run(case.to(torch.float64), "reference")
    results = run(case, backend)
    assert all(bool(torch.isfinite(v).all()) for v in results.values())
    assert_close(results["y"], exact["y"], torch.float32, "y")
    assert_close(results["h_last"], exact["h_last"], torch.float32, "h_last")


def test_a_gradient_that_fades_is_zero_in_the_end() -> None:
    case = make_case(14, 1, 2000, 2, 1, full=False, dtype=torch.float32)
    u = case.u.requires_grad_()
    y, _ = call(case._replace(A=torch.full((2, 1), -0.3), delta=torch.zeros(1, 2000, 2)))
    (gradient,) = torch.autograd.grad(y[:, -1].sum(), u)
    sizes = gradient.abs()
    assert float(sizes[:, -400:].min()) > 0
    assert bool((sizes[:, :1000] == 0).all())  # no denormal numbers, which are slow, on the way there
    assert float(sizes[sizes > 0].min()) > 1e-39


def test_gradients_of_parameters_keep_their_digits_over_long_sums() -> None:
    case = make_case(15, 1, 50_000, 3, 2, dtype=torch.float32)
    results = []
    for kind in (case, case.to(torch.float64)):
        named = {name: getattr(kind, name).requires_grad_() for name in ("A", "D_skip", "delta_bias")}
        y, _ = call(kind._replace(**named))
        results.append(torch.autograd.grad(y.square().sum(), list(named.values())))
    for name, narrow, wide in zip(("A", "D_skip", "delta_bias"), *results, strict=True):
        error = float(((narrow - wide) / wide).abs().max())
        assert error < 5e-6, f"d {name}: {error:.1e}"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("T", [5, 40])
def test_the_registered_operator_is_sound(full: bool, T: int) -> None:
    case = make_case(16, 2, T, 3, 2, resets=0.3 if full else 0.0, dtype=torch.float32)
    if not full:
        case = case._replace(z=None, dt=None)
    tensors = [v.requires_grad_() if v is not None and v.is_floating_point() else v for v in case]
    torch.library.opcheck(torch.ops.resurge.selective_scan.default, (*tensors, 32))


def test_compiled_exported_and_checkpointed_it_is_the_same() -> None:
    case = make_case(17, 2, 40, 3, 2, resets=0.1)
    expected = run(case, "numba")

    class Module(torch.nn.Module):
        def forward(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
            return call(Case(*arguments, case.reset))

    torch._dynamo.reset()
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    exported = torch.export.export(Module(), tuple(case[:-1])).module()
    for way in (compiled, exported, lambda *v: checkpoint(Module(), *v, use_reentrant=False)):
        arguments = [v.clone().requires_grad_() for v in case[:-1] if v is not None]
        outputs = way(*arguments)
        results = [*outputs, *torch.autograd.grad(weighted(*outputs), arguments)]
        assert_same(dict(zip(expected, results, strict=True)), expected, what=str(way))


@pytest.mark.filterwarnings("ignore:resurge:UserWarning")
def test_vmap_and_forward_mode_take_the_composable_form() -> None:
    case = make_case(18, 2, 6, 3, 2)
    us, deltas = torch.randn(2, 4, 2, 6, 3, dtype=torch.float64)
    mapped = torch.func.vmap(lambda u, delta: call(case._replace(u=u, delta=delta))[0])(us, deltas)
    looped = torch.stack([call(case._replace(u=u, delta=delta))[0] for u, delta in zip(us, deltas, strict=True)])
    assert_close(mapped, looped, torch.float64, "vmap")
    tangent = deltas[0]
    _, derivative = torch.func.jvp(lambda delta: call(case._replace(delta=delta))[0], (case.delta,), (tangent,))
    ahead, back = (call(case._replace(delta=case.delta + step * tangent))[0] for step in (1e-6, -1e-6))
    assert float((derivative - (ahead - back) / 2e-6).abs().max()) < 1e-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 0, 3)}, r"u must have shape \(B, T, D\) with B, T, D >= 1, and has \(2, 0, 3\)"),
        ({"delta": torch.zeros(2, 5, 1)}, r"delta must have shape \(B, T, D\) = \(2, 5, 3\), and has \(2, 5, 1\)"),
        ({"A": torch.zeros(4, 3)}, r"A must have shape \(D, N\) with D = 3 and N >= 1, and has \(4, 3\)"),
        ({"B": torch.zeros(2, 5, 3)}, r"B must have shape \(B, T, N\) = \(2, 5, 4\), and has \(2, 5, 3\)"),
        ({"C": torch.zeros(5, 4)}, r"C must have shape \(B, T, N\) = \(2, 5, 4\), and has \(5, 4\)"),
        ({"D_skip": torch.zeros(1)}, r"D_skip must have shape \(D\) = \(3,\), and has \(1,\)"),
        ({"z": torch.zeros(2, 4, 3)}, r"z must have shape \(B, T, D\) = \(2, 5, 3\), and has \(2, 4, 3\)"),
        ({"delta_bias": torch.zeros(3, dtype=torch.int64)}, "delta_bias must be floating point, and is torch.int64"),
        ({"h0": torch.zeros(2, 4, 3)}, r"h0 must have shape \(B, D, N\) = \(2, 3, 4\), and has \(2, 4, 3\)"),
        ({"dt": torch.zeros(2, 5, 3)}, r"dt must have shape \(B, T\) = \(2, 5\), and has \(2, 5, 3\)"),
        ({"reset": torch.zeros(2, 5)}, r"reset must be bool of shape \(B, T\) = \(2, 5\), and is torch.float32"),
        ({"u": torch.zeros(2, 5, 3, dtype=torch.int64)}, "u must be floating point, and is torch.int64"),
        ({"A": torch.zeros(3, 4, device="meta")}, "A is on meta, and u is on cpu: both must be on one device"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    case = make_case(19, 2, 5, 3, 4, dtype=torch.float32)._replace(**change)
    with pytest.raises(resurge.ResurgeError, match=message):
        call(case)
