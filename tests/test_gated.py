"""Elementwise gated recurrences: minGRU, minLSTM, HGRN and GateLoop against their papers' equations."""

import copy
from collections.abc import Callable

import laws
import pytest
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge import RecurrentLayer
from resurge.layer import param_groups
from resurge.layers import HGRN, ComplexHGRN, GateLoop, MinGRU, MinLSTM
from resurge.layers.gateloop import surrogate_attention
from resurge.models import LanguageModel, Stack
from resurge.nn import LowerBounds, share_lower_bounds
from resurge.nn.gated import GatedState
from resurge.recipes import gateloop, hgrn

B, T, D = 2, 40, 6


def inputs(length: int = T) -> Tensor:
    return torch.randn(B, length, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def affine(x: Tensor, linear: torch.nn.Linear) -> Tensor:
    return x @ linear.weight.T + linear.bias


def weighted_sum(a: Tensor, b: Tensor) -> Tensor:
    """h_t = Σ_{s<=t} (a_{s+1} ... a_t) b_s by products over each interval: no recurrence anywhere."""
    h = []
    for t in range(a.shape[1]):
        terms = [a[:, s + 1 : t + 1].prod(1) * b[:, s] for s in range(t + 1)]
        h.append(torch.stack(terms).sum(0))
    return torch.stack(h, 1)


def positive(v: Tensor) -> Tensor:
    """g of the paper's appendix, from its listing of log g: log(relu(v) + 1/2) for v >= 0, -softplus(-v) below."""
    above = torch.log(torch.relu(v) + 0.5)
    return torch.exp(torch.where(v >= 0, above, -torch.nn.functional.softplus(-v)))


def log_space_scan(log_a: Tensor, log_b: Tensor) -> Tensor:
    """The scan of the paper's listing: exp(a* + logcumsumexp(log b - a*)), a* the running sum of log a."""
    a_star = log_a.cumsum(1)
    return torch.exp(a_star + torch.logcumsumexp(log_b - a_star, 1))


@pytest.mark.parametrize("expand", [1, 3])
def test_mingru_equals_the_papers_equations(expand: int) -> None:
    layer, x = MinGRU(D, expand).double(), 3 * inputs()
    z = torch.sigmoid(affine(x, layer.linear_z))
    candidate = positive(affine(x, layer.linear_h))
    h = weighted_sum(1 - z, z * candidate)
    assert_close(layer(x)[0], h if expand == 1 else h @ layer.out.weight.T, torch.float64, "y")
    assert_close(log_space_scan(torch.log(1 - z), torch.log(z * candidate)), h, torch.float64, "the listing")


@pytest.mark.parametrize("expand", [1, 2])
def test_minlstm_equals_the_papers_equations(expand: int) -> None:
    layer, x = MinLSTM(D, expand).double(), 3 * inputs()
    f, i = torch.sigmoid(affine(x, layer.linear_f)), torch.sigmoid(affine(x, layer.linear_i))
    candidate = positive(affine(x, layer.linear_h))
    h = weighted_sum(f / (f + i), i / (f + i) * candidate)
    assert_close(layer(x)[0], h if expand == 1 else h @ layer.out.weight.T, torch.float64, "y")
    assert_close(log_space_scan(torch.log(f / (f + i)), torch.log(i / (f + i) * candidate)), h, torch.float64, "log")


@pytest.mark.parametrize("cls", [MinGRU, MinLSTM])
@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__.removeprefix("law_"))
def test_a_wider_state_keeps_the_laws(cls: type[MinGRU] | type[MinLSTM], law: laws.Law) -> None:
    torch.manual_seed(1)
    law(cls(8, 2).double())


@pytest.mark.parametrize("cls", [MinGRU, MinLSTM])
def test_states_of_the_minimal_rnns_stay_between_their_candidates(cls: type[MinGRU] | type[MinLSTM]) -> None:
    layer, x = cls(D), 100 * inputs().float()  # gates shut and open as far as float32 goes
    y, _ = layer(x)
    g = layer.candidate(x)
    assert bool((y >= 0).all())
    assert bool((y <= g.cummax(1).values * (1 + 1e-6)).all())
    state = GatedState(torch.full((B, D), 7.0))
    with torch.no_grad():
        getattr(layer, "linear_z" if cls is MinGRU else "linear_i").weight.zero_()
        getattr(layer, "linear_z" if cls is MinGRU else "linear_i").bias.fill_(-30.0)  # nothing is let in
    kept = layer(x, state)[0] if cls is MinGRU else layer(x.abs() * 0, state)[0]
    assert bool(((kept - 7).abs() < 1e-4).all()), "a carried state enters as it is"


