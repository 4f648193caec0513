"""Recurrences whose state enters a nonlinearity: the scans of LEM and SCRN, and their layers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge.layers import LEM, SCRN, AdaptiveSCRN
from resurge.ops import lem_scan, sigmoid_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
Outputs = tuple[Tensor, ...]


def lem(p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, reset: Tensor | None = None) -> Outputs:
    return lem_scan(p, R, C, dt, y0, z0, reset=reset)


def sigmoid(p: Tensor, R: Tensor, h0: Tensor, reset: Tensor | None = None) -> Outputs:
    return (sigmoid_scan(p, R, h0, reset=reset),)


SCANS: dict[Callable[..., Outputs], Callable[[int, int, int], list[Tensor]]] = {
    lem: lambda B, T, D: [
        torch.randn(B, T, 4 * D), torch.randn(3 * D, D) / D**0.5, torch.randn(D, D) / D**0.5,
        0.05 + 2 * torch.rand(B, T), torch.rand(B, D) - 0.5, torch.rand(B, D) - 0.5,
    ],
    sigmoid: lambda B, T, D: [torch.randn(B, T, D), torch.randn(D, D), torch.rand(B, D)],
}  # fmt: skip
SHAPES = [(1, 1, 1), (2, 9, 3), (3, 23, 17), (2, 5, 40)]


def case(scan: Callable[..., Outputs], B: int, T: int, D: int, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [v.double() for v in SCANS[scan](B, T, D)]


def resets(B: int, T: int) -> Tensor:
    return torch.rand(B, T, generator=torch.Generator().manual_seed(3)) < 0.3


def differentiated(
    run: Callable[..., Outputs],
    arguments: list[Tensor],
    names: tuple[str, ...] = ("y", "z", "p", "R", "C", "dt", "y0", "z0"),
) -> dict[str, Tensor]:
    """Outputs and all gradients of a random loss."""
    arguments = [v.detach().clone().requires_grad_() for v in arguments]
    outputs = run(*arguments)
    generator = torch.Generator().manual_seed(4)
    loss = sum((v * torch.randn(v.shape, generator=generator).to(v)).sum() for v in outputs)
    gradients = torch.autograd.grad(loss, arguments)  # type: ignore[arg-type]
    return {f"{i}": v for i, v in enumerate((*outputs, *gradients))}


def same(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype, what: str = "") -> None:
    for name, value in expected.items():
        if bool((value == 0).all()):  # a gradient that a reset cuts off
            assert bool((actual[name] == 0).all()), f"{what} {name}"
        else:
            assert_close(actual[name].cpu(), value, dtype, f"{what} {name}")


def on(backend: str, scan: Callable[..., Outputs], reset: Tensor | None = None) -> Callable[..., Outputs]:
    def run(*arguments: Tensor) -> Outputs:
        with resurge.backend(backend):
            return scan(*arguments, reset=reset)

    return run


def test_lem_scan_is_the_papers_equation() -> None:
    p, R, C, dt, y, z = case(lem, 1, 30, 4)
    dt = dt / 3  # where the paper's equation needs no bound
    W_1, W_2, W_z = R.split(4)
    ys, zs = lem_scan(p, R, C, dt, y, z)
    for t in range(30):
        i_1, i_2, i_z, i_y = p[0, t].split(4)
        slow = dt[0, t] / (1 + torch.exp(-(i_1 + W_1 @ y[0])))
        fast = dt[0, t] / (1 + torch.exp(-(i_2 + W_2 @ y[0])))
        z = (z[0] + fast * (torch.tanh(i_z + W_z @ y[0]) - z[0]))[None]
        y = (y[0] + slow * (torch.tanh(i_y + C @ z[0]) - y[0]))[None]  # the new z
        assert_close(ys[:, t], y, torch.float64, f"y at {t}")
        assert_close(zs[:, t], z, torch.float64, f"z at {t}")


def test_a_step_too_long_arrives_at_its_target() -> None:
    p, R, C, dt, y, z = case(lem, 2, 1, 5)
    ys, zs = lem_scan(p, R, C, 1e6 * dt, y, z)
    target = torch.tanh(p[:, 0, 10:15] + y @ R[10:].T)
    assert_close(zs[:, 0], target, torch.float64, "z")
    assert_close(ys[:, 0], torch.tanh(p[:, 0, 15:] + target @ C.T), torch.float64, "y")


def test_without_recurrent_weights_lem_is_an_average_with_moving_rates() -> None:
    """The closed form of z_t: the targets, each weighted by its rate and by what later rates leave of it."""
    p, R, C, dt, y, z = case(lem, 2, 40, 3)
    _, zs = lem_scan(p, 0 * R, C, dt / 3, y, z)
    rate = dt[..., None] / 3 * torch.sigmoid(p[..., 3:6])
    left = torch.cumsum(torch.log1p(-rate), 1)
    weights = torch.exp(left[:, :, None] - left[:, None]) * torch.tril(torch.ones(40, 40))[..., None]
    expected = torch.einsum("btsd,bsd->btd", weights, rate * torch.tanh(p[..., 6:9])) + torch.exp(left) * z[:, None]
    assert_close(zs, expected, torch.float64, "z")


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_equal_the_reference(scan: Callable[..., Outputs], shape: tuple[int, int, int], cut: bool) -> None:
    arguments, reset = case(scan, *shape), resets(*shape[:2]) if cut else None
    expected = differentiated(on("reference", scan, reset), arguments)
    same(differentiated(on("numba", scan, reset), arguments), expected, torch.float64)
    same(differentiated(on("torch", scan, reset), arguments), expected, torch.float64)
    narrow = [v.float() for v in arguments]
    expected = differentiated(on("reference", scan, reset), [v.double() for v in narrow])
    same(differentiated(on("numba", scan, reset), narrow), expected, torch.float32)


@pytest.mark.parametrize("scan", SCANS)
@settings(max_examples=5)
@given(B=st.integers(1, 2), T=st.integers(1, 7), D=st.integers(1, 5), cut=st.booleans())
def test_triton_equals_the_reference(scan: Callable[..., Outputs], B: int, T: int, D: int, cut: bool) -> None:
    arguments, reset = case(scan, B, T, D, T), resets(B, T) if cut else None
    there = None if reset is None else reset.to(DEVICE)
    actual = differentiated(on("triton", scan, there), [v.to(DEVICE) for v in arguments])
    same(actual, differentiated(on("reference", scan, reset), arguments), torch.float64)


@pytest.mark.parametrize("scan", SCANS)
def test_triton_goes_over_several_tiles(scan: Callable[..., Outputs]) -> None:
    arguments, reset = case(scan, 1, 2, 70), torch.tensor([[False, False]])
    actual = differentiated(on("triton", scan, reset.to(DEVICE)), [v.to(DEVICE) for v in arguments])
    same(actual, differentiated(on("reference", scan), arguments), torch.float64)


@CUDA
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shape", [(64, 500, 32), (7, 300, 128), (3, 100, 200)])
def test_triton_at_full_size(scan: Callable[..., Outputs], shape: tuple[int, int, int]) -> None:
    """Steps hand the state on through memory: a barrier that did not hold would show here, not in the interpreter."""
    arguments = case(scan, *shape)
    expected = differentiated(on("numba", scan, resets(*shape[:2])), arguments)
    actual = differentiated(on("triton", scan, resets(*shape[:2]).cuda()), [v.cuda() for v in arguments])
    same(actual, expected, torch.float64)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("backend", ["numba", "torch", "reference"])
def test_any_split_equals_the_whole(scan: Callable[..., Outputs], backend: str) -> None:
    reset = resets(2, 20)

    def pieces(borders: tuple[int, ...], *arguments: Tensor) -> Outputs:
        n = len(arguments) - (2 if scan is lem else 1)
        inputs, state = arguments[:n], arguments[n:]
        outputs = []
        for a, b in zip((0, *borders), (*borders, 20), strict=True):
            part = [v[:, a:b] if i in (0, 3) else v for i, v in enumerate(inputs)]  # p and dt
            outputs.append(scan(*part, *state, reset=reset[:, a:b]))
            state = tuple(v[:, -1] for v in outputs[-1])
        return tuple(torch.cat(parts, 1) for parts in zip(*outputs, strict=True))

    arguments = case(scan, 2, 20, 6)
    with resurge.backend(backend):
        whole = differentiated(partial(scan, reset=reset), arguments)
        for borders in ((1,), (7, 8, 15), tuple(range(1, 20))):
            same(differentiated(partial(pieces, borders), arguments), whole, torch.float64, str(borders))


@pytest.mark.parametrize("scan", SCANS)
def test_rows_and_threads_change_no_bit(scan: Callable[..., Outputs]) -> None:
    arguments = [v.float() for v in case(scan, 5, 300, 33)]
    per_row = [v.shape[0] == 5 for v in arguments]
    whole = scan(*arguments)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded = scan(*arguments)
    finally:
        torch.set_num_threads(before)
    alone = scan(*(v[2:3] if of_row else v for v, of_row in zip(arguments, per_row, strict=True)))
    for a, b, c in zip(whole, threaded, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[2:3], c)


@pytest.mark.parametrize("scan", SCANS)
def test_inputs_of_any_layout(scan: Callable[..., Outputs]) -> None:
    arguments = case(scan, 3, 8, 4)
    expected = differentiated(scan, arguments)
    arguments = [v.transpose(0, 1).contiguous().transpose(0, 1) for v in arguments]
    inputs = [v.requires_grad_() for v in arguments]
    outputs = scan(*inputs)
    generator = torch.Generator().manual_seed(4)
    loss = sum((v * torch.randn(v.shape, generator=generator).to(v)).sum() for v in outputs)
    gradients = torch.autograd.grad(loss, inputs)  # type: ignore[arg-type]
    same({f"{i}": v for i, v in enumerate((*outputs, *gradients))}, expected, torch.float64)
    row = arguments[0][:1].detach()
    expanded = scan(row.expand(3, -1, -1), *arguments[1:])
    assert_close(expanded[0], scan(row.repeat(3, 1, 1), *arguments[1:])[0], torch.float64, "an expanded row")


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("value", [1e30, -1e30, 1e-40, -1e4])
def test_extreme_inputs_stay_finite(scan: Callable[..., Outputs], value: float) -> None:
    p, *rest = (v.float() for v in case(scan, 2, 6, 4))
    for name, v in differentiated(scan, [torch.full_like(p, value), *rest]).items():
        assert bool(torch.isfinite(v).all()), name


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("cut", [False, True])
def test_registered_operators_are_sound(scan: Callable[..., Outputs], cut: bool) -> None:
    arguments = [v.requires_grad_() for v in case(scan, 2, 4, 3)]
    operator = torch.ops.resurge.lem_scan if scan is lem else torch.ops.resurge.sigmoid_scan
    torch.library.opcheck(operator.default, (*arguments, resets(2, 4) if cut else None))


@pytest.mark.parametrize("scan", SCANS)
def test_transforms_and_higher_derivatives(scan: Callable[..., Outputs]) -> None:
    arguments = case(scan, 2, 4, 2)
    small = [v.requires_grad_() for v in arguments]
    assert torch.autograd.gradgradcheck(scan, small)
    with resurge.backend("torch"):  # without the warning that it serves here
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(arguments[0], torch.ones_like(arguments[0]))
            tangent = torch.autograd.forward_ad.unpack_dual(scan(dual, *arguments[1:])[0]).tangent
        many = torch.func.vmap(lambda p: scan(p, *arguments[1:])[0])(torch.stack([arguments[0]] * 3))
    assert_close(many[1], scan(*arguments)[0], torch.float64, "vmap")
    step = 1e-6
    moved = [scan(arguments[0] + d, *arguments[1:])[0] for d in (step, -step)]
    assert float((tangent - (moved[0] - moved[1]) / (2 * step)).detach().abs().max()) < 1e-8


@pytest.mark.parametrize("scan", SCANS)
def test_compiled_exported_and_checkpointed_it_is_the_same(scan: Callable[..., Outputs]) -> None:
    arguments = case(scan, 2, 5, 3)
    expected = differentiated(scan, arguments)
    torch._dynamo.reset()
    same(differentiated(torch.compile(scan, fullgraph=True, backend="aot_eager"), arguments), expected, torch.float64)

    def checkpointed(*arguments: Tensor) -> Any:
        return torch.utils.checkpoint.checkpoint(scan, *arguments, use_reentrant=False)

    same(differentiated(checkpointed, arguments), expected, torch.float64)

    class Module(torch.nn.Module):
        def forward(self, *arguments: Tensor) -> Outputs:
            return scan(*arguments)

    exported = torch.export.export(Module(), tuple(arguments)).module()
    assert_close(exported(*arguments)[0], expected["0"], torch.float64, "exported")


@pytest.mark.parametrize("scan", SCANS)
def test_half_precision_is_computed_in_float32(scan: Callable[..., Outputs]) -> None:
    half = [v.bfloat16() for v in case(scan, 2, 6, 4)]
    for a, b in zip(scan(*half), scan(*(v.float() for v in half)), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": torch.zeros(2, 5, 13)}, r"p must have shape \(B, T, 4 D\)"),
        ({"R": torch.zeros(3, 3)}, r"R must have shape \(3 D, D\) = \(9, 3\), and has \(3, 3\)"),
        ({"C": torch.zeros(3, 4)}, r"C must have shape \(D, D\)"),
        ({"dt": torch.zeros(2, 4)}, r"dt must have shape \(B, T\) = \(2, 5\), and has \(2, 4\)"),
        ({"y0": torch.zeros(1, 3)}, r"y0 must have shape \(B, D\) = \(2, 3\)"),
        ({"z0": torch.zeros(2, 3, dtype=torch.int64)}, "z0 must be floating point, and is torch.int64"),
        ({"reset": torch.zeros(2, 5)}, "reset must be bool of shape"),
        ({"R": torch.zeros(9, 3, device="meta")}, "R is on meta, and p is on cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    good = {
        "p": torch.zeros(2, 5, 12), "R": torch.zeros(9, 3), "C": torch.zeros(3, 3), "dt": torch.ones(2, 5)
    }  # fmt: skip
    lem_scan(**good)  # type: ignore[arg-type]
    with pytest.raises(resurge.ResurgeError, match=message):
        lem_scan(**{**good, **change})  # type: ignore[arg-type]


def test_float32_sigmoid_and_tanh_keep_their_digits() -> None:
    """Through the scan: one unit without recurrent weights, whose step of 2 arrives at tanh(p)."""
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.logspace(-30, 0, 100), torch.zeros(1)])
    p = torch.zeros(1, len(x), 4)
    p[0, :, 1], p[0, :, 2] = 30.0, x
    zero = torch.zeros(1, 1)
    _, z = lem_scan(p, torch.zeros(3, 1), zero, torch.full((1, len(x)), 2.0))
    exact = torch.tanh(x.double())
    assert float(((z[0, :, 0] - exact) / exact.abs().clamp(min=1e-35)).abs().max()) < 4e-7
    h = sigmoid_scan(x[None, :, None], zero)
    exact = torch.sigmoid(x.double())
    assert float(((h[0, :, 0] - exact) / exact).abs().max()) < 4e-7


def test_lem_holds_the_published_cells_parameters() -> None:
    """Evaluated cell by cell from the parameters under their published names."""
    torch.manual_seed(0)
    layer = LEM(5, 6, delta=0.3).double()
    p = {name: v.detach() for name, v in layer.named_parameters()}
    x = torch.randn(2, 12, 5, dtype=torch.float64)
    y, z, outputs = torch.zeros(2, 6).double(), torch.zeros(2, 6).double(), []
    for x_t in x.unbind(1):
        i_1, i_2, i_y, i_z = (x_t @ p["inp2hid.weight"].T + p["inp2hid.bias"]).chunk(4, 1)
        h_1, h_2, h_z = (y @ p["hid2hid.weight"].T + p["hid2hid.bias"]).chunk(3, 1)
        fast = 0.3 * torch.sigmoid(i_2 + h_2)
        z = (1 - fast) * z + fast * torch.tanh(i_z + h_z)
        slow = 0.3 * torch.sigmoid(i_1 + h_1)
        y = (1 - slow) * y + slow * torch.tanh(z @ p["transform_z.weight"].T + p["transform_z.bias"] + i_y)
        outputs.append(y @ p["out.weight"].T)
    actual, state = layer(x)
    assert_close(actual, torch.stack(outputs, 1), torch.float64, "out")
    assert_close(state.y, y, torch.float64, "y")
    assert_close(state.z, z, torch.float64, "z")


def test_lem_starts_as_published() -> None:
    torch.manual_seed(0)
    for name, v in LEM(50, 100).named_parameters():
        assert float(v.detach().abs().max()) <= 0.1, name
        assert float(v.detach().std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.15), name


def test_lem_states_do_not_keep_the_sequence() -> None:
    _, state = LEM(4, 4)(torch.randn(1, 100, 4))
    assert state.y.untyped_storage().nbytes() == 4 * 4


def test_scrn_without_recurrent_weights_is_a_moving_average() -> None:
    """With R = 0, the context is an exponential moving average, and everything else a function of it: eqs. 3 to 5."""
    torch.manual_seed(0)
    layer = SCRN(5, 7, 3, alpha=0.9).double()
    torch.nn.init.zeros_(layer.R)
    x = torch.randn(2, 40, 5, dtype=torch.float64)
    age = (torch.arange(40)[:, None] - torch.arange(40)).double()
    weights = torch.where(age >= 0, 0.1 * 0.9**age, 0.0)
    s = torch.einsum("ts,bsd->btd", weights, x @ layer.B.T)
    h = torch.sigmoid(s @ layer.P.T + x @ layer.A.T)
    assert_close(layer(x)[0], h @ layer.U.T + s @ layer.V.T, torch.float64, "y")


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95])
def test_scrn_is_the_papers_equations(alpha: float) -> None:
    torch.manual_seed(0)
    layer = SCRN(5, 7, 3, alpha=alpha).double()
    torch.nn.init.normal_(layer.R)
    x = torch.randn(2, 20, 5, dtype=torch.float64)
    h, s, outputs = torch.zeros(2, 7).double(), torch.zeros(2, 3).double(), []
    for x_t in x.unbind(1):
        s = (1 - alpha) * x_t @ layer.B.T + alpha * s
        h = torch.sigmoid(s @ layer.P.T + x_t @ layer.A.T + h @ layer.R.T)  # the new context
        outputs.append(h @ layer.U.T + s @ layer.V.T)
    y, state = layer(x)
    assert_close(y, torch.stack(outputs, 1), torch.float64, "y")
    assert_close(state.h, h, torch.float64, "h")
    assert_close(state.s, s, torch.float64, "s")


def test_scrn_with_learned_decays_starts_as_the_other() -> None:
    torch.manual_seed(0)
    layer, fixed = AdaptiveSCRN(5, 7, 3).double(), SCRN(5, 7, 3).double()
    fixed.load_state_dict({name: v for name, v in layer.state_dict().items() if name != "beta"})
    x = torch.randn(2, 20, 5, dtype=torch.float64)
    assert float((layer(x)[0] - fixed(x)[0]).detach().abs().max()) < 1e-7  # beta was rounded to float32
    with torch.no_grad():
        layer.beta.copy_(torch.tensor([0.0, 2.0, 5.0]))
    log_alpha, rest = layer.decays(torch.zeros(1, dtype=torch.float64))
    assert_close(log_alpha.exp() + rest, torch.ones(3), torch.float64, "α")
    assert float((layer(x)[1].s - fixed(x)[1].s).detach().abs().max()) > 1e-4


def test_scrn_weights_start_small() -> None:
    torch.manual_seed(0)
    for name, v in SCRN(100, 200, 100).named_parameters():
        assert float(v.detach().std()) == pytest.approx(0.05, rel=0.05), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LEM(4, delta=0.0), r"delta must lie in \(0, 1\], and is 0"),
        (lambda: LEM(4, delta=1.5), r"delta must lie in \(0, 1\], and is 1.5"),
        (lambda: SCRN(4, alpha=1.0), r"alpha must lie in \[0, 1\), and is 1"),
        (lambda: SCRN(4, 4, 0), "d_context must be at least 1"),
        (lambda: AdaptiveSCRN(4, alpha=0.0), r"alpha must lie in \(0, 1\), and is 0"),
    ],
)
def test_options_out_of_range_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=message):
        make()
