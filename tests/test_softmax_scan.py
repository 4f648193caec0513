"""Laws of the softmax scan: every backend, with and without decay and bonus, forward and gradients."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_counts import same_on_any_threads, threads
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge.dispatch import BACKENDS
from resurge.ops import SoftmaxState, softmax_scan, softmax_step

FAST = ["numba", "torch"]
PLAIN = [name for name in BACKENDS if name != "triton"]
DEVICE = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}  # without a GPU, in Triton's interpreter
NAMES = ("y", "m", "num", "den", "dk", "dv", "dw", "du", "dm", "dnum", "dden")


class Case(NamedTuple):
    """The arguments of one call; w, u and reset may be absent."""

    k: Tensor
    v: Tensor
    w: Tensor | None
    u: Tensor | None
    state: SoftmaxState
    reset: Tensor | None


def make_case(
    seed: int, B: int, T: int, H: int, G: int, *, decay: bool, bonus: bool, resets: float, scale: float = 2.0,
    dtype: torch.dtype = torch.float64,
) -> Case:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    k, v, w, u = scale * normal(B, T, H), normal(B, T, H * G), 0.3 * torch.exp(normal(H)), normal(H)
    state = SoftmaxState(normal(B, H), normal(B, H * G), torch.exp(normal(B, H)))
    reset = torch.rand(B, T, generator=generator) < resets if resets else None
    return Case(k, v, w if decay else None, u if bonus else None, state, reset)


def in_float64(case: Case) -> Case:
    """The same numbers, with the digits to compute exactly with them."""
    k, v, w, u = (None if z is None else z.double() for z in case[:4])
    assert k is not None
    assert v is not None
    return Case(k, v, w, u, SoftmaxState(*(z.double() for z in case.state)), case.reset)


@st.composite
def cases(
    draw: st.DrawFn, dtype: torch.dtype = torch.float64, *, steps: tuple[int, ...] = (7, 8, 9, 16, 17, 31, 64, 65, 97)
) -> Case:
    return make_case(
        draw(st.integers(0, 10**6)),
        draw(st.integers(1, 3)),
        draw(st.one_of(st.integers(1, 5), st.sampled_from(steps))),
        draw(st.sampled_from([1, 2, 3, 17])),
        draw(st.sampled_from([1, 1, 2, 3, 8])),
        decay=draw(st.booleans()),
        bonus=draw(st.booleans()),
        resets=draw(st.sampled_from([0.0, 0.1, 0.6])),
        dtype=dtype,
    )


def weighted(*outputs: Tensor) -> Tensor:
    """A loss in which every number of outputs and state has a weight of its own, the same ones in every precision."""
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in outputs]
    return torch.stack([(v * weight).sum() for v, weight in zip(outputs, weights, strict=True)]).sum()


def leaves(case: Case, device: str = "cpu") -> list[Tensor | None]:
    """Copies of k, v, w, u, m, num and den that gradients are asked of."""
    given = [case.k, case.v, case.w, case.u, *case.state]
    return [None if z is None else z.detach().clone().to(device).requires_grad_() for z in given]


def gradients(loss: Tensor, wanted: list[Tensor | None]) -> list[Tensor]:
    """Those of the arguments that there are; an empty tensor for each other."""
    found = iter(torch.autograd.grad(loss, [z for z in wanted if z is not None]))
    return [torch.zeros(0) if z is None else next(found) for z in wanted]


def run(case: Case, backend: str) -> list[Tensor]:
    """What NAMES says, on one backend, for fixed random weights of outputs and state."""
    device = DEVICE.get(backend, "cpu")
    k, v, w, u, *state = wanted = leaves(case, device)
    reset = None if case.reset is None else case.reset.to(device)
    with resurge.backend(backend):
        y, last = softmax_scan(k, v, w, u, tuple(state), reset=reset)
        found = gradients(weighted(y, *last), wanted)
    return [z.cpu() for z in (y, *last, *found)]


def compare(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype, what: str) -> None:
    for name, a, b in zip(NAMES, actual, expected, strict=True):
        if b.numel():
            assert_close(a, b, dtype, f"{what}: {name}")


def brute_force(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and the true sums of the last step, as explicit sums over all steps before: no recurrence anywhere."""
    k, v = (z.detach().numpy().astype(np.longdouble) for z in (case.k, case.v))
    (B, T, H), D = k.shape, v.shape[2]
    wide = lambda z: np.repeat(z, D // H, -1)  # noqa: E731
    w = np.zeros(H) if case.w is None else case.w.numpy()
    m0, num0, den0 = (z.numpy().astype(np.longdouble) for z in case.state)
    reset = np.zeros((B, T), bool) if case.reset is None else case.reset.numpy()
    y, num, den = np.zeros((B, T, D)), np.zeros((B, D)), np.zeros((B, H))
    for b in range(B):
        for t in range(T):
            linked = [s for s in range(t + 1) if not reset[b, s + 1 : t + 1].any()]
            from_start = not reset[b, : t + 1].any()

            def sums(logit_now: np.ndarray, later: int, b=b, t=t, linked=linked, from_start=from_start):
                """Numerator and denominator with the past seen `later` steps after it entered its own step's sum."""
                weight = {s: np.exp(k[b, s] - (t - s - later) * w) for s in linked if s < t}
                weight[t] = np.exp(logit_now)
                n, d = sum(wide(weight[s]) * v[b, s] for s in weight), sum(weight.values())
                if from_start:
                    start = np.exp(m0[b] - (t + 1 - later) * w)
                    n, d = n + wide(start) * num0[b], d + start * den0[b]
                return n, d

            num_t, den_t = sums(k[b, t], 0)
            if t == T - 1:
                num[b], den[b] = num_t, den_t
            if case.u is not None:
                num_t, den_t = sums(k[b, t] + case.u.numpy(), 1)
            y[b, t] = num_t / wide(den_t)
    return y, num, den


@given(cases(steps=(7, 16, 31)))
def test_reference_is_the_definition(case: Case) -> None:
    with resurge.backend("reference"):
        y, last = softmax_scan(*case[:4], case.state, reset=case.reset)
    expected = [torch.from_numpy(z) for z in brute_force(case)]
    scale = torch.exp(last.m)
    num = last.num * scale.repeat_interleave(case.v.shape[2] // case.k.shape[2], 1)
    for name, actual, wanted in zip(("y", "num", "den"), (y, num, last.den * scale), expected, strict=True):
        assert_close(actual, wanted, torch.float64, name)


@pytest.mark.parametrize("backend", FAST)
@given(case=cases())
def test_backends_agree_with_the_reference(backend: str, case: Case) -> None:
    compare(run(case, backend), run(case, "reference"), torch.float64, backend)


@settings(max_examples=10)
@given(case=cases(steps=(8, 9, 13, 19)))
def test_triton_agrees_with_the_reference(case: Case) -> None:
    case = case._replace(k=case.k[:2], v=case.v[:2], state=SoftmaxState(*(z[:2] for z in case.state)))
    case = case._replace(reset=None if case.reset is None else case.reset[:2])
    compare(run(case, "triton"), run(case, "reference"), torch.float64, "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [5, 1])
def test_triton_reads_and_writes_every_precision(dtype: torch.dtype, heads: int) -> None:
    case = make_case(1, 2, 11, heads, 5 // heads, decay=True, bonus=True, resets=0.0, dtype=torch.float32)
    half = case._replace(k=case.k.to(dtype), v=case.v.to(dtype))
    actual = run(half, "triton")
    assert actual[0].dtype == actual[4].dtype == dtype
    assert all(z.dtype == torch.float32 for z in actual[1:4])
    for name, a, b in zip(NAMES, actual, run(in_float64(half), "reference"), strict=True):
        assert_close(a, b, torch.float32 if name in ("m", "num", "den") else dtype, name)  # gradients from those of y


@pytest.mark.parametrize("channels", [131, 256])
def test_triton_takes_wide_heads(channels: int) -> None:
    case = make_case(10, 1, 4, 1, channels, decay=True, bonus=True, resets=0.0)
    compare(run(case, "triton"), run(case, "reference"), torch.float64, "triton")


@pytest.mark.parametrize("backend", PLAIN)
@given(case=cases(torch.float32))
def test_float32_is_near_the_float64_reference(backend: str, case: Case) -> None:
    compare(run(case, backend), run(in_float64(case), "reference"), torch.float32, backend)


@pytest.mark.parametrize("backend", PLAIN)
@given(case=cases(), cut=st.floats(0, 1))
def test_any_split_equals_the_whole(backend: str, case: Case, cut: float) -> None:
    T = case.k.shape[1]
    border = int(cut * T)
    if not 0 < border < T:
        return
    k, v, w, u, *start = wanted = leaves(case)
    state, outputs = tuple(start), []
    with resurge.backend(backend):
        for piece in (slice(0, border), slice(border, T)):
            reset = None if case.reset is None else case.reset[:, piece]
            y, state = softmax_scan(k[:, piece], v[:, piece], w, u, state, reset=reset)
            outputs.append(y)
        y = torch.cat(outputs, 1)
        found = gradients(weighted(y, *state), wanted)
    compare([y, *state, *found], run(case, backend), torch.float64, backend)


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("bonus", [False, True])
def test_how_a_state_is_split_is_all_one(backend: str, bonus: bool) -> None:
    """(m + c, e^-c num, e^-c den) is the same state: the same outputs, and the same gradients of what led to it."""
    case = make_case(2, 2, 20, 3, 2, decay=True, bonus=bonus, resets=0.0)
    results = []
    for c in (0.0, -1.5, 3.0):
        k, v, w, u, *start = wanted = leaves(case)
        with resurge.backend(backend):
            first, (m, num, den) = softmax_scan(k[:, :9], v[:, :9], w, u, tuple(start))
            state = m + c, num * math.exp(-c), den * math.exp(-c)
            second, _ = softmax_scan(k[:, 9:], v[:, 9:], w, u, state)
            y = torch.cat([first, second], 1)
            results.append([y, *gradients(weighted(y), wanted)])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            if b.numel():
                assert_close(a, b, torch.float64, backend)


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("G", [1, 2])
def test_gradcheck(backend: str, decay: bool, bonus: bool, G: int) -> None:
    case = make_case(3, 2, 5, 2, G, decay=decay, bonus=bonus, resets=0.2)
    arguments = leaves(case)

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        k, v, w, u, *state = (None if z is None else next(left) for z in arguments)
        y, last = softmax_scan(k, v, w, u, tuple(state), reset=case.reset)
        return y, *last

    with resurge.backend(backend):
        assert torch.autograd.gradcheck(function, [z for z in arguments if z is not None])
        assert torch.autograd.gradgradcheck(function, [z for z in arguments if z is not None])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bonus", [False, True])
def test_reset_equals_separate_calls(backend: str, bonus: bool) -> None:
    case = make_case(4, 1, 13, 2, 2, decay=True, bonus=bonus, resets=0.0)
    reset = torch.zeros(1, 13, dtype=torch.bool)
    reset[0, [4, 5, 11]] = True
    with resurge.backend(backend):
        y, last = softmax_scan(*case[:4], case.state, reset=reset)
        parts, state = [softmax_scan(case.k[:, :4], case.v[:, :4], case.w, case.u, case.state)[0]], case.state
        for piece in (slice(4, 5), slice(5, 11), slice(11, 13)):
            part, state = softmax_scan(case.k[:, piece], case.v[:, piece], case.w, case.u)
            parts.append(part)
    assert_close(y, torch.cat(parts, 1), torch.float64, "y")
    for a, b in zip(last, state, strict=True):
        assert_close(a, b, torch.float64, "state")


def test_no_bonus_is_the_bonus_w() -> None:
    case = make_case(5, 2, 40, 3, 2, decay=True, bonus=False, resets=0.1)
    for a, b in zip(run(case, "numba")[:4], run(case._replace(u=case.w), "numba")[:4], strict=True):
        assert_close(a, b, torch.float64, "u = w")


def test_steps_equal_the_scan() -> None:
    for bonus in (False, True):
        case = make_case(6, 2, 12, 3, 2, decay=bonus, bonus=bonus, resets=0.0)
        y, last = softmax_scan(*case[:4], case.state)
        state, outputs = case.state, []
        for t in range(12):
            y_t, state = softmax_step(case.k[:, t], case.v[:, t], case.w, case.u, state)
            outputs.append(y_t)
        assert_close(torch.stack(outputs, 1), y, torch.float64, "y")
        for a, b in zip(state, last, strict=True):
            assert_close(a, b, torch.float64, "state")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_carried_in_float32(dtype: torch.dtype) -> None:
    k, v = torch.randn(2, 3000, 4).to(dtype), torch.rand(2, 3000, 8).to(dtype)
    w = torch.full((4,), 1e-3)
    y, last = softmax_scan(k, v, w)
    exact, exact_last = softmax_scan(k.double(), v.double(), w.double())
    assert y.dtype == dtype
    assert_close(y, exact, dtype, "y")
    assert all(part.dtype == torch.float32 for part in last)
    scale = torch.exp(last.m.double() - exact_last.m)  # m itself is rounded at each step, and made good in the sums
    assert_close(last.den * scale, exact_last.den, torch.float32, "den")  # carried in half precision it would stall
    num = last.num * scale.repeat_interleave(2, 1)
    assert_close(num, exact_last.num, torch.float32, "num")


def test_inputs_of_any_layout() -> None:
    k, v = (torch.randn(5, 4, 3, dtype=torch.float64).transpose(0, 2) for _ in range(2))
    w = torch.rand(1, dtype=torch.float64).expand(5)
    state = tuple(torch.rand(1, 5, dtype=torch.float64).expand(3, 5) for _ in range(3))
    y, _ = softmax_scan(k, v, w, w, state)
    contiguous = [z.contiguous() for z in (k, v, w, w)]
    expected, _ = softmax_scan(*contiguous, tuple(z.contiguous() for z in state))
    assert torch.equal(y, expected)


@pytest.mark.parametrize("G", [1, 16])
def test_rows_and_threads_change_no_bit(G: int) -> None:
    case = make_case(1, 3, 400, 64 // G, G, decay=True, bonus=True, resets=0.01, dtype=torch.float32)
    result = same_on_any_threads(lambda: run(case, "numba"))
    reset = case.reset[1:2] if case.reset is not None else None
    state = tuple(z[1:2] for z in case.state)
    alone, _ = softmax_scan(case.k[1:2], case.v[1:2], case.w, case.u, state, reset=reset)
    assert torch.equal(alone, result[0][1:2])


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("resets", [0.0, 0.0003])
def test_long_rows_are_cut_in_pieces_for_the_threads(bonus: bool, resets: float) -> None:
    case = make_case(7, 1, 8200, 2, 3, decay=True, bonus=bonus, resets=resets)
    assert case.w is not None
    case = case._replace(w=1e-4 * case.w, k=0.3 * case.k)  # long memories
    threads = torch.get_num_threads()
    results = []
    for count in (1, 4):
        torch.set_num_threads(count)
        results.append(run(case, "numba"))
    torch.set_num_threads(threads)
    compare(results[1], results[0], torch.float64, "pieces")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_output_sees_the_future(backend: str) -> None:
    k, v = (torch.randn(1, 12, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with resurge.backend(backend):
        y, _ = softmax_scan(k, v)
    for gradient in torch.autograd.grad(y[:, 6].sum(), (k, v)):
        assert bool((gradient[:, :7] != 0).all())
        assert bool((gradient[:, 7:] == 0).all())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [80.0, 1e4, 1e30])
def test_logits_of_any_size(backend: str, scale: float) -> None:
    """Against float64 sums in which the largest logit is taken off first; there the softmax is a maximum."""
    generator = torch.Generator().manual_seed(0)
    k = (scale * torch.randn(1, 13, 3, generator=generator)).requires_grad_()
    v = torch.randn(1, 13, 3, generator=generator).requires_grad_()
    w, u = torch.tensor([0.0, 1e4, math.inf], requires_grad=True), torch.randn(3).requires_grad_()
    with resurge.backend(backend):
        y, last = softmax_scan(k, v, w, u)
        found = torch.autograd.grad(weighted(y, *last), (k, v, w, u))
    assert all(bool(torch.isfinite(z).all()) for z in (y, *last, *found))
    with torch.no_grad():
        for t in range(13):
            steps_ago = torch.arange(t, -1, -1)[:, None].double()
            logits = k[0, : t + 1].double() - torch.where(steps_ago > 1, (steps_ago - 1) * w.double(), 0)
            logits[t] += u.double()
            exact = (torch.softmax(logits, 0) * v[0, : t + 1].double()).sum(0)
            assert y[0, t].tolist() == pytest.approx(exact.tolist(), abs=5e-6 if scale < 1e3 else 1e-3)


@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("value", [1e30, 1e-42, 0.0])
def test_values_of_any_size(backend: str, value: float) -> None:
    v = torch.full((1, 500, 4), value, requires_grad=True)
    k = torch.randn(1, 500, 4, requires_grad=True)
    with resurge.backend(backend):
        y, last = softmax_scan(k, v, torch.tensor([0.0, 1e-5, 0.1, 50.0]))
        (y.sum() / 1e32 + last.num.sum() / 1e32).backward()
    assert y.detach().numpy() == pytest.approx(np.full((1, 500, 4), value), rel=1e-4, abs=1e-44)
    assert k.grad is not None
    assert v.grad is not None
    assert bool(torch.isfinite(k.grad).all() and torch.isfinite(v.grad).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_logits_without_a_state_have_the_gradients_of_a_mean(backend: str) -> None:
    k, v = torch.zeros(1, 6, 1, dtype=torch.float64, requires_grad=True), torch.randn(1, 6, 1, dtype=torch.float64)
    v.requires_grad_()
    with resurge.backend(backend):
        y, _ = softmax_scan(k, v)
        dk, dv = torch.autograd.grad(y[0, -1, 0], (k, v))
    assert_close(dv, torch.full_like(dv, 1 / 6), torch.float64, "dv")
    assert_close(dk, (v - v.mean()) / 6, torch.float64, "dk")


def test_gradients_of_decays_keep_their_digits_over_long_sums() -> None:
    T = 100_000
    k, v = torch.randn(1, T, 4), torch.rand(1, T, 4)
    found = []
    for dtype in (torch.float32, torch.float64):
        w = torch.tensor([0.1, 0.5, 1.0, 5.0]).to(dtype).requires_grad_()
        u = torch.tensor([-1.0, 0.0, 1.0, 2.0]).to(dtype).requires_grad_()
        y, _ = softmax_scan(k.to(dtype), v.to(dtype), w, u)
        found.append(torch.cat([z.double() for z in torch.autograd.grad((y * v.to(dtype)).sum(), (w, u))]))
    assert float(((found[0] - found[1]) / found[1]).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("backend", "T", "count", "w"), [("numba", 32768, 1, 1e-4), ("numba", 32768, 5, 1e-4), ("triton", 600, 1, 1e-3)]
)
def test_float32_keeps_its_digits_over_long_memories(backend: str, T: int, count: int, w: float) -> None:
    """In one piece and in several: a decayed m is rounded alike at every step, and not alike in another piece."""
    case = make_case(5, 1, T, 4, 4, decay=True, bonus=False, resets=0.0, scale=1.0, dtype=torch.float32)
    case = case._replace(k=case.k + 30, w=torch.full((4,), w))

    def outputs(case: Case, backend: str) -> list[Tensor]:
        k, v, decay, _, *state = wanted = leaves(case, DEVICE.get(backend, "cpu"))
        with resurge.backend(backend):
            y, _ = softmax_scan(k, v, decay, None, tuple(state))
            return [z.detach().cpu() for z in (y, *gradients(weighted(y), wanted))]

    with threads(count):
        found = outputs(case, backend)
    for name, a, b in zip(("y", *NAMES[4:]), found, outputs(in_float64(case), "numba"), strict=True):
        if b.numel():
            assert float((a - b).abs().max() / b.abs().max()) < 2e-5, name


@pytest.mark.parametrize("resets", [0.0, 0.3])
@pytest.mark.parametrize("with_parameters", [False, True])
def test_the_registered_operator_is_sound(resets: float, with_parameters: bool) -> None:
    case = make_case(8, 2, 17, 2, 2, decay=with_parameters, bonus=with_parameters, resets=resets, dtype=torch.float32)
    k, v, w, u, m, num, den = leaves(case)
    start = torch.cat([num, m, den], 1).detach().requires_grad_()
    torch.library.opcheck(torch.ops.resurge.softmax_scan.default, (k, v, w, u, start, case.reset))


class Scan(torch.nn.Module):
    """The scan as a module, for the tools that take one."""

    def forward(self, k: Tensor, v: Tensor, w: Tensor, u: Tensor, reset: Tensor) -> tuple[Tensor, ...]:
        y, last = softmax_scan(k, v, w, u, reset=reset)
        return y, *last


def test_compiled_exported_and_checkpointed_it_is_the_same() -> None:
    case = make_case(9, 2, 20, 3, 2, decay=True, bonus=True, resets=0.2)
    k, v, w, u = (z.requires_grad_() for z in case[:4])
    expected = Scan()(k, v, w, u, case.reset)
    expected_gradients = torch.autograd.grad(weighted(*expected), (k, v, w, u))
    torch._dynamo.reset()
    compiled = torch.compile(Scan(), fullgraph=True, backend="aot_eager")
    exported = torch.export.export(Scan(), (k, v, w, u, case.reset)).module()

    def checkpointed(*arguments: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = torch.utils.checkpoint.checkpoint(Scan(), *arguments, use_reentrant=False)
        return outputs

    for form in (compiled, exported, checkpointed):
        outputs = form(k, v, w, u, case.reset)
        found = torch.autograd.grad(weighted(*outputs), (k, v, w, u))
        for a, b in zip((*outputs, *found), (*expected, *expected_gradients), strict=True):
            assert_close(a, b, torch.float64, str(form))


@pytest.mark.filterwarnings("ignore:resurge:UserWarning")
def test_vmap_and_forward_mode_take_the_composable_form() -> None:
    k, v = torch.randn(2, 4, 2, 6, 3, dtype=torch.float64)
    w, u = torch.rand(2, 3, dtype=torch.float64)
    mapped = torch.func.vmap(lambda k, v: softmax_scan(k, v, w, u)[0])(k, v)
    looped = torch.stack([softmax_scan(k[i], v[i], w, u)[0] for i in range(4)])
    assert_close(mapped, looped, torch.float64, "vmap")
    tangent = torch.randn_like(v[0])
    _, derivative = torch.func.jvp(lambda v: softmax_scan(k[0], v, w, u)[0], (v[0],), (tangent,))
    assert_close(derivative, softmax_scan(k[0], tangent, w, u)[0], torch.float64, "jvp")  # the average is linear in v
    _, derivative = torch.func.jvp(lambda k: softmax_scan(k, v[0], w, u)[0], (k[0],), (tangent,))
    rise = softmax_scan(k[0] + 1e-6 * tangent, v[0], w, u)[0] - softmax_scan(k[0] - 1e-6 * tangent, v[0], w, u)[0]
    assert float((derivative - rise / 2e-6).abs().max()) < 1e-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 0, 3)}, r"k must have shape \(B, T, H\) with B, T, H >= 1, and has \(2, 0, 3\)"),
        ({"v": torch.zeros(2, 5, 7)}, r"D a multiple of H=3, and has \(2, 5, 7\)"),
        ({"v": torch.zeros(2, 4, 6)}, r"v must have shape \(B, T, D\) with B=2, T=5"),
        ({"w": torch.zeros(6)}, r"w must have shape \(3,\) for k \(2, 5, 3\), and has \(6,\)"),
        ({"u": torch.zeros(3, dtype=torch.int64)}, "u must be floating point, and is torch.int64"),
        ({"state": (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))}, r"state.num must have shape \(2, 6\)"),
        ({"state": (torch.zeros(2, 3),)}, r"state must be three tensors \(m, num, den\), and has 1"),
        ({"reset": torch.zeros(2, 4, dtype=torch.bool)}, r"reset must be bool of shape \(B, T\) = \(2, 5\)"),
        ({"k": torch.zeros(2, 5, 3, device="meta")}, "k is on meta, and v is on cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    given = {"k": torch.zeros(2, 5, 3), "v": torch.zeros(2, 5, 6), "w": None, "u": None, "state": None, "reset": None}
    given |= change
    with pytest.raises(resurge.ResurgeError, match=message):
        softmax_scan(given["k"], given["v"], given["w"], given["u"], given["state"], reset=given["reset"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 3)}, r"k must have shape \(B, H\) with B, H >= 1, and has \(2, 5, 3\)"),
        ({"v": torch.zeros(2, 7)}, r"v must have shape \(B, D\) with B=2 and D a multiple of H=3, and has \(2, 7\)"),
        ({"v": torch.zeros(1, 6)}, r"v must have shape \(B, D\) with B=2"),
        ({"state": torch.zeros(3, 1, 3).unbind(0)}, r"state.m must have shape \(2, 3\) .*and has \(1, 3\)"),
        ({"state": torch.zeros(3, 2, 3, dtype=torch.int64).unbind(0)}, "state.m must be floating point, and is"),
        ({"k": torch.zeros(2, 3, dtype=torch.int64)}, "k must be floating point, and is torch.int64"),
        ({"u": torch.zeros(6)}, r"u must have shape \(3,\) for k \(2, 3\), and has \(6,\)"),
        ({"k": torch.zeros(2, 3, device="meta")}, "k is on meta, and v is on cpu"),
    ],
)
def test_a_step_names_bad_arguments(change: dict[str, Any], message: str) -> None:
    """Broadcasting would take the state of one row for all of a batch."""
    sound = {"k": torch.zeros(2, 3), "v": torch.zeros(2, 3), "w": None, "u": None, "state": torch.zeros(3, 2, 3)}
    with pytest.raises(resurge.ResurgeError, match=message):
        softmax_step(**sound | change)
