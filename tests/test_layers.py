"""Each layer against an independent evaluation of its paper's equations, and its initial statistics."""

import math

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge.layers import GRU, LRU, LSTM, RGLRU


def lru_by_convolution(layer: LRU, u: Tensor) -> Tensor:
    """y = K * u + D u with the matrices K_k = Re(C diag(λ^k γ) B) of eq. 6, in complex128: no recurrence anywhere."""
    p = {name: parameter.double() for name, parameter in layer.named_parameters()}
    log_lambda = torch.complex(-torch.exp(p["nu_log"]), torch.exp(p["theta_log"]))
    B, C = torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
    T = u.shape[1]
    powers = torch.exp(torch.arange(T).double()[:, None] * log_lambda)
    kernel = torch.einsum("dn,kn,n,ne->kde", C, powers, torch.exp(p["gamma_log"]).to(C), B).real
    y = [torch.einsum("kde,bke->bd", kernel[: t + 1].flip(0), u[:, : t + 1]) for t in range(T)]
    return torch.stack(y, 1) + p["D"] * u


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ring", [(0.0, 1.0, 2 * math.pi), (0.9, 0.999, 2 * math.pi), (0.99, 0.9999, math.pi / 10)])
@pytest.mark.parametrize("seed", range(5))
def test_lru_equals_the_papers_equations(dtype: torch.dtype, ring: tuple[float, float, float], seed: int) -> None:
    torch.manual_seed(seed)
    layer = LRU(12, 16, r_min=ring[0], r_max=ring[1], max_phase=ring[2]).to(dtype)
    u = torch.randn(3, 200, 12, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, 200, 12, dtype=torch.float64)
    y, _ = layer(u)
    expected = lru_by_convolution(layer, u.double())
    allowed = {torch.float64: 1e-9, torch.float32: 1e-5}[dtype]
    wanted = [u, *layer.parameters()]
    actual_gradients = torch.autograd.grad((y.double() * weight).sum(), wanted)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), wanted)
    names = ["y", "u", *(name for name, _ in layer.named_parameters())]
    for name, a, b in zip(names, (y, *actual_gradients), (expected, *expected_gradients), strict=True):
        a, b = a.detach().double(), b.detach().double()
        error = float((a - b).norm() / b.norm())
        assert error <= allowed, f"{name}: {error:.1e}"


def test_rglru_equals_the_papers_equations() -> None:
    torch.manual_seed(0)
    layer = RGLRU(12, 3).double()
    x = torch.randn(2, 60, 12, dtype=torch.float64)
    W_a = torch.block_diag(*layer.recurrent_gate_weight)
    W_x = torch.block_diag(*layer.input_gate_weight)
    r = torch.sigmoid(x @ W_a + layer.recurrent_gate_bias.flatten())
    i = torch.sigmoid(x @ W_x + layer.input_gate_bias.flatten())
    a = torch.sigmoid(-layer.recurrent_param) ** (8 * r)
    log_products = torch.log(a).cumsum(1)
    decay = torch.tril(torch.ones(60, 60))[..., None] * torch.exp(log_products[:, :, None] - log_products[:, None])
    expected = torch.einsum("btsd,bsd->btd", decay, torch.sqrt(1 - a**2) * i * x)
    assert_close(layer(x)[0], expected, torch.float64, "y")


@pytest.mark.parametrize(("ours", "theirs"), [(LSTM, torch.nn.LSTM), (GRU, torch.nn.GRU)])
def test_lstm_and_gru_equal_pytorchs(ours: type[LSTM] | type[GRU], theirs: type[torch.nn.RNNBase]) -> None:
    layer = ours(6, 10).double()
    peer = theirs(6, 10, batch_first=True).double()  # type: ignore[call-arg]
    missing = peer.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "out.weight"})
    assert not missing.missing_keys
    x = torch.randn(2, 30, 6, dtype=torch.float64)
    assert_close(layer(x)[0], peer(x)[0] @ layer.out.weight.T, torch.float64, "y")