@pytest.mark.parametrize("k", [-40.0, -15.0, 15.0, 40.0])
def test_gates_keep_their_digits_where_they_saturate(k: float) -> None:
    """In float32 1 - σ(15) has two digits left, and 1 - σ(40) none."""
    layer, x = MinGRU(1), torch.zeros(1, 1, 1)
    exact = torch.sigmoid(torch.tensor(k, dtype=torch.float64)), torch.sigmoid(-torch.tensor(k, dtype=torch.float64))
    with torch.no_grad():
        layer.linear_z.bias.fill_(k)
        layer.linear_h.bias.fill_(0.5)  # g = 1
        a, b = layer.coefficients(x)
    assert float(b) == pytest.approx(float(exact[0]), rel=1e-6)
    assert float(a) == pytest.approx(float(exact[1]), rel=1e-6)
    lstm = MinLSTM(1)
    with torch.no_grad():
        lstm.linear_f.bias.fill_(k)
        lstm.linear_i.bias.fill_(-k)
        lstm.linear_h.bias.fill_(0.5)
        a, b = lstm.coefficients(x)
    f, i = exact
    assert float(a) == pytest.approx(float(f / (f + i)), rel=1e-5)
    assert float(b) == pytest.approx(float(i / (f + i)), rel=1e-5)
    hgrn = HGRN(1, lower_bound=0.9)
    with torch.no_grad():
        hgrn.forget.bias.fill_(k)
        lam, rest = hgrn.forget_gate(x)
    assert float(lam) == pytest.approx(float(0.9 + 0.1 * exact[0]), rel=1e-6)
    assert float(rest) == pytest.approx(float(0.1 * exact[1]), rel=1e-6)


@pytest.mark.parametrize("bound", [0.0, 0.75])
def test_hgrn_equals_the_papers_equations(bound: float) -> None:
    layer, x = HGRN(D, lower_bound=bound).double(), 2 * inputs()
    lam = bound + (1 - bound) * torch.sigmoid(affine(x, layer.forget))
    c = affine(x, layer.input)
    h = weighted_sum(lam, (1 - lam) * c * torch.sigmoid(c))
    assert_close(layer(x)[0], gated_readout(layer, h, x), torch.float64, "y")


@pytest.mark.parametrize("bound", [0.0, 0.75])
def test_complex_hgrn_equals_the_papers_equations(bound: float) -> None:
    layer, x = ComplexHGRN(D, lower_bound=bound).double(), 2 * inputs()
    lam = bound + (1 - bound) * torch.sigmoid(affine(x, layer.forget))
    c = affine(x, layer.input)
    c = c * torch.sigmoid(c)
    h = weighted_sum(lam * torch.exp(1j * layer.theta), (1 - lam) * torch.complex(c[..., :D], c[..., D:]))
    expected = gated_readout(layer, torch.cat([h.real, h.imag], -1), x)
    assert_close(layer(x)[0], expected, torch.float64, "y")


def gated_readout(layer: HGRN | ComplexHGRN, h: Tensor, x: Tensor) -> Tensor:
    centred = h - h.mean(-1, keepdim=True)
    normal = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    gate = affine(x, layer.gate)
    return affine((normal * layer.norm.weight + layer.norm.bias) * gate * torch.sigmoid(gate), layer.out)


def test_complex_hgrn_turns_slower_channel_by_channel() -> None:
    theta = ComplexHGRN(8).theta.detach()
    assert theta.tolist() == pytest.approx([10.0 ** (-8 * k / 8) for k in range(8)], rel=1e-6)


def test_gateloop_equals_the_papers_equations() -> None:
    layer, x = GateLoop(D).double(), 2 * inputs()
    a = torch.sigmoid(affine(x, layer.alpha)) * torch.exp(1j * affine(x, layer.beta))
    S = weighted_sum(a, (affine(x, layer.k) * affine(x, layer.v)).to(a))
    gate = affine(x, layer.gate)
    expected = affine(gate * torch.sigmoid(gate) * (affine(x, layer.q) * S).real, layer.out)
    assert_close(layer(x)[0], expected, torch.float64, "y")
    assert_close(torch.complex(*layer.transition(x).unbind(-2)), a, torch.float64, "a")


@pytest.mark.parametrize("length", [1, 12, 300])
def test_gateloop_is_attention_with_positions_set_by_the_data(length: int) -> None:
    layer, x = GateLoop(D).double(), 2 * inputs(length)
    a = torch.complex(*layer.transition(x).unbind(-2))
    attended = surrogate_attention(layer.q(x), layer.k(x), layer.v(x), a)
    assert_close(layer.out(torch.nn.functional.silu(layer.gate(x)) * attended), layer(x)[0], torch.float64, "y")
    if length == 12:  # the paper's own form, quotients of cumulative products
        products = a.cumprod(1)
        scores = torch.einsum("btd,bsd->btsd", layer.q(x) * products, layer.k(x) / products)
        past = torch.ones(length, length).tril()[..., None]
        assert_close(torch.einsum("btsd,bsd->btd", scores * past, layer.v(x) + 0j).real, attended, torch.float64, "y")


