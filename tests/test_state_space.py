"""State-space layers against the definitions of their measures, SciPy's linear systems and loops in plain algebra."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge.analysis import projection
from resurge.layer import TimedLayer
from resurge.layers import LSSL, S5, HiPPORNN, S4DInv, S4DLegS, S4DLin
from resurge.layers.s4d import S4D
from resurge.nn import discretise, hippo
from resurge.nn.impulse import convolve, krylov

METHODS = {"forward_euler": "euler", "backward_euler": "backward_diff", "bilinear": "bilinear", "zoh": "zoh"}
S4DS: list[type[S4D]] = [S4DLin, S4DInv, S4DLegS]


def quadrature(n: int, upto: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on [0, upto]."""
    x, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((x + 1) * upto / 2), torch.from_numpy(w * upto / 2)


@pytest.mark.parametrize("measure", [hippo.LEGS, hippo.LEGT, hippo.LAGT, hippo.FOURIER])
def test_the_bases_are_orthonormal(measure: hippo.Measure) -> None:
    s, w = quadrature(150, 125.0 if measure is hippo.LAGT else 1.0)
    g = measure.basis(9, s)
    assert_close(g.T @ (w[:, None] * g), torch.eye(9, dtype=torch.float64), torch.float64, "Gram matrix")


