"""State collapse: the scan over a sliding window, the mitigations around layers, and the diagnostics."""

import copy
import math
from collections.abc import Callable
from typing import Any

import laws
import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

import resurge
from resurge import RecurrentLayer, layers
from resurge.analysis.collapse import collapse_ratio, loss_by_position, picture, state_trace
from resurge.models import LanguageModel, Stack
from resurge.nn.mitigation import ForgetMore, SlidingWindow, StateNorm, mitigated
from resurge.nn.recurrence import GivesRecurrence, Recurrence
from resurge.ops import diagonal_scan, windowed_scan
from resurge.recipes import stuffed_mamba
from resurge.state import detach, map_tensors, named_tensors

F64 = torch.float64


def build(name: str, d_model: int = 8) -> RecurrentLayer:
    torch.manual_seed(1)
    return layers.create(name, d_model).double()


DECAYING = [
    name for name in layers.names() if layers.layer_class(name).CAUSAL and isinstance(build(name), GivesRecurrence)
]


def given(layer: RecurrentLayer, x: Tensor, state: Any, reset: Tensor | None = None) -> Recurrence:
    assert isinstance(layer, GivesRecurrence)
    return layer.recurrence(x, state, reset)


def apart(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().abs().max())


def brute_force(a: Tensor, x: Tensor, window: int, reset: Tensor | None) -> Tensor:
    """Σ over the last `window` inputs, each times the decays since; a (B, T, D)."""
    h = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            gain = torch.ones_like(x[0, 0])
            for i in range(t, max(-1, t - window), -1):
                h[b, t] += gain * x[b, i]
                if reset is not None and reset[b, i]:
                    break
                gain = gain * a[b, i]
    return h


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 22, 23, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_windowed_scan_sums_the_last_inputs(window: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(window)
    x = torch.randn(3, 23, 4, generator=generator, dtype=dtype)
    radius = torch.rand(3, 23, 4, generator=generator, dtype=F64)
    a = torch.polar(radius, 7 * radius.flip(1)) if dtype.is_complex else radius
    resets = torch.rand(3, 23, generator=generator) < 0.2
    for reset in (None, resets):
        expected = brute_force(a, x, window, reset)
        assert apart(windowed_scan(a, x, window, reset=reset), expected) <= 1e-12
        for some in (a[0, 0], a[0], a[:, :1]):  # constant, the same for all rows, constant in each row
            expected = brute_force((some if some.dim() == 3 else some[None]).expand_as(x), x, window, reset)
            assert apart(windowed_scan(some, x, window, reset=reset), expected) <= 1e-12


@pytest.mark.parametrize("shape", [(3,), (11, 3), (2, 11, 3)])
def test_gradients_of_a_windowed_scan(shape: tuple[int, ...]) -> None:
    a = torch.rand(shape, dtype=F64).requires_grad_()
    x = torch.randn(2, 11, 3, dtype=F64, requires_grad=True)
    reset = torch.rand(2, 11) < 0.2
    assert torch.autograd.gradcheck(lambda a, x: windowed_scan(a, x, 4), (a, x))
    assert torch.autograd.gradcheck(lambda a, x: windowed_scan(a, x, 4, reset=reset), (a, x))


def test_a_windowed_scan_keeps_its_digits_where_a_difference_loses_them() -> None:
    torch.manual_seed(0)
    T, window = 20_000, 64
    log_a = -1e-4 * torch.rand(1, T, 4, dtype=F64)
    x = 1 + torch.randn(1, T, 4, dtype=F64)
    exact = windowed_scan(torch.exp(log_a), x, window)
    a = torch.exp(log_a).float()
    ours = windowed_scan(a, x.float(), window)
    long, _ = diagonal_scan(a, x.float())
    through = torch.exp(log_a.float().cumsum(1))
    difference = long[:, window:] - through[:, window:] / through[:, :-window] * long[:, :-window]

    def error(h: Tensor) -> float:
        return float((h - exact[:, -h.shape[1] :]).abs().max() / exact.abs().max())

    # the state without a window is 100 times as large as with it
    assert error(ours) <= 2e-6
    assert error(difference) >= 20 * error(ours)


def test_a_windowed_scan_refuses_what_is_none() -> None:
    x = torch.randn(2, 5, 3)
    with pytest.raises(resurge.ResurgeError, match="window must be at least 1, and is 0"):
        windowed_scan(torch.rand(3), x, 0)
    with pytest.raises(resurge.ResurgeError, match=r"x must have shape \(B, T, D\), and has \(5, 3\)"):
        windowed_scan(torch.rand(3), x[0], 2)
    with pytest.raises(resurge.ResurgeError, match="a must have shape"):
        windowed_scan(torch.rand(4), x, 2)


@pytest.mark.parametrize("name", DECAYING)
def test_what_a_layer_gives_away_is_its_recurrence(name: str) -> None:
    layer = build(name)
    x, state = laws.inputs(layer), laws.some_state(layer)
    reset = torch.rand(laws.B, laws.T, generator=torch.Generator().manual_seed(5)) < 0.2
    for cut in (None, reset):
        laws.same(
            layer,
            lambda x, s, cut=cut: given(layer, x, s, cut).run(cut),  # type: ignore[misc]
            lambda x, s, cut=cut: layer(x, s, reset=cut),  # type: ignore[misc]
            x,
            state,
        )


def test_the_elementwise_family_gives_its_decays_away() -> None:
    family = {"mingru", "minlstm", "hgrn", "complexhgrn", "gateloop", "lru", "rglru", "hawk", "gemmahawk", "mamba"}
    assert family <= set(DECAYING)


@pytest.mark.parametrize(
    "name", ["gru", "lstm", "localattention", *(n for n in layers.names() if not layers.layer_class(n).CAUSAL)]
)
def test_a_layer_without_decays_is_refused(name: str) -> None:
    layer = build(name)
    with pytest.raises(
        resurge.ResurgeError, match=f"needs a layer .* whose state decays.*: not {type(layer).__name__}"
    ):
        SlidingWindow(layer, 4)


MITIGATIONS: dict[str, Callable[[RecurrentLayer], RecurrentLayer]] = {
    "forget": lambda layer: ForgetMore(layer, forget=1.5, remember=0.7),
    "norm": lambda layer: StateNorm(layer, 0.3, chunk_size=4),
    "norm each step": lambda layer: StateNorm(layer, 0.3),
    "window": lambda layer: SlidingWindow(layer, 5),
}
READS_VALUES = {"compiles_whole"}  # not for StateNorm: where it cuts depends on what was reset
LAWS = {law.__name__.removeprefix("law_"): law for law in laws.LAWS}
CARRIES = "the_final_state_carries_gradients"  # counts of steps carry none


@pytest.mark.parametrize("law", [name for name in LAWS if name != CARRIES])
@pytest.mark.parametrize("mitigation", MITIGATIONS)
@pytest.mark.parametrize("name", ["mingru", "mamba", "gateloop", "gemmahawk"])
def test_laws_hold_around_a_layer(name: str, mitigation: str, law: str) -> None:
    if mitigation != "forget" and law == "the_step_exports":
        pytest.skip("the law rebuilds flat states only: see below")
    if mitigation.startswith("norm") and law in READS_VALUES:
        pytest.skip("its pieces depend on values")
    if mitigation != "forget" and law == "a_hundred_thousand_steps_stay_finite" and name != "mingru":
        pytest.skip("slow, and the same")
    LAWS[law](MITIGATIONS[mitigation](build(name)))


@pytest.mark.parametrize("mitigation", ["norm", "window"])
def test_a_step_with_a_nested_state_exports(mitigation: str) -> None:
    layer = MITIGATIONS[mitigation](build("mingru"))
    x_t, state = laws.inputs(layer)[:, 0], detach(laws.some_state(layer))

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x_t: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            given = iter(parts)
            y, after = self.layer.step(x_t, map_tensors(lambda _: next(given), state))
            return y, *(part for _, part in named_tensors(after))

    parts = tuple(part for _, part in named_tensors(state))
    exported = torch.export.export(Step(), (x_t, *parts)).module()
    for actual, expected in zip(exported(x_t, *parts), Step()(x_t, *parts), strict=True):
        assert_close(actual, expected, F64, mitigation)


@pytest.mark.parametrize("name", [name for name in DECAYING if name not in ("mamba", "hawk", "gemmahawk")])
def test_a_window_is_the_layer_over_the_last_inputs(name: str) -> None:
    layer, r = build(name), 5
    x, state = laws.inputs(layer), None
    window = SlidingWindow(layer, r)
    alone = torch.stack([layer(x[:, max(0, t + 1 - r) : t + 1])[0][:, -1] for t in range(laws.T)], 1)
    assert apart(window(x)[0], alone) <= 1e-12
    cut, _ = laws.pieces(window, x, state, (1, 3, 4, 10, 17))
    assert apart(cut, alone) <= 1e-12
    stepped, _ = laws.steps(window, x, window.initial_state(laws.B))
    assert apart(stepped, alone) <= 1e-12


@pytest.mark.parametrize("name", ["mamba", "hawk", "gemmahawk"])
def test_a_window_leaves_the_convolution_whole(name: str) -> None:
    layer = build(name)
    x = laws.inputs(layer)
    parts = given(layer, x, layer.initial_state(laws.B))
    h = brute_force(parts.a.expand_as(parts.b), parts.b, 5, None)
    expected, _ = parts.finish(h, h[:, -1])
    assert apart(SlidingWindow(layer, 5)(x)[0], expected) <= 1e-12


@pytest.mark.parametrize("name", ["mamba", "lru", "mingru"])
def test_a_wide_window_and_factors_of_one_and_a_large_norm_change_nothing(name: str) -> None:
    layer = build(name)
    x = laws.inputs(layer)
    for same in (SlidingWindow(layer, laws.T), ForgetMore(layer), StateNorm(layer, 1e9, chunk_size=3)):
        assert_close(same(x)[0], layer(x)[0], F64, type(same).__name__)


def test_forgetting_more_is_a_power_of_the_decay() -> None:
    torch.manual_seed(1)
    mingru, lru, mamba = layers.MinGRU(8).double(), layers.LRU(8).double(), layers.Mamba(8).double()
    x = laws.inputs(mingru)
    a, b = mingru.coefficients(x)
    h, _ = diagonal_scan(a**1.7, 0.6 * b)
    assert_close(ForgetMore(mingru, forget=1.7, remember=0.6)(x)[0], h, F64, "minGRU")

    faster = copy.deepcopy(lru)
    faster.nu_log.data += math.log(1.7)  # |λ|^1.7, with the phase as it was
    assert_close(ForgetMore(lru, forget=1.7)(x)[0], faster(x)[0], F64, "LRU")

    quick = copy.deepcopy(mamba)
    quick.A_log.data += math.log(1.7)
    B = slice(mamba.dt_rank, mamba.dt_rank + mamba.d_state)
    quick.x_proj.weight.data[B] *= 0.6
    assert_close(ForgetMore(mamba, forget=1.7, remember=0.6)(x)[0], quick(x)[0], F64, "Mamba")


def test_forgetting_more_has_finite_gradients_where_nothing_is_kept() -> None:
    layer = layers.GateLoop(8)
    nn.init.constant_(layer.alpha.bias, -1e4)  # a = 0
    ForgetMore(layer, forget=1.1)(laws.inputs(layer))[0].sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


@pytest.mark.parametrize("name", ["mingru", "gateloop", "mamba"])
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_a_norm_bounds_the_state_after_each_chunk(name: str, chunk_size: int) -> None:
    layer, p = build(name), 0.5
    x = 3 * laws.inputs(layer)
    normed = StateNorm(layer, p, chunk_size=chunk_size)
    ys, expected, state, plain = [], [], normed.initial_state(laws.B), layer.initial_state(laws.B)
    scaled = 0
    for t, x_t in enumerate(x.unbind(1), 1):
        y, state = normed.step(x_t, state)
        parts = given(layer, x_t[:, None], plain)
        _, h = parts.scan(None)
        if t % chunk_size == 0:
            norms = h.flatten(1).norm(dim=1)
            scaled += int((norms > p).sum())
            h = torch.stack([row * p / norm if norm > p else row for row, norm in zip(h, norms, strict=True)])
            assert bool((state.layer.h.flatten(1).norm(dim=1) <= p * (1 + 1e-12)).all())
        y_plain, plain = parts.finish(h[:, None], h)
        ys.append(y)
        expected.append(y_plain[:, 0])
    assert scaled > 0
    assert_close(torch.stack(ys, 1), torch.stack(expected, 1), F64, "y")


def test_mitigations_refuse_what_is_none() -> None:
    layer = build("mingru")
    with pytest.raises(resurge.ResurgeError, match="forget must be at least 1 and remember in"):
        ForgetMore(layer, forget=0.9)
    with pytest.raises(resurge.ResurgeError, match="p must be positive, and is 0"):
        StateNorm(layer, 0.0)
    with pytest.raises(resurge.ResurgeError, match="chunk_size must be at least 1, and is 0"):
        StateNorm(layer, 1.0, chunk_size=0)
    with pytest.raises(resurge.ResurgeError, match="window must be at least 2, and is 1"):
        SlidingWindow(layer, 1)


def test_a_model_is_mitigated_as_a_copy() -> None:
    torch.manual_seed(0)
    model = LanguageModel(11, Stack(lambda: layers.MinGRU(8), 2, norm="layer")).eval()
    tokens = torch.randint(11, (2, 30))
    before, _ = model(tokens)
    short = mitigated(model, lambda layer: SlidingWindow(layer, 4))
    assert torch.equal(model(tokens)[0], before)
    assert all(isinstance(block.mixer, SlidingWindow) for block in short.stack.blocks)
    assert [p.shape for p in short.parameters()] == [p.shape for p in model.parameters()]
    y, _ = short(tokens)
    first, between = short(tokens[:, :17])
    assert_close(torch.cat([first, short(tokens[:, 17:], between)[0]], 1), y, torch.float32, "pieces")
    assert_close(y[:, :4], before[:, :4], torch.float32, "as long as the window holds all")
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % 11
    assert torch.equal(short(other)[0][:, 8:], y[:, 8:])  # two layers with windows of 4 see 7 steps
    assert not torch.equal(model(other)[0][:, 8:], before[:, 8:])
    with pytest.raises(resurge.ResurgeError, match="no recurrent layer inside Linear"):
        mitigated(nn.Linear(3, 3), ForgetMore)
    with pytest.raises(resurge.ResurgeError, match="not GRU"):
        mitigated(LanguageModel(11, Stack(lambda: layers.GRU(8), 1)), ForgetMore)


def test_a_trace_tells_what_the_states_are_like() -> None:
    layer = build("mingru")
    x = laws.inputs(layer)
    trace = state_trace(layer, x, every=5)
    assert trace.steps.tolist() == [5, 10, 15, 20, 23]
    _, state = layer(x[:, :10])
    assert_close(trace.mean["h"][1], state.h.mean(0), F64, "mean")
    assert_close(trace.variance["h"][1], state.h.var(0, correction=0), F64, "variance")
    assert_close(trace.largest["h"][1], state.h.abs().amax(0), F64, "largest")
    assert_close(trace.norm["h"][1], state.h.norm(dim=1), F64, "norm")


def test_losses_by_position_are_the_cross_entropy_of_each_step() -> None:
    torch.manual_seed(0)
    model = LanguageModel(5, Stack(lambda: layers.MinGRU(4), 1, norm="layer"))
    tokens, targets = torch.randint(5, (3, 20)), torch.randint(5, (3, 20))
    targets[:, 4] = -100
    targets[0, 7] = -100
    loss = loss_by_position(model, tokens, targets, every=6)
    p = torch.softmax(model(tokens)[0].double(), -1).detach()
    for t in range(20):
        costs = [-math.log(float(p[b, t, targets[b, t]])) for b in range(3) if targets[b, t] >= 0]
        if costs:
            assert float(loss[t]) == pytest.approx(sum(costs) / len(costs), rel=1e-5)
        else:
            assert math.isnan(float(loss[t]))
    with pytest.raises(resurge.ResurgeError, match="targets must have shape"):
        loss_by_position(model, tokens, targets[:, 1:])


def test_the_ratio_compares_the_end_with_the_length_of_the_training() -> None:
    loss = torch.ones(100)
    loss[:5], loss[5:10], loss[-5:] = 7, 2, 3
    loss[-2], loss[6] = math.nan, math.nan
    assert collapse_ratio(loss, 10) == 1.5
    with pytest.raises(resurge.ResurgeError, match="twice the length 51, and has 100 steps"):
        collapse_ratio(loss, 51)


def test_a_picture_of_a_collapse() -> None:
    torch.manual_seed(0)
    model = LanguageModel(5, Stack(lambda: layers.MinGRU(4), 2, norm="layer"))
    tokens = torch.randint(5, (3, 65))
    svg = picture(state_trace(model, tokens, every=8), loss_by_position(model, tokens[:, :-1], tokens[:, 1:]), 16)
    assert svg.startswith("<svg")
    for text in ("largest number", "root mean square", "length of the training", "loss", "state"):
        assert text in svg


def test_the_recipes_stream_is_the_same_at_its_beginning_and_far_in() -> None:
    config = stuffed_mamba.config(quick=True)
    x, answers = stuffed_mamba.stream(config, 40, 200, torch.Generator().manual_seed(0))
    keys, values, asked = x.unbind(-1)
    lags = set()
    for row in range(40):
        for t in range(200):
            last = keys[row, max(0, t + 1 - config.length) : t + 1].tolist()
            assert len(set(last)) == len(last)
            lag = last[::-1].index(int(asked[row, t]))
            lags.add(lag)
            assert answers[row, t] == values[row, t - lag]
    assert lags == set(range(config.lag))
    assert set(keys.flatten().tolist()) == set(range(2 * config.length))
