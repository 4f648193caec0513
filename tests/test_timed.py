"""Layers that are told how much time passes: the laws of `dt`, for every exported one."""

from functools import partial
from typing import Any

import laws
import pytest
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge import layers
from resurge.layer import TimedLayer
from resurge.layers import LRU
from resurge.nn.diagonal import DiagonalState
from resurge.state import named_tensors

TIMED = [name for name in layers.names() if issubclass(layers.layer_class(name), TimedLayer)]
B, T, D = laws.B, laws.T, 8
SPLITS = [(1,), (2,), (22,), (4, 5), (8, 16), tuple(range(1, T))]


def build(name: str) -> TimedLayer:
    torch.manual_seed(1)
    layer = layers.create(name, D).double()
    assert isinstance(layer, TimedLayer)
    return layer


def times(rows: int = B) -> Tensor:
    """Gaps that are exponential, as between events, and never tiny."""
    generator = torch.Generator().manual_seed(5)
    return 0.1 + torch.empty(rows, T, dtype=torch.float64).exponential_(1.0, generator=generator)


def same_with_gradients(layer: TimedLayer, first: Any, second: Any) -> None:
    """Two ways of running (x, state, dt) agree; gradients to dt, inputs, parameters and the initial state too."""
    results = []
    for run in (first, second):
        dt = times().requires_grad_()
        timed = partial(run, dt=dt)
        pairs = list(laws.outputs_and_gradients(layer, timed, laws.inputs(layer), some(layer)))
        timed(laws.inputs(layer), some(layer))[0].square().sum().backward()
        assert dt.grad is not None
        results.append([*pairs, ("d dt", dt.grad)])
    for (name, a), (_, b) in zip(*results, strict=True):
        assert_close(a, b, torch.float64, name)


def some(layer: TimedLayer) -> Any:
    return laws.some_state(layer)


@pytest.mark.parametrize("name", TIMED)
def test_no_dt_is_one(name: str) -> None:
    layer = build(name)
    x, state = laws.inputs(layer), some(layer)
    y, last = layer(x, state)
    for ones in (torch.ones(B, T, dtype=torch.float64), torch.ones(B, T), torch.ones(B, T, dtype=torch.int64)):
        y_timed, last_timed = layer(x, state, dt=ones)
        assert_close(y_timed, y, torch.float64, "y")
        for (part, a), (_, b) in zip(named_tensors(last_timed), named_tensors(last), strict=True):
            assert_close(a, b, torch.float64, part)


@pytest.mark.parametrize("name", TIMED)
def test_dt_matters(name: str) -> None:
    layer = build(name)
    x, dt = laws.inputs(layer), times()
    y, last = layer(x, dt=dt)
    assert float((y - layer(x)[0]).detach().abs().max()) > 1e-3 * float(y.detach().abs().max())
    assert type(last) is type(layer.initial_state(B))
    later = dt.clone()
    later[:, 12:] *= 2
    assert torch.equal(layer(x, dt=later)[0][:, :12], y[:, :12]), "dt of a later step changed an earlier output"
    assert_close(layer(x[1:2], dt=dt[1:2])[0], y[1:2], torch.float64, "row 1 alone")


@pytest.mark.parametrize("name", TIMED)
def test_any_split_equals_the_whole(name: str) -> None:
    layer = build(name)

    def pieces(x: Tensor, state: Any, dt: Tensor, borders: tuple[int, ...]) -> tuple[Tensor, Any]:
        ys = []
        for start, stop in zip((0, *borders), (*borders, T), strict=True):
            y, state = layer(x[:, start:stop], state, dt=dt[:, start:stop])
            ys.append(y)
        return torch.cat(ys, 1), state

    for borders in SPLITS:
        same_with_gradients(
            layer,
            lambda x, s, dt, at=borders: pieces(x, s, dt, at),
            lambda x, s, dt: layer(x, s, dt=dt),
        )


@pytest.mark.parametrize("name", TIMED)
def test_steps_equal_the_whole(name: str) -> None:
    layer = build(name)

    def steps(x: Tensor, state: Any, dt: Tensor) -> tuple[Tensor, Any]:
        ys = []
        for x_t, dt_t in zip(x.unbind(1), dt.unbind(1), strict=True):
            y, state = layer.step(x_t, state, dt=dt_t)
            ys.append(y)
        return torch.stack(ys, 1), state

    same_with_gradients(layer, steps, lambda x, s, dt: layer(x, s, dt=dt))