def past(measure: hippo.Measure, f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The coefficients at t by their definition: the integral over the past against the basis."""
    s, w = quadrature(150, 125.0 if measure is hippo.LAGT else 1.0)
    window = t if measure.scaled else 1.0
    return (w * f(t - s * window)) @ measure.basis(9, s)


@pytest.mark.parametrize(
    ("measure", "f"),
    [
        (hippo.LEGS, lambda t: torch.sin(3 * t) + t**2),  # any function
        (hippo.LAGT, lambda t: torch.sin(2 * t + 1)),  # any function
        (hippo.LEGT, lambda t: 1 - 2 * t + 3 * t**7),  # polynomials of degree < n: what leaves the window is known
        (hippo.FOURIER, lambda t: 1 + torch.sin(2 * math.pi * t) - torch.cos(8 * math.pi * t)),  # and of period 1
    ],
    ids=["LegS", "LagT", "LegT", "Fourier"],
)
def test_the_coefficients_obey_their_system(measure: hippo.Measure, f: Callable[[Tensor], Tensor]) -> None:
    """The time derivative of the integrals, by autograd, is A c + B f."""
    A, B = measure.system(9)
    for at in (0.4, 1.7):
        t = torch.tensor(at, dtype=torch.float64)
        c = past(measure, f, t)
        slope = torch.autograd.functional.jacobian(lambda t: past(measure, f, t), t)
        scale = t if measure.scaled else 1.0
        assert_close(scale * slope, A @ c + B * f(t), torch.float64, f"slope at {at}")


def test_the_spectra_of_legs() -> None:
    A, _ = hippo.legs(8)
    assert_close(torch.linalg.eigvals(A).real.sort().values, -torch.arange(8.0, 0, -1), torch.float64, "LegS")
    re, omega, V = hippo.normal(32)
    assert omega[-4:].flip(0).tolist() == pytest.approx([325.4, 107.1, 62.6, 43.0], abs=0.05)
    assert (re == -0.5).all()
    whole = torch.complex(*V)
    half = whole @ torch.diag(torch.complex(re, omega)) @ whole.mH
    A, B = hippo.legs(32)
    assert_close(2 * half.real, A + B[:, None] * B / 2, torch.float64, "V Λ V* and its conjugate")


@pytest.mark.parametrize("method", METHODS)
def test_discretisations_are_scipys(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    A[:, 2] = 0  # singular
    B = torch.randn(5, generator=generator, dtype=torch.float64)
    deltas = torch.tensor([0.3, 0.01], dtype=torch.float64)
    A_bar, B_bar = getattr(discretise, method)(A, B, deltas)
    for k, delta in enumerate(deltas.tolist()):
        system = (A.numpy(), B[:, None].numpy(), np.eye(5), np.zeros((5, 1)))
        expected = scipy.signal.cont2discrete(system, delta, METHODS[method])
        assert_close(A_bar[k], torch.from_numpy(expected[0]), torch.float64, "A")
        assert_close(B_bar[k], torch.from_numpy(expected[1][:, 0]), torch.float64, "B")


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_the_diagonal_rules_are_the_dense_ones(method: str) -> None:
    lam = torch.tensor([-0.5 + 3j, -1e-7 + 1e-7j, -20 + 100j], dtype=torch.complex128)
    for delta in (1e-6, 0.02, 1.0):
        expected = scipy.signal.cont2discrete(
            (np.diag(lam.numpy()), np.ones((3, 1)), np.eye(3), np.zeros((3, 1))), delta, method
        )
        step = torch.tensor(delta, dtype=torch.float64)
        a, g = (torch.complex(*v) for v in getattr(discretise, f"diagonal_{method}")(lam.real, lam.imag, step))
        assert_close(a, torch.from_numpy(np.diag(expected[0]).copy()), torch.float64, "λ")
        for value, other in zip(g, expected[1][:, 0], strict=True):  # each to its own scale: no digits lost
            assert abs(complex(value) - other) <= 1e-9 * abs(other)


def test_backward_euler_of_a_leak_is_a_gate() -> None:
    """Lemma 3.1 of arXiv 2110.13985: ẋ = -x + u with Δ = exp(z) gives (1 - σ(z)) x + σ(z) u."""
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    A_bar, B_bar = discretise.backward_euler(-one[:, None], one, torch.exp(z))
    assert_close(A_bar[:, 0, 0], torch.sigmoid(-z), torch.float64, "what is kept")
    assert_close(B_bar[:, 0], torch.sigmoid(z), torch.float64, "what enters")


def test_krylov_and_convolution() -> None:
    A, b = torch.randn(3, 4, 4, dtype=torch.float64) / 2, torch.randn(3, 4, dtype=torch.float64)
    K = krylov(A, b, 11)
    x = b
    for k in range(11):
        assert_close(K[..., k], x, torch.float64, f"A^{k} b")
        x = (A @ x[..., None])[..., 0]
    u, kernel = torch.randn(2, 11, 3, dtype=torch.float64), K[:, 0]
    expected = [[np.convolve(u[b, :, d], kernel[d])[:11] for d in range(3)] for b in range(2)]
    assert_close(convolve(u, kernel), torch.from_numpy(np.array(expected)).mT, torch.float64, "y")


def by_scipy(A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta: float, method: str, u: Tensor) -> Tensor:
    """The output (T,) of ẋ = A x + B u, y = C x + D u, its discretisation and its loop those of SciPy."""
    system = (A.numpy(), B[:, None].numpy(), C[None].numpy(), D.view(1, 1).numpy())
    A_bar, B_bar, *_ = scipy.signal.cont2discrete(system, delta, method)
    x, y = np.zeros(len(B)), []
    for u_t in u.tolist():
        x = A_bar @ x + B_bar[:, 0] * u_t
        y.append((C.numpy() @ x + D.item() * u_t).real)
    return torch.tensor(y, dtype=torch.float64)


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("cls", S4DS)
def test_s4d_is_its_equation_and_its_convolution(cls: type[S4D], bilinear: bool) -> None:
    torch.manual_seed(0)
    layer = cls(3, 16, bilinear=bilinear).double().requires_grad_(False)
    u = torch.randn(2, 120, 3, dtype=torch.float64)
    y, _ = layer(u)
    assert_close(layer.convolution(u), y, torch.float64, "convolution")
    A = torch.complex(-torch.exp(layer.log_A_re), layer.A_im)
    C = torch.complex(layer.C_re, layer.C_im)
    for d in range(3):
        whole = torch.cat([A[d], A[d].conj()])  # both halves of the pairs, and no factor 2
        readout = torch.cat([C[d], C[d].conj()])
        method, delta = ("bilinear" if bilinear else "zoh"), float(torch.exp(layer.log_dt[d]))
        B = torch.ones(16, dtype=torch.float64)
        expected = by_scipy(torch.diag(whole), B, readout, layer.D[d], delta, method, u[0, :, d])
        assert_close(y[0, :, d], expected, torch.float64, f"feature {d}")


@pytest.mark.parametrize("cls", [S4DLin, S4DLegS, LSSL])
def test_forms_agree_in_float32_and_half(cls: type[S4D] | type[LSSL]) -> None:
    layer = cls(4, 16)
    u = torch.randn(2, 500, 4)
    assert_close(layer.convolution(u), layer(u)[0], torch.float32, "float32")
    half, narrow = layer.to(torch.bfloat16), u.to(torch.bfloat16)
    assert half.convolution(narrow).dtype == torch.bfloat16
    assert_close(half.convolution(narrow), half(narrow)[0], torch.bfloat16, "bfloat16")


def test_s4d_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    n = torch.arange(16)
    for cls in S4DS:
        layer = cls(2000, 32).requires_grad_(False)
        assert_close(-torch.exp(layer.log_A_re), torch.full((2000, 16), -0.5), torch.float32, "Re A")
        assert float(layer.log_dt.min()) == pytest.approx(math.log(1e-3), abs=0.01)
        assert float(layer.log_dt.max()) == pytest.approx(math.log(1e-1), abs=0.01)
        assert float(layer.log_dt.mean()) == pytest.approx(math.log(1e-2), abs=0.1)
        assert float(layer.D.std()) == pytest.approx(1, rel=0.05)
    for cls in (S4DLin, S4DInv):
        assert float((cls(2000, 32).C_re ** 2).mean().detach()) == pytest.approx(0.5, rel=0.02)
    assert_close(S4DLin(1, 32).A_im[0], math.pi * n, torch.float32, "Lin")
    inverse = S4DInv(1, 32).A_im[0].detach()
    assert_close(inverse, 32 / math.pi * (32 / (2 * n + 1) - 1), torch.float32, "Inv")
    assert inverse[:4].tolist() == pytest.approx([315.8, 98.5, 55.0, 36.4], abs=0.1)
    assert float(S4DLegS(1, 32).A_im.detach().max()) == pytest.approx(325.4, abs=0.05)
    B = torch.complex(*hippo.normal(32)[2]).mH @ hippo.legs(32).B.to(torch.complex128)
    power = B.real**2 + B.imag.clamp(-2, 2) ** 2
    legs = S4DLegS(20_000, 32).requires_grad_(False)
    assert_close((legs.C_re**2 + legs.C_im**2).mean(0) / power, torch.ones(16), torch.bfloat16, "LegS: |C|² of |B|²")


def test_the_normal_part_with_half_of_b_tends_to_legs() -> None:
    """Theorem 3 of arXiv 2206.11893, for smooth inputs: the error falls as N grows."""
    delta = torch.tensor(0.002, dtype=torch.float64)
    u = torch.sin(torch.arange(1500) * delta * 3) ** 2
    errors = []
    for N in (16, 64, 256):
        A, B = hippo.legs(N)
        states = []
        for system in ((A, B), (A + B[:, None] * B / 2, B / 2)):
            A_bar, B_bar = discretise.zoh(*system, delta)
            x, xs = torch.zeros(N, dtype=torch.float64), []
            for u_t in u:
                x = A_bar @ x + B_bar * u_t
                xs.append(x[:4])
            states.append(torch.stack(xs))
        errors.append(float((states[1] - states[0]).norm() / states[0].norm()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("bilinear", [False, True])
def test_s5_is_the_dense_system(bilinear: bool) -> None:
    """One input, real B and C: V Λ V* with both halves of the pairs is A = HiPPO-N, step by step in SciPy."""
    P = 16
    layer = S5(1, P, bilinear=bilinear, dt_min=0.05, dt_max=0.05).double().requires_grad_(False)
    re, omega, parts = hippo.normal(P)
    V, generator = torch.complex(*parts), torch.Generator().manual_seed(0)
    B, C = torch.randn(2, P, generator=generator, dtype=torch.float64)
    layer.Lambda_re.copy_(re)
    layer.Lambda_im.copy_(omega)
    layer.log_step.fill_(math.log(0.05))
    for name, value in (("B", V.mH @ B.to(V.dtype)), ("C", C.to(V.dtype) @ V)):
        getattr(layer, f"{name}_re").copy_(value.real.view_as(getattr(layer, f"{name}_re")))
        getattr(layer, f"{name}_im").copy_(value.imag.view_as(getattr(layer, f"{name}_im")))
    u = torch.randn(1, 200, 1, dtype=torch.float64)
    A = hippo.legs(P).A + hippo.legs(P).B[:, None] * hippo.legs(P).B / 2
    expected = by_scipy(A, B, C, layer.D[0], 0.05, "bilinear" if bilinear else "zoh", u[0, :, 0])
    assert_close(layer(u)[0][0, :, 0], expected, torch.float64, "y")


def test_s5_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    layer = S5(400, 64, n_blocks=4).requires_grad_(False)
    _, omega, _ = hippo.normal(16)
    assert_close(layer.Lambda_im.view(4, 8), omega.expand(4, 8), torch.float32, "each block has HiPPO's frequencies")
    assert bool((layer.Lambda_re == -0.5).all())
    # V is unitary: half of the power of B (variance 1/400) and of C (1/64 in each part) is in the pairs that are kept
    assert float((layer.B_re**2 + layer.B_im**2).mean()) == pytest.approx(1 / 400, rel=0.05)
    assert float((layer.C_re**2 + layer.C_im**2).mean()) == pytest.approx(2 / 64, rel=0.05)
    assert float(layer.log_step.min()) >= math.log(1e-3)
    assert float(layer.log_step.max()) <= math.log(1e-1)
    assert bool((layer.eigenvalues().norm(dim=0) < 1).all())


def test_s5_can_be_kept_stable() -> None:
    layer = S5(2, 4, clip_eigs=True).requires_grad_(False)
    layer.Lambda_re.fill_(3.0)
    assert bool((layer.eigenvalues().norm(dim=0) < 1).all())
    free = S5(2, 4).requires_grad_(False)
    free.Lambda_re.fill_(3.0)
    assert bool((free.eigenvalues().norm(dim=0) > 1).all())


def test_lssl_is_its_equation_and_its_convolution() -> None:
    torch.manual_seed(0)
    layer = LSSL(3, 12).double().requires_grad_(False)
    u = torch.randn(2, 150, 3, dtype=torch.float64)
    y, _ = layer(u)
    assert_close(layer.convolution(u), y, torch.float64, "convolution")
    A, B = hippo.legs(12)
    for d in range(3):
        delta = float(torch.exp(layer.log_dt[d]))
        expected = by_scipy(A, B, layer.C[d], layer.D[d], delta, "bilinear", u[1, :, d])
        # the layer's start is rounded to float32
        assert_close(y[1, :, d], expected, torch.float32, f"feature {d}")


def test_lssl_holds_other_measures_too() -> None:
    """With T, p and c of the sheet, the seven vectors are LegT."""
    layer = LSSL(1, 8).double().requires_grad_(False)
    A, B = layer.system()
    assert_close(A, hippo.legs(8).A, torch.float32, "A of LegS")
    assert_close(B, hippo.legs(8).B, torch.float32, "B of LegS")
    layer.T_lower.fill_(-0.5)
    layer.T_upper.fill_(0.5)
    layer.T_diag.zero_()
    layer.T_diag[[0, -1]] = 0.5
    layer.c.zero_()
    for p in (layer.p_l, layer.p_r):
        p.copy_(hippo.legs(8).B)
    assert_close(layer.system().A, hippo.legt(8).A, torch.float64, "A of LegT")


def gated_by_hand(layer: HiPPORNN, x: Tensor) -> Tensor:
    """The cell's equations with explicit inverses, for one row."""
    p, N = dict(layer.named_parameters()), layer.d_state
    A, B = hippo.legs(N)
    h, c, ys = torch.zeros(layer.d_model, dtype=torch.float64), torch.zeros(N, dtype=torch.float64), []
    for t, x_t in enumerate(x):
        u = p["W_u.weight"][0] @ torch.cat([x_t, h]) + p["W_u.bias"][0]
        if t == 0:
            c = torch.cat([u[None], torch.zeros(N - 1, dtype=torch.float64)])
        else:
            half = math.log((t + 1) / t) / 2
            inverse = torch.linalg.inv(torch.eye(N, dtype=torch.float64) - half * A)
            c = inverse @ ((torch.eye(N, dtype=torch.float64) + half * A) @ c + 2 * half * B * u)
        z = torch.cat([x_t, c])
        g = torch.sigmoid(p["W_g.weight"] @ z + p["W_g.bias"])
        h = (1 - g) * h + g * torch.tanh(p["W_h.weight"] @ z + p["W_h.bias"])
        ys.append(h)
    return torch.stack(ys)


def test_hippo_rnn_is_its_equations() -> None:
    torch.manual_seed(0)
    layer = HiPPORNN(5, 12).double().requires_grad_(False)
    x = torch.randn(2, 60, 5, dtype=torch.float64)
    y, state = layer(x)
    assert_close(y[1], gated_by_hand(layer, x[1]), torch.float64, "y")
    assert state.c[:, -1].tolist() == [60.0, 60.0]
    scaled, _ = layer(x, dt=torch.full((2, 60), 7.5, dtype=torch.float64))
    assert_close(scaled, y, torch.float64, "time at another scale")
    assert float(layer.W_h.weight.std()) == pytest.approx(math.sqrt(2 / (5 + 5 + 12)), rel=0.2)


def test_doubling_dt_is_doubling_delta() -> None:
    torch.manual_seed(0)
    for layer in (S4DInv(4, 8), S5(4, 8), LSSL(4, 8)):
        layer = layer.double().requires_grad_(False)
        u = torch.randn(2, 50, 4, dtype=torch.float64)
        y, _ = layer(u, dt=torch.full((2, 50), 2.0))
        (layer.log_step if isinstance(layer, S5) else layer.log_dt).add_(math.log(2))
        assert_close(y, layer(u)[0], torch.float64, type(layer).__name__)


@pytest.mark.parametrize("cls", [S4DLegS, S5])
def test_zoh_is_exact_for_inputs_that_are_held(cls: type[TimedLayer]) -> None:
    """A sample held for 3 units is three samples held for one, and 2.5 units are 1, 1 and 0.5."""
    layer = cls(4, 8).double().requires_grad_(False)  # type: ignore[call-arg]
    u = torch.randn(2, 20, 4, dtype=torch.float64)
    gaps = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64).repeat(2, 20)
    fine, _ = layer(u.repeat_interleave(3, 1), dt=gaps)
    coarse, _ = layer(u, dt=torch.full((2, 20), 2.5))
    assert_close(coarse, fine[:, 2::3], torch.float64, "y")


