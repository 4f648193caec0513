"""The contract: a recurrent layer is a function (inputs, state) -> (outputs, state), the same in every form."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from resurge.dispatch import transformed
from resurge.errors import ResurgeError
from resurge.paper import Paper, cite
from resurge.state import check, named_tensors

_CAST = {torch.float32, torch.bfloat16, torch.float16}  # which autocast brings to one dtype


class ParamGroups(NamedTuple):
    """Parameters by how they are trained: `recurrent` at a learning rate of their own, without decay, in float32."""

    recurrent: list[nn.Parameter]
    other: list[nn.Parameter]


class RecurrentLayer(nn.Module):
    """Base of all recurrent layers.

    A subclass names its paper and ops, sets `d_model`, and writes `initial_state` and `scan`; `step` may be
    written too where one step has a cheaper form. Nothing recurrent is stored on the module.
    """

    PAPER: ClassVar[Paper]
    OPS: ClassVar[tuple[str, ...]] = ()  # the ops it calls, for explain(); "torch.x" is PyTorch's own
    RECURRENT: ClassVar[tuple[str, ...]] = ()  # names of the recurrence's own parameters
    CAUSAL: ClassVar[bool] = True
    d_model: int

    @property
    def timed(self) -> bool:
        """Whether `forward` and `step` take dt, the time that passes at each step, as those of `TimedLayer` do."""
        return False

    @classmethod
    def stacked(cls, layers: Mapping[int, Self], depth: int) -> None:
        """What the layers of this class settle among themselves when a stack has made them: nothing, unless overridden.

        A start that depends on a layer's place or on the number of layers, parameters that they share. `Stack` calls
        this once for each class of layer in it; it leaves alone what the user chose for a layer.

        Args:
            layers: those of exactly this class, by their places in the stack, from 0, in order.
            depth: number of blocks of the stack.
        """

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """The state before the first step: a NamedTuple of tensors, batch first, float32 unless `dtype` is given.

        Device and dtype default to the layer's own device, and to float64 for a float64 layer, else float32.
        """
        raise TypeError(f"{type(self).__name__} does not define initial_state")

    def scan(self, x: Tensor, state: Any, reset: Tensor | None) -> tuple[Tensor, Any]:
        """The layer's own mathematics over checked arguments: x (B, T, D), a state, reset (B, T) or None."""
        raise TypeError(f"{type(self).__name__} does not define scan")

    def forward(self, x: Tensor, state: Any = None, *, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """Outputs `(B, T, d_model)` and the state after the last step.

        Args:
            x: inputs `(B, T, d_model)`, T >= 1, of the dtype of the parameters; under autocast any but float64.
            state: the state before the first step; None is the initial state. Feeding a sequence in pieces, each
                with the state that the piece before returned, equals feeding it whole.
            reset: `(B, T)` bool. Where true, the row starts anew from the initial state at that step.

        Raises:
            ResurgeError: a wrong shape, dtype or device, or the state of another layer or batch size.
        """
        self._check_sequence(x, reset)
        return self.scan(x, self._state(state, x.shape[0]), reset)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step: x_t `(B, d_model)` and a state to y_t `(B, d_model)` and the next state.

        Raises:
            ResurgeError: a wrong shape, dtype or device, or the state of another layer or batch size.
        """
        self._check_step(x_t)
        y, state = self.forward(x_t[:, None], state)
        return y[:, 0], state

    def _check_sequence(self, x: Tensor, reset: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[-1] != self.d_model or 0 in x.shape:
            raise ResurgeError(f"x must have shape (B, T, {self.d_model}) with B, T >= 1, and has {tuple(x.shape)}")
        self._check_numbers("x", x)
        if reset is not None and (reset.dtype != torch.bool or reset.shape != x.shape[:2]):
            raise ResurgeError(
                f"reset must be bool of shape (B, T) = {tuple(x.shape[:2])}, "
                f"and is {reset.dtype} of {tuple(reset.shape)}"
            )
        if reset is not None:
            _check_device("reset", reset, "x", x)

    def _check_step(self, x_t: Tensor) -> None:
        if x_t.dim() != 2 or x_t.shape[-1] != self.d_model or 0 in x_t.shape:
            raise ResurgeError(f"x_t must have shape (B, {self.d_model}) with B >= 1, and has {tuple(x_t.shape)}")
        self._check_numbers("x_t", x_t)

    def _check_numbers(self, name: str, x: Tensor) -> None:
        """Refuse numbers that do not meet the parameters: some layers would fail at them, others work in another dtype.

        The recurrence's own parameters, which stay in float32, do not count. Mostly the first of the others settles it,
        cheaply enough for single steps.
        """
        own = next((p for label, p in self.named_parameters() if label not in self.RECURRENT), x)
        _check_device(name, x, "the layer", own)
        if x.is_floating_point() and x.dtype == own.dtype:
            return
        known = {p.dtype for p in self.param_groups().other if p.is_floating_point()}
        kind = x.device.type
        if known & _CAST and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            known = known | _CAST
        if not x.is_floating_point() or (known and x.dtype not in known):
            wanted = " or ".join(sorted(map(str, known))) or "floating point"
            raise ResurgeError(f"{name} must be {wanted} for this layer's parameters, and is {x.dtype}")

    def _state(self, state: Any, batch_size: int) -> Any:
        """The state to start from, refused if it is not one of this layer's for this batch."""
        if state is None:
            return self.initial_state(batch_size)
        check(state, self.initial_state(batch_size, device=torch.device("meta")), type(self).__name__)
        own = next(self.parameters(), None)
        for name, part in named_tensors(state):
            if not part.is_floating_point():
                raise ResurgeError(f"state.{name} must be floating point, and is {part.dtype}")
            if own is not None:
                _check_device(f"state.{name}", part, "the layer", own)
        return state

    def zeros(self, *shape: int, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
        """A tensor of zeros for a state, on the layer's device and in the dtype that states have."""
        own = next(self.parameters())
        state_dtype = torch.float64 if own.dtype == torch.float64 else torch.float32
        return torch.zeros(*shape, device=device or own.device, dtype=dtype or state_dtype)

    def param_groups(self) -> ParamGroups:
        """This layer's parameters, each exactly once: the recurrence's own, and the others."""
        recurrent = [p for name, p in self.named_parameters() if name in self.RECURRENT]
        other = [p for name, p in self.named_parameters() if name not in self.RECURRENT]
        return ParamGroups(recurrent, other)

    def cite(self) -> str:
        """BibTeX of the paper that this layer comes from."""
        return cite(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RecurrentLayer":
        """As in nn.Module, but the recurrence's own parameters stay in float32 when a layer goes to half precision:
        an eigenvalue near the unit circle would be rounded onto it."""
        kept = {name: p.data for name, p in self.named_parameters() if name in self.RECURRENT}
        super()._apply(fn, recurse)
        for name, parameter in self.named_parameters():
            if name in kept and parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = kept[name].to(parameter.device, torch.float32)
        return self


class TimedLayer(RecurrentLayer):
    """Base of the layers that discretise a system in continuous time, and so can tell how much time passes.

    Step t advances the system by Δ_t = Δ dt_t, with the layer's own step size Δ and dt_t > 0, the time since the step
    before in units of the usual one. Unevenly sampled series give the gaps between their samples; a series at half the
    rate that the layer was trained at gives 2. No dt is dt = 1. A subclass writes `scan` with dt, (B, T) or None.
    """

    @property
    def timed(self) -> bool:
        return True

    def scan(self, x: Tensor, state: Any, reset: Tensor | None, dt: Tensor | None = None) -> tuple[Tensor, Any]:
        """The layer's own mathematics over checked arguments: those of `RecurrentLayer.scan`, and dt (B, T) or None."""
        raise TypeError(f"{type(self).__name__} does not define scan")

    def forward(
        self, x: Tensor, state: Any = None, *, reset: Tensor | None = None, dt: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """As `RecurrentLayer.forward`, with the time that passes at each step.

        Args:
            x, state, reset: as there.
            dt: `(B, T)`, the time since the step before, positive and finite; None is 1 everywhere.

        Raises:
            ResurgeError: also a dt of another shape, or one that is not positive and finite (not looked for under
                `torch.compile` and functorch transforms, which cannot see values).
        """
        self._check_sequence(x, reset)
        if dt is not None:
            dt = checked_times(dt, x)
        return self.scan(x, self._state(state, x.shape[0]), reset, dt)

    def step(self, x_t: Tensor, state: Any, *, dt: Tensor | None = None) -> tuple[Tensor, Any]:
        """As `RecurrentLayer.step`, with the time dt `(B,)` since the step before."""
        self._check_step(x_t)
        if dt is not None and dt.shape != x_t.shape[:1]:
            raise ResurgeError(f"dt must have shape (B,) = {tuple(x_t.shape[:1])}, and has {tuple(dt.shape)}")
        y, state = self.forward(x_t[:, None], state, dt=None if dt is None else dt[:, None])
        return y[:, 0], state


def _check_device(name: str, given: Tensor, other: str, like: Tensor) -> None:
    """Refuse a tensor that is not on the device of `like`, which the user knows as `other`."""
    if given.device != like.device:
        raise ResurgeError(f"{name} is on {given.device}, and {other} is on {like.device}: both must be on one device")


def checked_times(dt: Tensor, x: Tensor) -> Tensor:
    """dt in floating point, refused if it is not one positive, finite number a step of x."""
    if dt.shape != x.shape[:2] or dt.dtype == torch.bool or dt.is_complex():
        raise ResurgeError(
            f"dt must be one number a step, shape (B, T) = {tuple(x.shape[:2])}, and is {dt.dtype} of {tuple(dt.shape)}"
        )
    _check_device("dt", dt, "x", x)
    if not (torch.compiler.is_compiling() or transformed()):
        wrong = ~(torch.isfinite(dt) & (dt > 0))
        if bool(wrong.any()):
            b, t = wrong.nonzero()[0].tolist()
            raise ResurgeError(f"dt must be positive and finite, and dt[{b}, {t}] is {dt[b, t].item():g}")
    return dt if dt.is_floating_point() else dt.to(torch.get_default_dtype())


def reversed_times(dt: Tensor, reset: Tensor | None) -> Tensor:
    """The time since the step before, dt (B, T), for a layer that runs from the end: it has flipped inputs and resets.

    Seen from behind, the step before t is t + 1, and the time between them is dt_{t+1}. The last step of a sequence,
    or of a document, has none before it and takes the place of the first, whose dt it is given: so an even dt stays
    even, and turning twice gives dt again.
    """
    T = dt.shape[1]
    steps = torch.arange(T, device=dt.device).expand_as(dt)
    starts = steps == 0 if reset is None else reset | (steps == 0)
    start = torch.where(starts, steps, 0).cummax(1).values
    ends = starts.roll(-1, 1)
    return dt.gather(1, torch.where(ends, start, steps + 1)).flip(1)


def run(
    layer: RecurrentLayer, x: Tensor, state: Any = None, *, reset: Tensor | None = None, dt: Tensor | None = None
) -> tuple[Tensor, Any]:
    """`layer` over x (B, T, d_model); dt (B, T) goes to a layer that takes it, and past one that counts steps."""
    if dt is not None and layer.timed:
        return layer(x, state, reset=reset, dt=dt)  # type: ignore[no-any-return]
    return layer(x, state, reset=reset)  # type: ignore[no-any-return]


def param_groups(model: nn.Module) -> ParamGroups:
    """The parameters of a whole model by how they are trained, each exactly once."""
    recurrent: dict[nn.Parameter, None] = {}
    for module in model.modules():
        if isinstance(module, RecurrentLayer):
            recurrent.update(dict.fromkeys(module.param_groups().recurrent))
    return ParamGroups(list(recurrent), [p for p in model.parameters() if p not in recurrent])


def settle(layers: Mapping[int, RecurrentLayer], depth: int) -> None:
    """Let the layers of a stack of `depth` blocks, by their places, settle what depends on them all, class by class."""
    classes = dict.fromkeys(type(layer) for layer in layers.values())
    for cls in classes:
        cls.stacked({place: layer for place, layer in layers.items() if type(layer) is cls}, depth)


class BidirectionalState(NamedTuple):
    """Before a sequence: empty."""


class BidirectionalEnd(NamedTuple):
    """After a sequence: empty, and refused as a state to go on from."""


class WholeSequence(RecurrentLayer):
    """Base of the layers that see the future: there is no step and no state, and no sequence can be fed in pieces."""

    CAUSAL = False

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        return BidirectionalState()

    def step(self, x_t: Tensor, state: Any, *, dt: Tensor | None = None) -> tuple[Tensor, Any]:
        raise ResurgeError("a bidirectional layer has no step: it needs the whole sequence")


class Bidirectional(WholeSequence, TimedLayer):
    """Two layers over the same sequence, one of them from its end: y = forward(x) + flip(backward(flip(x))).

    It sees the future: there is no step and no state, and a sequence cannot be fed in pieces. A reset separates
    documents for both directions. It takes dt if one of the layers does; from the end, the time before a step is that
    before the next one (see `reversed_times`).

    Args:
        ahead: the layer that runs forward in time.
        back: the layer that runs backward; both of the same d_model.
    """

    @property
    def timed(self) -> bool:
        return self.ahead.timed or self.back.timed

    @classmethod
    def stacked(cls, layers: Mapping[int, Self], depth: int) -> None:
        settle({place: layer.ahead for place, layer in layers.items()}, depth)
        settle({place: layer.back for place, layer in layers.items()}, depth)

    def __init__(self, ahead: RecurrentLayer, back: RecurrentLayer) -> None:
        super().__init__()
        if ahead.d_model != back.d_model:
            raise ResurgeError(f"both layers must have one d_model, and have {ahead.d_model} and {back.d_model}")
        self.d_model = ahead.d_model
        self.ahead, self.back = ahead, back

    def scan(
        self, x: Tensor, state: BidirectionalState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, BidirectionalEnd]:
        if dt is not None and not self.timed:
            kinds = " and ".join(dict.fromkeys(type(layer).__name__ for layer in (self.ahead, self.back)))
            raise ResurgeError(f"dt is for layers in continuous time, and {kinds} counts steps")
        ahead, _ = run(self.ahead, x, reset=reset, dt=dt)
        if dt is not None:
            dt = reversed_times(dt, reset)
        if reset is not None:  # the first step after a document, seen from behind, is the last step of the next one
            reset = reset.flip(1).roll(1, 1)
        back, _ = run(self.back, x.flip(1), reset=reset, dt=dt)
        return ahead + back.flip(1), BidirectionalEnd()

    def param_groups(self) -> ParamGroups:
        ahead, back = self.ahead.param_groups(), self.back.param_groups()
        return ParamGroups(ahead.recurrent + back.recurrent, ahead.other + back.other)
