"""Laws of the diagonal scan: every backend, every shape of the coefficients, forward and gradients."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

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
from resurge.ops import decay_scan, diagonal_scan, diagonal_scan_pairs, normalized_decay_scan

FAST = [name for name in BACKENDS if name not in ("reference", "triton")]
PLAIN = [name for name in BACKENDS if name != "triton"]
DEVICE = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}  # without a GPU, in Triton's interpreter


class Case(NamedTuple):
    """The arguments of one call."""

    a: Tensor
    x: Tensor
    h0: Tensor
    reset: Tensor | None
    reverse: bool


def make_case(
    seed: int, B: int, T: int, D: int, *, kind: str, is_complex: bool, resets: float, reverse: bool, dtype: torch.dtype
) -> Case:
    """Random arguments; kind is "d", "td" or "btd": the shape of the coefficients."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"d": (D,), "td": (T, D), "btd": (B, T, D)}[kind]
    if is_complex:
        dtype = {torch.float64: torch.complex128, torch.float32: torch.complex64}[dtype]
        a = torch.polar(
            torch.rand(shape, generator=generator, dtype=torch.float64),
            2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64),
        ).to(dtype)
    else:
        a = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1).to(dtype)
    x = torch.randn(B, T, D, generator=generator, dtype=dtype)
    h0 = torch.randn(B, D, generator=generator, dtype=dtype)
    reset = torch.rand(B, T, generator=generator) < resets if resets else None
    return Case(a, x, h0, reset, reverse)


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float64, *, max_steps: int = 97, max_rows: int = 4) -> Case:
    lengths = [T for T in (7, 16, 17, 31, 64, 65, 97) if max_steps >= T]
    return make_case(
        draw(st.integers(0, 10**6)),
        draw(st.integers(1, max_rows)),
        draw(st.one_of(st.integers(1, 5), st.sampled_from(lengths))),
        draw(st.sampled_from([1, 2, 3, 8, 16, 17, 33])),
        kind=draw(st.sampled_from(["d", "td", "btd"])),
        is_complex=draw(st.booleans()),
        resets=draw(st.sampled_from([0.0, 0.1, 0.6])),
        reverse=draw(st.booleans()),
        dtype=dtype,
    )


def weighted(h: Tensor, last: Tensor) -> Tensor:
    """A real loss in which every state has a weight of its own, the same ones in every precision."""
    generator = torch.Generator().manual_seed(99)
    wide = torch.complex128 if h.is_complex() else torch.float64
    weights = [torch.randn(v.shape, generator=generator, dtype=wide).to(v) for v in (h, last)]
    loss = (h * weights[0]).sum() + (last * weights[1]).sum()
    return loss.real if loss.is_complex() else loss


def run(case: Case, backend: str, *, last_matters: bool = True) -> list[Tensor]:
    """[h, h_last, da, dx, dh0] on one backend, for fixed random weights of the outputs."""
    device = DEVICE.get(backend, "cpu")
    a, x, h0 = (v.detach().clone().to(device).requires_grad_() for v in (case.a, case.x, case.h0))
    reset = None if case.reset is None else case.reset.to(device)
    with resurge.backend(backend):
        h, last = diagonal_scan(a, x, h0, reset=reset, reverse=case.reverse)
        loss = weighted(h, last if last_matters else last.detach())
        gradients = torch.autograd.grad(loss, (a, x, h0))
    return [v.cpu() for v in (h, last, *gradients)]


NAMES = ("h", "h_last", "da", "dx", "dh0")


def brute_force(case: Case) -> np.ndarray:
    """h_t as the explicit sum over s <= t of (a_{s+1} ... a_t) x_s, in numpy: no recurrence anywhere."""
    a, x, h0 = (v.detach().numpy() for v in (case.a, case.x, case.h0))
    B, T, D = x.shape
    reset = np.zeros((B, T), bool) if case.reset is None else case.reset.numpy()
    a = np.broadcast_to(a, (B, T, D))
    h = np.zeros_like(x)
    for b in range(B):
        for t in range(T):
            if case.reverse:
                linked = [s for s in range(t, T) if not reset[b, t + 1 : s + 1].any()]
                for s in linked:
                    h[b, t] += a[b, t:s].prod(0) * x[b, s]
                if not reset[b, t + 1 :].any():
                    h[b, t] += a[b, t:].prod(0) * h0[b]
            else:
                linked = [s for s in range(t + 1) if not reset[b, s + 1 : t + 1].any()]
                for s in linked:
                    h[b, t] += a[b, s + 1 : t + 1].prod(0) * x[b, s]
                if not reset[b, : t + 1].any():
                    h[b, t] += a[b, : t + 1].prod(0) * h0[b]
    return h