@pytest.mark.parametrize("cls", [S4DLin, S5, LSSL])
def test_half_the_rate_with_twice_the_step(cls: type[TimedLayer]) -> None:
    """A smooth signal at half its rate, told so, gives the same outputs within 5 %; untold it does not."""
    layer = cls(8, 16)  # type: ignore[call-arg]
    t = torch.arange(1, 801) / 800
    u = torch.stack([torch.sin(2 * math.pi * (k % 4 + 0.5) * t + k) for k in range(8)], -1)[None]
    with torch.no_grad():
        whole = layer(u)[0][:, 1::2]
        told, untold = layer(u[:, 1::2], dt=torch.full((1, 400), 2.0))[0], layer(u[:, 1::2])[0]
    settled = slice(40, None)
    scale = whole[:, settled].square().mean().sqrt()
    assert float((told - whole)[:, settled].square().mean().sqrt() / scale) < 0.05
    assert float((untold - whole)[:, settled].square().mean().sqrt() / scale) > 0.1


@pytest.mark.parametrize(
    ("method", "most"), [("zoh", 1e-4), ("bilinear", 1e-4), ("backward_euler", 0.02), ("forward_euler", 0.02)]
)
def test_legs_holds_a_whole_signal(method: str, most: float) -> None:
    """N = 16 on 1000 steps: the sheet has 0.0017 for the bilinear rule with 1/t in the place of ln(t / (t-1))."""
    t = torch.arange(1000, dtype=torch.float64) / 1000
    f = torch.sin(7 * t) + 0.5 * torch.cos(13 * t + 1)
    c = projection.project(f, hippo.LEGS, 16, discretise=getattr(discretise, method))
    for end in (300, 1000):
        back = projection.reconstruct(c[end - 1], hippo.LEGS, projection.ages(end, end))
        assert float((back - f[:end]).square().mean().sqrt()) < most