@pytest.mark.parametrize("ring", [(0.0, 0.9), (0.5, 0.9), (0.9, 0.99), (0.9, 0.999)])
def test_proposition_3_variance_of_the_lru_state(ring: tuple[float, float]) -> None:
    """With white noise, γ brings E|x|² to E|Bu|²; without it the ratio is that of proposition 3."""
    torch.manual_seed(0)
    r_min, r_max = ring
    layer = LRU(64, 800, r_min=r_min, r_max=r_max)
    lam = torch.complex(*layer.eigenvalues().detach()).abs().double()
    gamma = layer.gamma_log.detach().double().exp()
    predicted = math.log((1 - r_min**2) / (1 - r_max**2)) / (r_max**2 - r_min**2)
    assert float((1 / (1 - lam**2)).mean()) == pytest.approx(predicted, rel=0.15)
    rows = max(4, int(1400 * (1 - r_max)))  # short memories average over fewer inputs
    u = torch.randn(rows, int(7 / (1 - r_max)), 64)
    with torch.no_grad():
        _, with_gamma = layer(u)
        layer.gamma_log.zero_()
        _, without = layer(u)
        input_power = float((layer.B_re**2 + layer.B_im**2).sum())
    powers = [float(state.h.double().pow(2).sum((1, 2)).mean()) / input_power for state in (with_gamma, without)]
    assert powers[0] == pytest.approx(1.0, abs=0.1)
    assert powers[1] == pytest.approx(predicted, rel=0.2)
    assert gamma == pytest.approx((1 - lam**2).sqrt(), rel=1e-4)


def test_lru_eigenvalues_are_uniform_by_area_on_the_ring() -> None:
    torch.manual_seed(0)
    lam = torch.complex(*LRU(1, 20_000, r_min=0.5, r_max=0.9, max_phase=1.0).eigenvalues().detach())
    assert float(lam.abs().min()) >= 0.5
    assert float(lam.abs().max()) <= 0.9 + 1e-6
    area = (lam.abs() ** 2 - 0.25) / (0.81 - 0.25)
    assert float(area.mean()) == pytest.approx(0.5, abs=0.01)
    assert float((area < 0.25).float().mean()) == pytest.approx(0.25, abs=0.015)
    assert float(lam.angle().mean()) == pytest.approx(0.5, abs=0.02)


def test_lru_survives_the_edge_of_the_disk() -> None:
    layer = LRU(4, 100_000)
    assert all(bool(torch.isfinite(p).all()) for p in layer.parameters())
    assert bool((layer.eigenvalues().norm(dim=0) <= 1).all())


def test_lru_input_and_output_maps_have_the_papers_variance() -> None:
    torch.manual_seed(0)
    layer = LRU(100, 400).requires_grad_(False)
    assert float(layer.B_re.std()) == pytest.approx(1 / math.sqrt(200), rel=0.02)
    assert float(layer.C_im.std()) == pytest.approx(1 / math.sqrt(400), rel=0.02)
    assert float(LRU(10_000, 1).D.detach().std()) == pytest.approx(1, rel=0.05)


def test_rglru_starts_on_its_ring() -> None:
    torch.manual_seed(0)
    a = torch.exp(-torch.nn.functional.softplus(RGLRU(10_000, 100).recurrent_param.double()))
    assert float(a.detach().min()) >= 0.9 - 1e-4
    assert float(a.detach().max()) <= 0.999 + 1e-4
    assert float((a.detach() ** 2).mean()) == pytest.approx((0.81 + 0.998) / 2, abs=2e-3)


def test_rglru_gradient_is_bounded_where_the_gate_shuts() -> None:
    layer = RGLRU(4)
    with torch.no_grad():
        layer.recurrent_gate_bias.fill_(-200.0)  # a_t = 1: the square root's own derivative is infinite
    x = torch.randn(1, 5, 4, requires_grad=True)
    layer(x)[0].sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LRU(4, r_min=0.9, r_max=0.8), "0 <= r_min < r_max <= 1, and are 0.9 and 0.8"),
        (lambda: LRU(4, max_phase=-1.0), "max_phase must lie in"),
        (lambda: RGLRU(10, 3), "n_heads must divide d_model = 10, and is 3"),
        (lambda: RGLRU(10, r_max=1.0), "0 < r_min < r_max < 1"),
    ],
)
def test_options_out_of_range_are_named(make: object, message: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=message):
        make()  # type: ignore[operator]