@given(cases())
def test_reference_is_the_definition(case: Case) -> None:
    with resurge.backend("reference"):
        h, last = diagonal_scan(case.a, case.x, case.h0, reset=case.reset, reverse=case.reverse)
    expected = torch.from_numpy(brute_force(case))
    assert_close(h, expected, torch.float64, "h")
    assert_close(last, expected[:, 0 if case.reverse else -1], torch.float64, "h_last")


@pytest.mark.parametrize("backend", FAST)
@given(case=cases())
def test_backends_agree_with_the_reference(backend: str, case: Case) -> None:
    for name, actual, expected in zip(NAMES, run(case, backend), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, f"{backend}: {name}")


@settings(max_examples=12, phases=[Phase.generate])
@given(case=cases(max_steps=17, max_rows=2))
def test_triton_agrees_with_the_reference(case: Case) -> None:
    for name, actual, expected in zip(NAMES, run(case, "triton"), run(case, "reference"), strict=True):
        assert_close(actual, expected, torch.float64, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_complex", [False, True])
def test_triton_reads_and_writes_every_precision(dtype: torch.dtype, is_complex: bool) -> None:
    row = (2, 5) if is_complex else (5,)
    scan = diagonal_scan_pairs if is_complex else diagonal_scan
    results = []
    for backend, kind in (("triton", dtype), ("reference", torch.float64)):
        generator = torch.Generator().manual_seed(1)
        device = DEVICE.get(backend, "cpu")
        a, x = (0.5 * torch.randn(2, 9, *row, generator=generator).to(dtype) for _ in range(2))
        a, x = (v.to(device, kind).requires_grad_() for v in (a, x))
        with resurge.backend(backend):
            h, last = scan(a, x)
            results.append([h, last, *torch.autograd.grad(weighted(h, last), (a, x))])
    assert results[0][0].dtype == dtype
    assert results[0][1].dtype == torch.float32
    for name, actual, expected in zip(("h", "h_last", "da", "dx"), *results, strict=True):
        assert_close(actual.cpu(), expected, dtype, name)


@pytest.mark.parametrize("backend", PLAIN)
@given(case=cases(torch.float32))
def test_float32_is_near_the_float64_reference(backend: str, case: Case) -> None:
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}[case.x.dtype]
    exact = case._replace(a=case.a.to(wide), x=case.x.to(wide), h0=case.h0.to(wide))
    for name, actual, expected in zip(NAMES, run(case, backend), run(exact, "reference"), strict=True):
        assert_close(actual, expected, torch.float32, f"{backend}: {name}")