def test_lower_bounds_rise_with_depth() -> None:
    bounds = LowerBounds(4, 3)
    assert bounds()[:, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75])
    with torch.no_grad():
        bounds.Gamma.copy_(torch.tensor([[2.0, 0, -9], [0, 1, -3], [1, 3, 0], [-2, 1, 7]]))
    weights = torch.exp(bounds.Gamma.double())
    shares = weights / weights.sum(0)
    expected = torch.stack([shares[:k].sum(0) for k in range(4)])
    assert_close(bounds(), expected, torch.float32, "γ")
    assert bool((bounds().diff(dim=0) > 0).all())


def stack_of_four() -> tuple[Stack, LowerBounds]:
    stack = Stack(lambda: HGRN(D), 4, norm="layer")
    return stack, share_lower_bounds([block.mixer for block in stack.blocks])  # type: ignore[misc]


def test_mean_forgetting_falls_with_depth() -> None:
    stack, _ = stack_of_four()
    x = torch.randn(50, 20, D)
    with torch.no_grad():
        mean = [float(block.mixer.forget_gate(x)[0].mean()) for block in stack.blocks]  # type: ignore[operator, union-attr]
    assert mean == pytest.approx([0.5, 0.625, 0.75, 0.875], abs=0.05)


def test_a_stack_learns_its_lower_bounds_together() -> None:
    stack, bounds = stack_of_four()
    model = LanguageModel(5, stack).double()
    groups = param_groups(model)
    every = [id(p) for group in groups for p in group]
    assert sorted(every) == sorted(id(p) for p in model.parameters())
    assert every.count(id(bounds.Gamma)) == 1
    tokens = torch.randint(5, (2, 30))
    logits, _ = model(tokens)
    logits.square().sum().backward()
    assert bounds.Gamma.grad is not None
    assert float(bounds.Gamma.grad.sum(0).abs().max()) <= 1e-12 * float(bounds.Gamma.grad.abs().max())
    assert bool((bounds.Gamma.grad.abs().max(1).values > 0).all())
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert len({id(block.mixer.bounds) for block in half.stack.blocks}) == 1, "a copy shares its bounds again"
    twin = LanguageModel(5, stack_of_four()[0]).double()
    with torch.no_grad():
        bounds.Gamma.normal_()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(tokens)[0], model(tokens)[0])
    with pytest.raises(resurge.ResurgeError, match=r"one d_model, and have \[6, 8\]"):
        share_lower_bounds([HGRN(6), HGRN(8)])
    with pytest.raises(resurge.ResurgeError, match="one d_model, and have"):
        share_lower_bounds([])


@pytest.mark.parametrize("cls", [HGRN, ComplexHGRN])
@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__.removeprefix("law_"))
def test_learned_lower_bounds_keep_the_laws(cls: type[HGRN] | type[ComplexHGRN], law: laws.Law) -> None:
    torch.manual_seed(1)
    layers = [cls(8), cls(8)]
    share_lower_bounds(layers)
    law(layers[1].double())


def test_gateloop_can_follow_a_sum_that_is_cleared_and_turned_round() -> None:
    """Weights set by hand solve the task of its recipe: a = 1 for a number, 0 to clear, exp(iπ) to turn."""
    config = gateloop.Horizon(length=T, rate=0.1)
    tokens, sums = gateloop.running_sum(config, 50, torch.Generator().manual_seed(0))
    assert {8, 9} < set(tokens.flatten().tolist())
    x = torch.nn.functional.one_hot(tokens, 10).double()
    layer = GateLoop(10).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for linear in (layer.q, layer.k, layer.gate):
            linear.bias.fill_(1.0)
        layer.alpha.bias.fill_(40.0)
        layer.alpha.weight[:, 8] = -1000.0
        layer.beta.weight[:, 9] = torch.pi
        layer.v.weight[:, :8] = torch.linspace(-1, 1, 8) / torch.linspace(-1, 1, 8).std(unbiased=False)
        layer.out.weight.copy_(torch.eye(10) / torch.sigmoid(torch.tensor(1.0)))
        followed = layer(x)[0][..., 0]
    assert_close(followed, sums, torch.float32, "sums")


def test_near_and_far_symbols_are_asked_for() -> None:
    tokens, answers = hgrn.stream(200, 9, torch.Generator().manual_seed(0))
    assert torch.equal(tokens[:, 0] - 8, answers[:, 0])
    assert torch.equal(tokens[:, -2], answers[:, 1])
    assert bool((tokens[:, -1] == 16).all())
    assert set(tokens[:, 1:-1].flatten().tolist()) == set(range(8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinGRU(4, 0), "expand must be at least 1, and is 0"),
        (lambda: MinLSTM(4, -1), "expand must be at least 1, and is -1"),
        (lambda: HGRN(4, lower_bound=1.0), r"lower_bound must lie in \[0, 1\), and is 1.0"),
        (lambda: ComplexHGRN(4, lower_bound=-0.1), r"lower_bound must lie in \[0, 1\), and is -0.1"),
        (lambda: LowerBounds(0, 4), "depth must be at least 1, and is 0"),
    ],
)
def test_options_out_of_range_are_named(make: Callable[[], RecurrentLayer], message: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=message):
        make()