@pytest.mark.parametrize("name", TIMED)
def test_a_reset_equals_separate_calls(name: str) -> None:
    layer = build(name)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, [5, 6, 17]] = True

    def apart(x: Tensor, state: Any, dt: Tensor) -> tuple[Tensor, Any]:
        ys = [layer(x[:, :5], state, dt=dt[:, :5])[0]]
        for start, stop in [(5, 6), (6, 17), (17, T)]:
            y, state = layer(x[:, start:stop], dt=dt[:, start:stop])
            ys.append(y)
        return torch.cat(ys, 1), state

    same_with_gradients(layer, apart, lambda x, s, dt: layer(x, s, reset=reset, dt=dt))


@pytest.mark.parametrize("name", TIMED)
def test_float32_and_half_precision(name: str) -> None:
    layer = build(name)
    x, dt = laws.inputs(layer), times()
    exact, _ = layer(x, dt=dt)
    y, _ = layer.float()(x.float(), dt=dt.float())
    assert_close(y, exact, torch.float32, "float32")
    half, state = layer.to(torch.bfloat16)(x.to(torch.bfloat16), dt=dt.float())
    assert half.dtype == torch.bfloat16
    assert_close(half, exact, torch.bfloat16, "bfloat16")
    assert all(part.dtype == torch.float32 for _, part in named_tensors(state))


@pytest.mark.parametrize("name", TIMED)
def test_it_compiles_with_dt(name: str) -> None:
    layer = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, dt = laws.inputs(layer), times()
    assert_close(compiled(x, dt=dt)[0], layer(x, dt=dt)[0], torch.float64, "y")


@pytest.mark.parametrize("name", TIMED)
def test_times_that_are_none_are_named(name: str) -> None:
    layer = build(name)
    x = laws.inputs(layer)
    for wrong, words in [(-0.5, "-0.5"), (0.0, "0"), (float("inf"), "inf"), (float("nan"), "nan")]:
        dt = times()
        dt[1, 3] = wrong
        with pytest.raises(resurge.ResurgeError, match=rf"dt must be positive and finite, and dt\[1, 3\] is {words}"):
            layer(x, dt=dt)
        with pytest.raises(resurge.ResurgeError, match="dt must be positive and finite"):
            layer.step(x[:, 3], layer.initial_state(B), dt=dt[:, 3])
    with pytest.raises(resurge.ResurgeError, match=r"dt must be one number a step, shape \(B, T\) = \(3, 23\)"):
        layer(x, dt=times()[:, 1:])
    with pytest.raises(resurge.ResurgeError, match=r"dt must be one number a step.*torch\.bool"):
        layer(x, dt=times() > 0)
    with pytest.raises(resurge.ResurgeError, match=r"dt must have shape \(B,\) = \(3,\)"):
        layer.step(x[:, 0], layer.initial_state(B), dt=torch.ones(3, 1))


class ForgetsTheTimeAtABorder(LRU, TimedLayer):
    """A specimen: the step before a border counts for nothing in the next piece."""

    def scan(
        self, x: Tensor, state: DiagonalState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, DiagonalState]:
        y, state = super().scan(x, state, reset)
        return (y if dt is None else y + 1e-3 * torch.cumsum(dt, 1)[..., None]), state

    def step(self, x_t: Tensor, state: DiagonalState, *, dt: Tensor | None = None) -> tuple[Tensor, DiagonalState]:
        return TimedLayer.step(self, x_t, state, dt=dt)

    def forward(
        self, x: Tensor, state: Any = None, *, reset: Tensor | None = None, dt: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        return TimedLayer.forward(self, x, state, reset=reset, dt=dt)


def test_a_broken_layer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers._LAYERS, "forgetful", ForgetsTheTimeAtABorder)
    for law in (test_any_split_equals_the_whole, test_steps_equal_the_whole, test_a_reset_equals_separate_calls):
        with pytest.raises(AssertionError):
            law("forgetful")
