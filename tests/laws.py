"""The laws of a recurrent layer, as functions of a layer: each raises AssertionError for a layer that breaks it.

A layer comes in float64 with parameters drawn from a fixed seed. The broken specimens of test_specimens.py must
fail these same functions.
"""

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge import RecurrentLayer
from resurge.state import map_tensors, named_tensors, nbytes

Law = Callable[[RecurrentLayer], None]
B, T = 3, 23
SPLITS = [(1,), (2,), (3,), (22,), (4, 5), (1, 2, 3, 7, 11, 13, 17, 19), (8, 16), tuple(range(1, T))]


def inputs(layer: RecurrentLayer, length: int = T, batch: int = B) -> Tensor:
    own = next(layer.parameters())
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, length, layer.d_model, generator=generator, dtype=torch.float64).to(own.dtype)


def some_state(layer: RecurrentLayer, batch: int = B) -> Any:
    """A state that is not the initial one: the layer's own, after some steps."""
    return layer(3 * inputs(layer, 9, batch))[1]


def outputs_and_gradients(
    layer: RecurrentLayer, run: Callable[[Tensor, Any], tuple[Tensor, Any]], x: Tensor, state: Any
) -> Iterator[tuple[str, Tensor]]:
    """Outputs, final state, and the gradients to inputs, initial state and parameters of a loss over both."""
    x = x.detach().clone().requires_grad_()
    state = map_tensors(lambda s: s.detach().clone().requires_grad_(), state)
    y, last = run(x, state)
    generator = torch.Generator().manual_seed(8)
    named = [("y", y), *named_tensors(last)]
    loss = sum((v * torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.dtype)).sum() for _, v in named)
    initial = list(named_tensors(state))
    parameters = list(layer.named_parameters())
    wanted = [x, *(s for _, s in initial), *(p for _, p in parameters)]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)  # type: ignore[arg-type]
    yield from named
    names = ["d x", *(f"d initial {n}" for n, _ in initial), *(f"d {n}" for n, _ in parameters)]
    for name, gradient, source in zip(names, gradients, wanted, strict=True):
        yield name, torch.zeros_like(source) if gradient is None else gradient


def same(
    layer: RecurrentLayer,
    first: Callable[[Tensor, Any], tuple[Tensor, Any]],
    second: Callable[[Tensor, Any], tuple[Tensor, Any]],
    x: Tensor,
    state: Any,
) -> None:
    """Two ways of running a layer agree, gradients included."""
    pairs = zip(
        outputs_and_gradients(layer, first, x, state), outputs_and_gradients(layer, second, x, state), strict=True
    )
    for (name, a), (_, b) in pairs:
        assert_close(a, b, torch.float64, name)


def pieces(
    layer: RecurrentLayer, x: Tensor, state: Any, borders: tuple[int, ...], reset: Tensor | None = None
) -> tuple[Tensor, Any]:
    ys = []
    for start, stop in zip((0, *borders), (*borders, x.shape[1]), strict=True):
        y, state = layer(x[:, start:stop], state, reset=None if reset is None else reset[:, start:stop])
        ys.append(y)
    return torch.cat(ys, 1), state