@pytest.mark.parametrize("backend", PLAIN)
@given(case=cases(), cut=st.floats(0, 1))
def test_any_split_equals_the_whole(backend: str, case: Case, cut: float) -> None:
    T = case.x.shape[1]
    border = int(cut * T)
    if not 0 < border < T:
        return
    whole = run(case, backend)
    a, x, h0 = (v.detach().clone().requires_grad_() for v in (case.a, case.x, case.h0))
    pieces = [slice(0, border), slice(border, T)]
    if case.reverse:
        pieces.reverse()
        if case.reset is not None and bool(case.reset[:, border].any()):
            return  # in reverse a link cut at the border belongs to the other piece
    outputs: dict[int, Tensor] = {}
    h = h0
    with resurge.backend(backend):
        for piece in pieces:
            part = a if a.dim() == 1 else a[..., piece, :]
            reset = None if case.reset is None else case.reset[:, piece]
            outputs[piece.start], h = diagonal_scan(part, x[:, piece], h, reset=reset, reverse=case.reverse)
    joined = torch.cat([outputs[0], outputs[border]], 1)
    gradients = torch.autograd.grad(weighted(joined, h), (a, x, h0))
    for name, actual, expected in zip(NAMES, [joined, h, *gradients], whole, strict=True):
        assert_close(actual, expected, torch.float64, name)


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["d", "td", "btd"])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(backend: str, is_complex: bool, kind: str, reverse: bool) -> None:
    case = make_case(3, 2, 5, 3, kind=kind, is_complex=is_complex, resets=0.2, reverse=reverse, dtype=torch.float64)
    arguments = [v.clone().requires_grad_() for v in (case.a, case.x, case.h0)]

    def function(a: Tensor, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return diagonal_scan(a, x, h0, reset=case.reset, reverse=reverse)

    with resurge.backend(backend):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_h_alone(backend: str) -> None:
    case = make_case(5, 2, 9, 4, kind="btd", is_complex=False, resets=0.0, reverse=False, dtype=torch.float64)
    for actual, expected in zip(
        run(case, backend, last_matters=False), run(case, "reference", last_matters=False), strict=True
    ):
        assert_close(actual, expected, torch.float64, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_carried_in_float32(dtype: torch.dtype) -> None:
    a = torch.full((8,), 0.999)
    x = torch.rand(2, 3000, 8).to(dtype)
    h, last = diagonal_scan(a, x)
    exact, _ = diagonal_scan(a.double(), x.double())
    assert h.dtype == dtype
    assert last.dtype == torch.float32
    assert_close(h, exact, dtype, "h")
    assert_close(last, exact[:, -1], torch.float32, "h_last")  # a state carried in half precision would stall


def test_inputs_of_any_layout() -> None:
    x = torch.randn(5, 4, 3, dtype=torch.float64).transpose(0, 2)
    a = torch.rand(5, dtype=torch.float64).expand(4, 5)
    h0 = torch.randn(1, 5, dtype=torch.float64).expand(3, 5)
    h, _ = diagonal_scan(a, x, h0)
    expected, _ = diagonal_scan(a.contiguous(), x.contiguous(), h0.contiguous())
    assert torch.equal(h, expected)


@pytest.mark.parametrize("is_complex", [False, True])
def test_rows_and_threads_change_no_bit(is_complex: bool) -> None:
    case = make_case(1, 3, 400, 64, kind="d", is_complex=is_complex, resets=0.01, reverse=False, dtype=torch.float32)
    result = same_on_any_threads(lambda: run(case, "numba"))
    reset = case.reset[1:2] if case.reset is not None else None
    alone, _ = diagonal_scan(case.a, case.x[1:2], case.h0[1:2], reset=reset)
    assert torch.equal(alone, result[0][1:2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_output_sees_the_future(backend: str) -> None:
    x = torch.randn(1, 12, 2, dtype=torch.float64, requires_grad=True)
    with resurge.backend(backend):
        h, _ = diagonal_scan(torch.rand(2, dtype=torch.float64), x)
    (gradient,) = torch.autograd.grad(h[:, 6].sum(), x)
    assert bool((gradient[:, :7] != 0).all())
    assert bool((gradient[:, 7:] == 0).all())


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("modulus", [1.0, 1 - 1e-7])
def test_a_million_steps_on_the_unit_circle(modulus: float, count: int) -> None:
    """In float32, whole or in pieces: as far from float64 as a million roundings of random sign lead, states and
    gradients. A million of one sign, as of a rounded power of a, would be a hundred times as far."""
    T = 1_000_000
    a, x = modulus * torch.tensor([[math.cos(0.3)], [math.sin(0.3)]]), torch.randn(1, T, 2, 1)
    exact = [v.double().requires_grad_() for v in (a, x)]
    rounded = [v.requires_grad_() for v in (a, x)]
    weights = torch.randn(1, T, 2, 1)
    expected, _ = diagonal_scan_pairs(*exact)
    with resurge.backend("reference"):
        beginning, _ = diagonal_scan_pairs(exact[0], exact[1][:, :2000])
    assert_close(expected[:, :2000], beginning, torch.float64, "float64")
    gradients = torch.autograd.grad(expected, exact, weights.double())
    with threads(count):
        h, _ = diagonal_scan_pairs(*rounded)
        found = torch.autograd.grad(h, rounded, weights)
    limit = torch.finfo(torch.float32).eps * T**0.5
    for name, actual, one in zip("hax", (h.detach(), *found), (expected.detach(), *gradients), strict=True):
        assert float((actual.double() - one).abs().max() / one.abs().max()) < limit, name


@pytest.mark.parametrize("value", [1e30, 1e-42, 0.0])
def test_extreme_inputs_stay_finite(value: float) -> None:
    x = torch.full((1, 1000, 4), value, requires_grad=True)
    a = torch.tensor([0.0, 0.5, 1e-30, 0.99], requires_grad=True)
    h, last = diagonal_scan(a, x)
    (h.sum() / 1e30 + last.sum() / 1e30).backward()
    assert bool(torch.isfinite(h).all())
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
    assert float(h[0, 0, 0].detach()) == pytest.approx(value)


def test_coefficient_gradients_keep_their_digits_over_long_sums() -> None:
    T = 200_000
    x = torch.rand(1, T, 4)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        a = torch.tensor([0.1, 0.5, 0.7, 0.9], dtype=torch.float32).to(dtype).requires_grad_()
        diagonal_scan(a, x.to(dtype))[0].sum().backward()
        assert a.grad is not None
        gradients.append(a.grad.double())
    assert float(((gradients[0] - gradients[1]) / gradients[1]).abs().max()) < 1e-6


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("with_reset", [False, True])
def test_the_registered_operator_is_sound(pairs: bool, with_reset: bool) -> None:
    row = (2, 3) if pairs else (3,)
    reset = torch.rand(2, 5) < 0.3 if with_reset else None
    a, x, h0 = (torch.randn(shape, requires_grad=True) for shape in [(1, 1, *row), (2, 5, *row), (2, *row)])
    torch.library.opcheck(torch.ops.resurge.diagonal_scan.default, (a, x, h0, reset, False, 0))


@pytest.mark.filterwarnings("ignore:resurge:UserWarning")
def test_vmap_and_forward_mode_take_the_composable_form() -> None:
    a = torch.rand(4, 3, dtype=torch.float64)
    x = torch.randn(4, 2, 6, 3, dtype=torch.float64)
    mapped = torch.func.vmap(lambda a, x: diagonal_scan(a, x)[0])(a, x)
    looped = torch.stack([diagonal_scan(a[i], x[i])[0] for i in range(4)])
    assert_close(mapped, looped, torch.float64, "vmap")
    tangent = torch.randn_like(x[0])
    _, derivative = torch.func.jvp(lambda x: diagonal_scan(a[0], x)[0], (x[0],), (tangent,))
    assert_close(derivative, diagonal_scan(a[0], tangent)[0], torch.float64, "jvp")  # the scan is linear in x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 0, 3)}, "T, D >= 1, and has \\(2, 0, 3\\)"),
        ({"x": torch.zeros(2, 3)}, "x must have shape"),
        ({"a": torch.zeros(4)}, "a must have shape .* and has \\(4,\\)"),
        ({"h0": torch.zeros(3, 3)}, "h0 must have shape \\(B, D\\) = \\(2, 3\\)"),
        ({"reset": torch.zeros(2, 5)}, "reset must be bool"),
        ({"x": torch.zeros(2, 5, 3, dtype=torch.int64)}, "x must be floating point, and is torch.int64"),
        ({"a": torch.zeros(3, device="meta")}, "a is on meta, and x is on cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    arguments = {"a": torch.zeros(3), "x": torch.zeros(2, 5, 3), "h0": None, "reset": None, **change}
    with pytest.raises(resurge.ResurgeError, match=message):
        diagonal_scan(arguments["a"], arguments["x"], arguments["h0"], reset=arguments["reset"])  # type: ignore[arg-type]


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(resurge.ResurgeError, match="Did you mean 'numba'"), resurge.backend("nunba"):
        pass


def test_real_numbers_of_any_precision_meet_complex_ones() -> None:
    a = torch.polar(torch.rand(4), torch.rand(4))
    x = torch.randn(2, 5, 4).bfloat16()
    h, h_last = diagonal_scan(a, x)
    expected, _ = diagonal_scan(a, x.to(torch.complex64))
    assert h.dtype == h_last.dtype == torch.complex64
    assert torch.allclose(h, expected, rtol=2e-2, atol=2e-2)
    with pytest.raises(resurge.ResurgeError, match="x must be floating point"):
        diagonal_scan(a, torch.ones(2, 5, 4, dtype=torch.int64))


LOGS = st.sampled_from([(1, 1, 1), (2, 1, 3), (2, 7, 3), (3, 65, 17), (1, 40, 33)])


@pytest.mark.parametrize("backend", ["triton", *FAST])
@pytest.mark.parametrize("scan", [decay_scan, normalized_decay_scan])
@settings(max_examples=8, phases=[Phase.generate])  # shrinking takes minutes in the interpreter
@given(sizes=LOGS, shape=st.integers(1, 3), resets=st.booleans(), reverse=st.booleans(), seed=st.integers(0, 999))
def test_coefficients_in_log_space(  # type: ignore[no-untyped-def]
    backend: str, scan, sizes: tuple[int, int, int], shape: int, resets: bool, reverse: bool, seed: int
) -> None:
    """Against the definition spelt out in PyTorch, all gradients with respect to log_a, x and h0."""
    (B, T, D), generator = sizes, torch.Generator().manual_seed(seed)
    if backend == "triton":
        T, D = min(T, 13), min(D, 5)
    log_a = -1e-6 - torch.rand((B, T, D)[3 - shape :], generator=generator, dtype=torch.float64) ** 4
    x, h0 = torch.randn(B, T, D, generator=generator).double(), torch.randn(B, D, generator=generator).double()
    reset = torch.rand(B, T, generator=generator) < 0.2 if resets else None
    results = []
    for name in (backend, "definition"):
        device = DEVICE.get(name, "cpu")
        wanted = [v.clone().to(device).requires_grad_() for v in (log_a, x, h0)]
        if name == "definition":
            a = torch.exp(wanted[0])
            scale = torch.sqrt(-torch.expm1(2 * wanted[0])) if scan is normalized_decay_scan else torch.ones_like(a)
            with resurge.backend("reference"):
                h, last = diagonal_scan(a, scale * wanted[1], wanted[2], reset=reset, reverse=reverse)
        else:
            there = None if reset is None else reset.to(device)
            with resurge.backend(backend):
                h, last = scan(*wanted, reset=there, reverse=reverse)
        with resurge.backend(backend if name == backend else "reference"):
            gradients = torch.autograd.grad(weighted(h, last), wanted)
        results.append([v.cpu() for v in (h, last, *gradients)])
    for name, actual, expected in zip(NAMES, *results, strict=True):
        assert_close(actual, expected, torch.float64, name)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["d", "btd"])
@pytest.mark.parametrize("reverse", [False, True])
def test_long_rows_are_cut_in_pieces_for_the_threads(backend: str, is_complex: bool, kind: str, reverse: bool) -> None:
    case = make_case(
        4, 1, 8200, 3, kind=kind, is_complex=is_complex, resets=0.0005, reverse=reverse, dtype=torch.float64
    )
    case = case._replace(a=case.a / case.a.abs() * (0.9995 + 0.0005 * case.a.abs()))  # long memories
    results = []
    for count in (1, 3):
        with threads(count):
            results.append(run(case, backend))
    for name, whole, pieces in zip(NAMES, *results, strict=True):
        assert_close(pieces, whole, torch.float64, name)


def test_decays_at_the_borders_of_their_range() -> None:
    log_a = torch.tensor([0.0, -1e-30, -1e-8, -50.0, -1e4, -math.inf]).repeat(1, 50, 1).requires_grad_()
    x = torch.randn(1, 50, 6, requires_grad=True)
    for scan in (decay_scan, normalized_decay_scan):
        h, last = scan(log_a, x)
        gradients = torch.autograd.grad((h + last[:, None]).sum(), (log_a, x))
        assert all(bool(torch.isfinite(v).all()) for v in (h, last, *gradients))
    assert bool((h[..., 0] == 0).all())  # nothing enters where nothing is forgotten
    assert torch.equal(h[..., 4:], x[..., 4:])


def test_coefficients_of_a_row() -> None:
    a, x = torch.rand(3, 1, 4, dtype=torch.float64), torch.randn(3, 9, 4, dtype=torch.float64)
    h, _ = diagonal_scan(a, x)
    assert torch.equal(h, diagonal_scan(a.expand(3, 9, 4), x)[0])


def loss_of(a: Tensor, x: Tensor, h0: Tensor) -> Tensor:
    h, last = diagonal_scan(a, x, h0)
    return (h * h.cos()).sum() + last.pow(3).sum()


def test_compiled_exported_and_checkpointed_the_scan_is_the_same() -> None:
    case = make_case(8, 2, 11, 4, kind="btd", is_complex=False, resets=0, reverse=False, dtype=torch.float64)
    wanted = [v.clone().requires_grad_() for v in (case.a, case.x, case.h0)]
    expected = torch.autograd.grad(loss_of(*wanted), wanted)
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    again = torch.autograd.grad(compiled(*wanted), wanted)
    stored = torch.utils.checkpoint.checkpoint(loss_of, *wanted, use_reentrant=False)
    for name, *others in zip(NAMES[2:], expected, again, torch.autograd.grad(stored, wanted), strict=True):
        for other in others[1:]:
            assert_close(other, others[0], torch.float64, name)

    class Scan(torch.nn.Module):
        def forward(self, a: Tensor, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
            return diagonal_scan(a, x, h0)

    exported = torch.export.export(Scan(), tuple(wanted)).module()
    assert_close(exported(*wanted)[0], diagonal_scan(*wanted)[0], torch.float64, "exported")


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("modulus", [1.0, 1 - 1e-7])
def test_a_million_steps_at_the_edge_of_stability(modulus: float, count: int) -> None:
    """Real coefficients in float32: against float64, in the scale of the state."""
    T = 1_000_000
    x = torch.randn(1, T, 2)
    a = torch.tensor([modulus, -modulus])
    with threads(count):
        h, last = diagonal_scan(a, x)
    exact, exact_last = diagonal_scan(a.double(), x.double())
    assert float((h - exact).abs().max() / exact.abs().max()) < 1e-4
    assert float((last - exact_last).abs().max() / exact.abs().max()) < 1e-4


def test_gradients_where_coefficients_are_zero() -> None:
    a = torch.zeros(1, 6, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 6, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(diagonal_scan(a, x)[0].sum(), a)
    assert torch.equal(gradient[:, 1:], x[:, :-1])  # dh_t/da_t = h_{t-1} = x_{t-1}
    assert bool((gradient[:, 0] == 0).all())


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy, in the interpreter, on inf
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_stands_before_a_reset_stays_there(backend: str, bad: float) -> None:
    device = DEVICE.get(backend, "cpu")
    a, x = torch.full((12, 2), 0.5, device=device), torch.ones(1, 12, 2, device=device)
    x[:, 1] = bad
    reset = torch.zeros(1, 12, dtype=torch.bool, device=device)
    reset[:, 5] = True
    a.requires_grad_()
    with resurge.backend(backend):
        h, last = diagonal_scan(a, x, reset=reset)
        (gradient,) = torch.autograd.grad(h[:, 5:].sum() + last.sum(), a)
        alone, _ = diagonal_scan(a.detach()[5:], x[:, 5:])
    assert torch.equal(h[:, 5:], alone)
    assert bool(torch.isfinite(gradient[5:]).all())


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_stands_in_an_earlier_piece_stays_there(is_complex: bool, reverse: bool) -> None:
    T, row = 8200, (2, 3) if is_complex else (3,)
    scan = diagonal_scan_pairs if is_complex else diagonal_scan
    a, x = torch.full(row, 0.5), torch.ones(1, T, *row)
    x[:, -10 if reverse else 10] = math.inf
    reset = torch.zeros(1, T, dtype=torch.bool)
    reset[:, T // 2] = True
    kept = slice(0, T // 2) if reverse else slice(T // 2, T)
    with threads(3):
        h, last = scan(a, x, reset=reset, reverse=reverse)
    alone, alone_last = scan(a, x[:, kept], reverse=reverse)
    assert torch.allclose(h[:, kept], alone)
    assert torch.allclose(last, alone_last)


@pytest.mark.parametrize("backward", [False, True])
def test_the_summary_of_a_piece_ends_without_denormals(backward: bool) -> None:
    from resurge.ops.diagonal.cpu_pieces import summary_complex
    from resurge.ops.threads import no_denormals

    T, D = 2048, 32
    radius = torch.where(torch.arange(D) % 2 == 0, 0.9, 0.99999)  # half fade away
    phase = torch.linspace(0.1, 3.0, D)
    a = torch.cat([radius * phase.cos(), radius * phase.sin()]).repeat(T).numpy()
    gain, end = np.empty((2, D), np.float32), np.empty((2, D), np.float32)
    x = np.ones(2 * T * D, np.float32)
    uncut = np.empty(0, np.bool_)
    with no_denormals():
        fourth = (gain[0],) * 4  # of a constant a; of no use here
        assert summary_complex(a, fourth, (0, 1), 0, x, uncut, backward, False, 0, T, 0, T - 1, D, *gain, *end)
    assert bool((gain[:, ::2] == 0).all())  # and no denormal is left to work on
    assert bool((np.hypot(*gain[:, 1::2]) > 0.9).all())


@settings(max_examples=60)
@given(data=st.data())
def test_pieces_of_any_size_taken_in_turn_give_the_whole(data: st.DataObject) -> None:
    from resurge.ops.diagonal import cpu

    case = data.draw(cases(max_rows=3))
    results = [run(case, "reference")]
    with pytest.MonkeyPatch.context() as patch, threads(data.draw(st.sampled_from([2, 3, 5]))):
        patch.setattr(cpu, "_SHORTEST", 1)
        patch.setattr(cpu, "_LEAST", data.draw(st.integers(1, 9)))
        results.append(run(case, "numba"))
    for name, expected, actual in zip(NAMES, *results, strict=True):
        assert_close(actual, expected, torch.float64, name)


@given(T=st.integers(1, 300), length=st.integers(1, 40), count=st.integers(1, 5), D=st.integers(1, 3))
def test_pieces_hold_each_step_once(T: int, length: int, count: int, D: int) -> None:
    from resurge.ops.diagonal import cpu
    from resurge.ops.diagonal.cpu_pieces import leads, span
    from resurge.ops.diagonal.form import PLAIN

    a = torch.ones(1, 1, D)  # nothing fades
    with pytest.MonkeyPatch.context() as patch, threads(count):
        patch.setattr(cpu, "_SHORTEST", 1)
        patch.setattr(cpu, "_LEAST", length)
        plan = cpu._plan(a, 1, T, D, PLAIN)
    spans = [span.py_func(plan, plan.pieces + r) for r in range(plan.pieces)]  # of the second row
    assert {b for b, *_ in spans} == {1}
    assert [t for _, first, stop, _ in spans for t in range(first, stop)] == list(range(T))
    assert all(first < stop for _, first, stop, _ in spans)
    if count > 1:
        assert [leads.py_func(plan, r) for r in range(plan.pieces)] == [r % count == 0 for r in range(plan.pieces)]


def test_one_thread_is_enough_to_take_all_turns() -> None:
    from resurge.ops.diagonal import cpu

    case = make_case(3, 1, 5000, 8, kind="btd", is_complex=True, resets=0.0, reverse=False, dtype=torch.float64)
    with threads(2):
        expected = run(case, "numba")
        with pytest.MonkeyPatch.context() as patch:

            def one(kernel: Callable[..., None], arguments: tuple[Any, ...], pieces: int, *_: int) -> None:
                assert pieces > 2  # those of two threads
                kernel(*arguments, 0, 1, 0, case.x.shape[-1])

            patch.setattr(cpu, "run", one)
            alone = run(case, "numba")
    for name, a, b in zip(NAMES, alone, expected, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot keep a process on one core")
def test_threads_that_share_a_core_give_way_to_each_other() -> None:
    """Looking without end for what the other thread has no core to do took up to a hundred times as long."""
    code = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from resurge.ops import diagonal_scan
a, x = torch.full((256,), 0.9999), torch.randn(1, 65536, 256)
def seconds(threads):
    torch.set_num_threads(threads)
    for i in range(12):
        if i == 2:
            start = time.perf_counter()
        diagonal_scan(a, x)
    return time.perf_counter() - start
print(seconds(1), seconds(2))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    alone, shared = map(float, done.stdout.split())
    assert shared < 3 * alone


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", ["d", "btd"])
def test_results_stored_past_the_cache_are_those_kept_in_it(is_complex: bool, kind: str) -> None:
    case = make_case(6, 5, 4000, 128, kind=kind, is_complex=is_complex, resets=0.01, reverse=False, dtype=torch.float32)
    assert case.x.numel() * case.x.element_size() > 8 << 20  # and one row of the batch is far smaller
    assert case.reset is not None

    def scanned(rows: slice) -> list[Tensor]:
        a, x, h0 = case.a if kind == "d" else case.a[rows], case.x[rows], case.h0[rows]
        inputs = [v.clone().requires_grad_() for v in (a, x, h0)]
        h, last = diagonal_scan(*inputs, reset=case.reset[rows])  # type: ignore[index]
        return [h.detach(), last.detach(), *torch.autograd.grad(h, inputs, case.x[rows])]

    together = scanned(slice(None))
    for b in range(5):
        row = slice(b, b + 1)
        for name, alone, every in zip(NAMES, scanned(row), together, strict=True):
            if kind == "btd" or name != "da":  # the gradient of a shared a is summed over the batch
                assert torch.equal(alone, every[row]), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 9, 16, 31, 64, 65])
def test_rowwise_reaches_every_channel_and_no_other(dtype: type, size: int) -> None:
    from resurge.jit import jit
    from resurge.ops.rows import rowwise

    @rowwise(streamed=1)
    def body(x, y):  # type: ignore[no-untyped-def]
        total = x + y
        return total * y - x, total

    @jit
    def kernel(outputs, inputs, past_cache):  # type: ignore[no-untyped-def]
        body(outputs, inputs, past_cache)

    generator = np.random.default_rng(size)
    x, y = generator.standard_normal((2, size + 2)).astype(dtype)
    first, second = np.full(size + 2, 7, dtype), y.copy()
    kernel((first[1:-1], second[1:-1]), (x[1:-1], second[1:-1]), False)  # an output that is an input, too
    wanted = (x + y) * y - x
    np.testing.assert_allclose(first[1:-1], wanted[1:-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(second[1:-1], (x + y)[1:-1])
    assert first[0] == first[-1] == 7
    assert second[0] == y[0]
    assert second[-1] == y[-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("D", [1, 3, 4, 8, 9, 16, 31, 64])
@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("reverse", [False, True])
def test_stepwise_carries_every_channel_over_the_steps(dtype: type, D: int, steps: int, reverse: bool) -> None:
    from resurge.jit import jit
    from resurge.ops.rows import stepwise

    @stepwise(streamed=1)
    def body(carry, a, x):  # type: ignore[no-untyped-def]
        h = a * carry + x
        return h, h

    @jit
    def kernel(carry, h, a, x, first, stride, steps):  # type: ignore[no-untyped-def]
        D = carry.size
        ahead = (0, 1 << 30)  # where nothing is
        body((carry,), (h[first : first + D],), (a, x[first : first + D]), (stride, 0, stride), ahead, steps, False)

    generator = np.random.default_rng(D)
    a, start, x = generator.random(D), generator.standard_normal(D), generator.standard_normal((steps + 2, D))
    carry, h = start.astype(dtype), np.full((steps + 2, D), 7, dtype)
    first, stride = (steps * D, -D) if reverse else (D, D)
    kernel(carry, h.reshape(-1), a.astype(dtype), x.astype(dtype).reshape(-1), first, stride, steps)
    wanted = start
    for t in range(steps, 0, -1) if reverse else range(1, steps + 1):
        wanted = a * wanted + x[t]
        np.testing.assert_allclose(h[t], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(carry, wanted, rtol=1e-5, atol=1e-5)
    assert bool((h[0] == 7).all())
    assert bool((h[-1] == 7).all())


@pytest.mark.parametrize("wanted", [False, True])
def test_denormals_are_as_the_caller_had_them_after_a_kernel(wanted: bool) -> None:
    def product() -> float:
        return float(np.float32(1e-30) * np.float32(1e-10))

    if not torch.set_flush_denormal(wanted):
        pytest.skip("this processor cannot be told")
    try:
        with threads(2):
            h, _ = diagonal_scan(torch.full((64,), 0.5), torch.eye(4096, 64)[None])
        assert (product() == 0) == wanted
    finally:
        torch.set_flush_denormal(False)
    assert float(h[h > 0].min()) > 1e-38  # while in the kernel there are none
    assert product() > 0