@pytest.mark.parametrize(
    ("measure", "n", "window", "seen", "most"),
    [
        (hippo.LEGT, 16, 400.0, 400, 1e-3),
        (hippo.FOURIER, 129, 400.0, 400, 0.05),  # the series jumps at the ends of the window
        (hippo.LAGT, 40, 30.0, 200, 0.02),  # it fades
    ],
    ids=["LegT", "Fourier", "LagT"],
)
def test_windows_hold_the_last_of_it(measure: hippo.Measure, n: int, window: float, seen: int, most: float) -> None:
    t = torch.arange(1000, dtype=torch.float64) / 1000
    f = torch.stack([torch.sin(7 * t) + 0.5 * torch.cos(13 * t + 1), torch.cos(9 * t)])
    c = projection.project(f, measure, n, window=window)[:, -1]
    back = projection.reconstruct(c, measure, projection.ages(1000, window)[-seen:])
    assert float((back - f[:, -seen:]).square().mean().sqrt()) < most


def test_legs_does_not_care_for_the_speed() -> None:
    memories = []
    for T in (400, 800):
        t = (torch.arange(T, dtype=torch.float64) + 0.5) / T
        memories.append(projection.project(torch.sin(9 * t), hippo.LEGS, 12)[-1])
    assert float((memories[1] - memories[0]).abs().max()) < 1e-3