def steps(layer: RecurrentLayer, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    ys = []
    for x_t in x.unbind(1):
        y, state = layer.step(x_t, state)
        ys.append(y)
    return torch.stack(ys, 1), state


def law_any_split_equals_the_whole(layer: RecurrentLayer) -> None:
    x, state = inputs(layer), some_state(layer)
    for borders in SPLITS:
        same(layer, lambda x, s, at=borders: pieces(layer, x, s, at), layer, x, state)  # type: ignore[misc]


def law_steps_equal_the_whole(layer: RecurrentLayer) -> None:
    same(layer, lambda x, s: steps(layer, x, s), layer, inputs(layer), some_state(layer))


def law_no_state_is_the_initial_state(layer: RecurrentLayer) -> None:
    x = inputs(layer)
    assert torch.equal(layer(x)[0], layer(x, layer.initial_state(B))[0])


def law_the_final_state_carries_gradients(layer: RecurrentLayer) -> None:
    x = inputs(layer).requires_grad_()
    _, state = layer(x)
    for name, part in named_tensors(state):
        assert part.requires_grad, f"state.{name} is detached"
        (gradient,) = torch.autograd.grad(part.sum(), x, retain_graph=True)
        assert bool((gradient != 0).any()), f"no gradient flows through state.{name}"


def law_reset_equals_separate_calls(layer: RecurrentLayer) -> None:
    x = inputs(layer, batch=1)
    reset = torch.zeros(1, T, dtype=torch.bool)
    reset[0, [5, 6, 17]] = True
    state = some_state(layer, 1)

    def apart(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        ys = [layer(x[:, :5], state)[0]]
        for start, stop in [(5, 6), (6, 17), (17, T)]:
            y, state = layer(x[:, start:stop])
            ys.append(y)
        return torch.cat(ys, 1), state

    same(layer, lambda x, s: layer(x, s, reset=reset), apart, x, state)


def law_resets_of_rows_are_independent(layer: RecurrentLayer) -> None:
    generator = torch.Generator().manual_seed(3)
    for probability in (0.05, 0.5, 1.0):
        reset = torch.rand(B, T, generator=generator) < probability
        x, state = inputs(layer), some_state(layer)
        y, last = layer(x, state, reset=reset)
        for b in range(B):
            row = slice(b, b + 1)
            alone, last_alone = layer(x[row], resurge.state.select(state, row), reset=reset[row])
            assert_close(y[row], alone, torch.float64, f"row {b}")
            for (name, s), (_, t) in zip(
                named_tensors(resurge.state.select(last, row)), named_tensors(last_alone), strict=True
            ):
                assert_close(s, t, torch.float64, name)


def law_resets_agree_with_any_split(layer: RecurrentLayer) -> None:
    reset = torch.rand(B, T, generator=torch.Generator().manual_seed(4)) < 0.3
    same(
        layer,
        lambda x, s: pieces(layer, x, s, (1, 2, 9, 10), reset),
        lambda x, s: layer(x, s, reset=reset),
        inputs(layer),
        some_state(layer),
    )


def law_left_padding_and_a_reset_change_nothing(layer: RecurrentLayer) -> None:
    x = inputs(layer)
    padded = torch.cat([1e3 * torch.ones_like(x[:, :4]), x], 1)
    reset = torch.zeros(B, T + 4, dtype=torch.bool)
    reset[:, 4] = True
    assert_close(layer(padded, reset=reset)[0][:, 4:], layer(x)[0], torch.float64, "y")


def law_rows_are_independent(layer: RecurrentLayer) -> None:
    x, state = inputs(layer), some_state(layer)
    y, last = layer(x, state)
    order = [2, 0, 1]
    permuted, last_permuted = layer(x[order], resurge.state.select(state, order))
    assert_close(permuted, y[order], torch.float64, "permuted batch")
    for b in range(B):
        alone, _ = layer(x[b : b + 1], resurge.state.select(state, [b]))
        assert alone.shape[0] == 1
        assert_close(alone, y[b : b + 1], torch.float64, f"row {b} alone")
    for (name, s), (_, t) in zip(
        named_tensors(last_permuted), named_tensors(resurge.state.select(last, order)), strict=True
    ):
        assert_close(s, t, torch.float64, name)


def law_causal(layer: RecurrentLayer) -> None:
    x = inputs(layer).requires_grad_()
    y, _ = layer(x)
    for t in (0, 7, T - 2):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert bool((gradient[:, t + 1 :] == 0).all()), f"y at {t} depends on the future"
        assert bool((gradient[:, t] != 0).any()), f"y at {t} ignores its own input"


def law_the_state_has_constant_size(layer: RecurrentLayer) -> None:
    initial = layer.initial_state(B)
    for length in (1, 2, T):
        _, state = layer(inputs(layer, length))
        assert type(state) is type(initial)
        assert nbytes(state) == nbytes(initial)
    sizes = [nbytes(layer.initial_state(b)) for b in (1, 2, 7)]
    assert sizes == [sizes[0] * b for b in (1, 2, 7)]


def law_backends_agree(layer: RecurrentLayer) -> None:
    x, state = inputs(layer), some_state(layer)

    def on(name: str) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
        def run(x: Tensor, s: Any) -> tuple[Tensor, Any]:
            with resurge.backend(name):
                return layer(x, s)  # type: ignore[no-any-return]

        return run

    for name in ("numba", "torch"):
        same(layer, on(name), on("reference"), x, state)
    if any(not op.startswith("torch.") for op in layer.OPS):  # in Triton's interpreter where there is no GPU: few steps
        short = x[:1, :5]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        there = copy.deepcopy(layer).to(device)

        def on_triton(x: Tensor, s: Any) -> tuple[Tensor, Any]:
            with resurge.backend("triton"):
                y, last = there(x.to(device), map_tensors(lambda v: v.to(device), s))
            return y.cpu(), map_tensors(lambda v: v.cpu(), last)

        for (name, a), (_, b) in zip(
            outputs_and_gradients(there, on_triton, short, resurge.state.select(state, slice(0, 1))),
            outputs_and_gradients(layer, on("reference"), short, resurge.state.select(state, slice(0, 1))),
            strict=True,
        ):
            assert_close(a.cpu(), b, torch.float64, f"triton: {name}")


def law_float32_is_near_float64(layer: RecurrentLayer) -> None:
    narrow = copy.deepcopy(layer).float()
    x, state = inputs(layer).float(), map_tensors(lambda s: s.float(), some_state(layer))
    wide = copy.deepcopy(narrow).double()
    exact = list(outputs_and_gradients(wide, wide, x.double(), map_tensors(lambda s: s.double(), state)))
    for (name, value), (_, expected) in zip(outputs_and_gradients(narrow, narrow, x, state), exact, strict=True):
        assert_close(value, expected, torch.float32, name)


def law_half_precision_keeps_a_float32_state(layer: RecurrentLayer) -> None:
    half = copy.deepcopy(layer).to(torch.bfloat16)
    x = inputs(layer).to(torch.bfloat16)
    y, state = half(x)
    assert y.dtype == torch.bfloat16
    for name, part in named_tensors(state):
        assert part.dtype == torch.float32, f"state.{name} is {part.dtype}"
    exact = copy.deepcopy(half).double()
    assert_close(y, exact(x.double())[0], torch.bfloat16, "y")
    whole, _ = half(x, state)
    stepped, _ = steps(half, x, state)
    assert_close(stepped, whole, torch.bfloat16, "steps")
    y.float().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in half.parameters())


def law_autocast_keeps_the_state(layer: RecurrentLayer) -> None:
    narrow = copy.deepcopy(layer).float()
    x = inputs(layer).float()
    expected, _ = narrow(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = narrow(x)
    assert_close(y, expected, torch.bfloat16, "y")
    assert all(part.dtype == torch.float32 for _, part in named_tensors(state))


def law_a_hundred_thousand_steps_stay_finite(layer: RecurrentLayer) -> None:
    narrow = copy.deepcopy(layer).float()
    with torch.no_grad():
        y, state = narrow(torch.randn(1, 100_000, layer.d_model))
    assert bool(torch.isfinite(y).all())
    assert all(bool(torch.isfinite(part).all()) for _, part in named_tensors(state))


def law_deterministic(layer: RecurrentLayer) -> None:
    x, state = inputs(layer), some_state(layer)
    first, second = (list(outputs_and_gradients(layer, layer, x, state)) for _ in range(2))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))


def law_nothing_is_stored_on_the_module(layer: RecurrentLayer) -> None:
    x = inputs(layer)
    first, _ = layer(x)
    layer(100 * x)
    layer.step(x[:, 0], some_state(layer))
    assert torch.equal(layer(x)[0], first)


def law_saved_and_loaded_it_is_the_same(layer: RecurrentLayer) -> None:
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    twin = copy.deepcopy(layer)
    for parameter in twin.parameters():
        torch.nn.init.normal_(parameter)
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    x = inputs(layer)
    assert torch.equal(twin(x)[0], layer(x)[0])
    assert not any(p.is_complex() for p in layer.parameters())


def law_param_groups_hold_every_parameter_once(layer: RecurrentLayer) -> None:
    grouped = [id(p) for group in layer.param_groups() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in layer.parameters())
    names = dict(layer.named_parameters())
    missing = [name for name in layer.RECURRENT if name not in names]
    assert not missing, f"RECURRENT names parameters that do not exist: {missing}"


def law_every_parameter_is_initialised_and_used(layer: RecurrentLayer) -> None:
    y, _ = layer(inputs(layer))
    gradients = torch.autograd.grad((y * y).sum(), list(layer.parameters()), allow_unused=True)
    for (name, parameter), gradient in zip(layer.named_parameters(), gradients, strict=True):
        assert bool(torch.isfinite(parameter).all()), f"{name} was never initialised"
        assert gradient is not None, f"{name} is not used"
        assert bool((gradient != 0).any()), f"{name} has no influence"


def law_compiles_whole(layer: RecurrentLayer) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, state = inputs(layer), some_state(layer)
    same(layer, lambda x, s: compiled(x, s), layer, x, state)


def law_the_step_exports(layer: RecurrentLayer) -> None:
    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x_t: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            y, state = self.layer.step(x_t, type(layer.initial_state(1))(*parts))
            return y, *(part for _, part in named_tensors(state))

    x_t, state = inputs(layer)[:, 0], some_state(layer)
    parts = tuple(part.detach() for _, part in named_tensors(state))
    exported = torch.export.export(Step(), (x_t, *parts)).module()
    y, after = layer.step(x_t, state)
    for actual, (name, expected) in zip(exported(x_t, *parts), [("y", y), *named_tensors(after)], strict=True):
        assert_close(actual, expected, torch.float64, name)


LAWS: list[Law] = [function for name, function in sorted(globals().items()) if name.startswith("law_")]