def test_projection_of_uneven_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    dt = 0.2 + torch.rand(1500, generator=generator, dtype=torch.float64)
    edges = torch.cumsum(dt, 0)
    middle, end = edges - dt / 2, edges[-1]
    f = torch.sin(8 * middle / end)
    s = (end - middle) / end
    told = projection.reconstruct(projection.project(f, hippo.LEGS, 16, dt=dt)[-1], hippo.LEGS, s)
    assert float((told - f).abs().max()) < 1e-3
    assert_close(
        projection.project(f, hippo.LEGT, 8, window=50.0, dt=torch.ones(1500)),
        projection.project(f, hippo.LEGT, 8, window=50.0),
        torch.float64,
        "even samples",
    )


def test_the_picture() -> None:
    f = torch.sin(torch.arange(200) / 20)
    svg = projection.picture(f, {"all of it": (hippo.LEGS, 12, 0.0), "a window": (hippo.LEGT, 12, 80.0)})
    assert svg.startswith("<svg")
    assert "all of it" in svg
    assert "a window" in svg
    assert svg == projection.picture(f, {"all of it": (hippo.LEGS, 12, 0.0), "a window": (hippo.LEGT, 12, 80.0)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S4DLin(4, 7), "d_state must be even, conjugate pairs of states, and is 7"),
        (lambda: S4DLin(4, dt_min=0.2), "0 < dt_min <= dt_max, and are 0.2 and 0.1"),
        (lambda: S5(4, 64, n_blocks=3), "d_state must be a multiple of 2 n_blocks = 6, and is 64"),
        (lambda: S5(4, dt_max=math.inf), "0 < dt_min <= dt_max"),
        (lambda: LSSL(4, 0), "d_state must be at least 1, and is 0"),
        (lambda: HiPPORNN(4, 0), "d_state must be at least 1, and is 0"),
        (lambda: S4D(4), "three initialisations"),
        (lambda: hippo.fourier(4), "n must be odd for the Fourier basis, a constant and pairs, and is 4"),
        (lambda: hippo.normal(5), "n must be even, conjugate pairs of eigenvalues, and is 5"),
        (lambda: projection.project(torch.ones(3), hippo.LEGT, 2), "window must be positive and finite and is 0"),
        (lambda: projection.project(torch.ones(3), hippo.LEGS, 2, window=3.0), "window must be 0, since this measure"),
        (lambda: projection.project(torch.ones(3), hippo.LEGS, 2, dt=torch.zeros(3)), "dt must be 3 positive"),
    ],
)
def test_what_cannot_be_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises((resurge.ResurgeError, TypeError), match=message):
        make()
