"""What keeps a recurrent memory from overflowing on sequences far longer than those of its training, without training.

A layer that never had to forget adds up inputs until its state is like none that it has seen: state collapse
(`resurge.analysis.collapse` measures it). Each mitigation here is a layer around a layer: it has the same parameters,
and a state of its own. They go around every layer that gives its recurrence away, h_t = a_t ⊙ h_{t-1} + b_t:

    mitigated(model, lambda layer: SlidingWindow(layer, 256))     a copy of a model, mitigated

Source: section 4.3 of "Stuffed Mamba: State Collapse and State Capacity of RNN-Based Long-Context Modeling",
arXiv 2410.07145v1. The authors' code of it is not public, and the values that they found best are not used here.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError, at_least
from resurge.layer import ParamGroups, RecurrentLayer
from resurge.nn.recurrence import GivesRecurrence, Recurrence
from resurge.ops import windowed_scan
from resurge.paper import Paper

M = TypeVar("M", bound=nn.Module)


class Mitigation(RecurrentLayer):
    """Base of the layers around a layer.

    Raises:
        ResurgeError: a layer whose recurrence is not h_t = a_t ⊙ h_{t-1} + b_t, or that does not give it away.
    """

    PAPER = Paper(
        "stuffed_mamba",
        "Stuffed Mamba: State Collapse and State Capacity of RNN-Based Long-Context Modeling",
        "Yingfa Chen and Xinrong Zhang and Shengding Hu and Xu Han and Zhiyuan Liu and Maosong Sun",
        2024,
        "2410.07145",
    )
    OPS = ("diagonal_scan",)

    def __init__(self, layer: RecurrentLayer) -> None:
        super().__init__()
        if not (layer.CAUSAL and isinstance(layer, GivesRecurrence)):
            raise ResurgeError(
                f"{type(self).__name__} needs a layer that runs forward in time, whose state decays, "
                f"h_t = a_t h_(t-1) + b_t, and that gives this away by a method recurrence: not {type(layer).__name__}"
            )
        self.layer: RecurrentLayer = layer
        self.d_model = layer.d_model

    def recurrence(self, x: Tensor, state: Any, reset: Tensor | None) -> Recurrence:
        """Those of the layer inside."""
        found: Recurrence = self.layer.recurrence(x, state, reset)  # type: ignore[operator]
        return found

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        return self.layer.initial_state(batch_size, device=device, dtype=dtype)

    def param_groups(self) -> ParamGroups:
        return self.layer.param_groups()


class ForgetMore(Mitigation):
    r"""A layer that forgets more and remembers less.

        h_t = |a_t|^(forget - 1) a_t ⊙ h_{t-1} + remember b_t

    `forget` multiplies the logarithm of the decay: every memory lasts 1 / forget times as long. (For Mamba this is a
    larger A with the step size Δ as it was.) A phase is left as it is.

    Args:
        layer: the layer, whose parameters these are.
        forget: at least 1; 1 changes nothing.
        remember: in (0, 1]; 1 changes nothing.

    State: the layer's own, and the same for both: a stream may change over. Cost: the layer's, but without the fused
    scans of Mamba and the RG-LRU: for Mamba all states are written to memory.

    Raises:
        ResurgeError: a factor out of range, or a layer without decays.

    Source: method 1 of section 4.3 of arXiv 2410.07145v1.
    """

    def __init__(self, layer: RecurrentLayer, *, forget: float = 1.0, remember: float = 1.0) -> None:
        super().__init__(layer)
        if not (forget >= 1 and 0 < remember <= 1):
            raise ResurgeError(
                f"forget must be at least 1 and remember in (0, 1], and they are {forget:g} and {remember:g}"
            )
        self.forget, self.remember = forget, remember

    def extra_repr(self) -> str:
        return f"forget={self.forget:g}, remember={self.remember:g}"

    def recurrence(self, x: Tensor, state: Any, reset: Tensor | None) -> Recurrence:
        found = super().recurrence(x, state, reset)
        a = found.a
        square = a.square().sum(-2, keepdim=True) if found.b.dim() == 4 else a.square()
        size = square.clamp(min=torch.finfo(a.dtype).tiny) ** (0.5 * (self.forget - 1))  # a power of 0 has no slope
        return found._replace(a=size * a, b=self.remember * found.b)

    def scan(self, x: Tensor, state: Any, reset: Tensor | None) -> tuple[Tensor, Any]:
        return self.recurrence(x, state, reset).run(reset)


class NormalisedState(NamedTuple):
    """The layer's state, and how many steps of the present chunk there were."""

    layer: Any
    steps: Tensor  # (B, 1)


class StateNorm(Mitigation):
    r"""A layer whose state is scaled down to norm `p` after each chunk that ends with a greater one.

        h_t <- h_t p / max(p, ||h_t||)        at every `chunk_size`-th step of a row

    ||h_t|| is the Euclidean norm of all numbers of a row's state (those of a convolution aside). y_t is read after it.
    A row counts its steps from its start, or its last reset, so that all forms agree. A norm that suits is found by
    `resurge.analysis.collapse.state_trace`, at the length of the training.

    Args:
        layer: the layer, whose parameters these are.
        p: largest norm, positive.
        chunk_size: steps between two scalings; 1 is the paper's rule, and a loop over time.

    State: the layer's own, and one number more a row. Cost: the layer's, without its fused scan, in T / chunk_size
    sequential pieces; in more of them if rows started at different steps.

    Raises:
        ResurgeError: a norm or a size out of range, or a layer without decays.

    Source: method 2 of section 4.3 of arXiv 2410.07145v1.
    """

    def __init__(self, layer: RecurrentLayer, p: float, *, chunk_size: int = 1) -> None:
        super().__init__(layer)
        at_least(1, {"chunk_size": chunk_size})
        if not p > 0:
            raise ResurgeError(f"p must be positive, and is {p:g}")
        self.p, self.chunk_size = p, chunk_size

    def extra_repr(self) -> str:
        return f"p={self.p:g}, chunk_size={self.chunk_size}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> NormalisedState:
        count = self.zeros(batch_size, 1, device=device, dtype=dtype)
        return NormalisedState(super().initial_state(batch_size, device=device, dtype=dtype), count)

    def scan(self, x: Tensor, state: NormalisedState, reset: Tensor | None) -> tuple[Tensor, NormalisedState]:
        T = x.shape[1]
        steps = torch.arange(T, device=x.device)
        since = steps + 1 + state.steps.round().long()
        if reset is not None:
            start = torch.where(reset, steps, -1).cummax(1).values
            since = torch.where(start < 0, since, steps + 1 - start)
        due = since % self.chunk_size == 0
        stops = [1] if T == 1 else sorted({*(due.any(0).nonzero()[:, 0] + 1).tolist(), T})
        ys, start_, inner = [], 0, state.layer
        for stop in stops:
            cut = None if reset is None else reset[:, start_:stop]
            found = self.recurrence(x[:, start_:stop], inner, cut)
            h, last = found.scan(cut)
            last = torch.where(due[:, stop - 1].view(-1, *[1] * (last.dim() - 1)), self._shrunk(last), last)
            y, inner = found.finish(torch.cat([h[:, :-1], last[:, None].to(h.dtype)], 1), last)
            ys.append(y)
            start_ = stop
        return torch.cat(ys, 1), NormalisedState(inner, (since[:, -1:] % self.chunk_size).to(state.steps.dtype))

    def _shrunk(self, h: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(h.flatten(1), dim=1).clamp(min=self.p)
        small: Tensor = h * (self.p / norm).view(-1, *[1] * (h.dim() - 1))
        return small


class WindowState(NamedTuple):
    """The last inputs, the layer's state before them, and how many of them there were."""

    before: Any
    inputs: Tensor  # (B, window - 1, d_model), the latest last
    seen: Tensor  # (B, 1), window at most: more than fit


class SlidingWindow(Mitigation):
    r"""A layer whose state is what the last `window` inputs have made of it, exactly, whatever came before.

        h_t = Σ_{t - window < i <= t} (Π_{i < j <= t} a_j) ⊙ b_i

    The sum is `windowed_scan`'s, without the paper's difference of two long recurrences, which loses digits. a_t and
    b_t are the layer's own, so what a convolution inside it sees is not cut. The window holds once in each layer: a
    stack of them sees further back.

    Args:
        layer: the layer, whose parameters these are.
        window: number of inputs that a state sees; 2 at least. The length of the training suits.

    State: the layer's own and (window - 1) d_model + 1 numbers more a row: to take an input out of a sum it has to be
    known. Cost of T steps: the layer's and four scans of T + window - 1, all states written to memory; so a step by
    itself costs `window` steps, and long pieces are cheap.

    Raises:
        ResurgeError: a window below 2, or a layer without decays.

    Source: method 3 of section 4.3 of arXiv 2410.07145v1.
    """

    def __init__(self, layer: RecurrentLayer, window: int) -> None:
        super().__init__(layer)
        at_least(2, {"window": window})
        self.window = window

    def extra_repr(self) -> str:
        return f"window={self.window}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> WindowState:
        return WindowState(
            super().initial_state(batch_size, device=device, dtype=dtype),
            self.zeros(batch_size, self.window - 1, self.d_model, device=device, dtype=dtype),
            self.zeros(batch_size, 1, device=device, dtype=dtype),
        )

    def scan(self, x: Tensor, state: WindowState, reset: Tensor | None) -> tuple[Tensor, WindowState]:
        T, past = x.shape[1], self.window - 1
        inputs = torch.cat([state.inputs, x.to(state.inputs.dtype)], 1)
        place = torch.arange(past + T, device=x.device)
        cut = place == past - state.seen.round()  # where the row started, if that is among the last inputs
        if reset is not None:
            cut = cut | torch.nn.functional.pad(reset, (past, 0))
        found = self.recurrence(inputs.to(x.dtype), state.before, cut)
        h = self._windowed(found, cut)
        y, _ = found.finish(h.to(found.b.dtype), h[:, -1].to(found.h0.dtype))
        _, before = self.layer(inputs[:, :T].to(x.dtype), state.before, reset=cut[:, :T])
        start = torch.where(cut, place, -1).amax(1, keepdim=True)
        seen = (past + T - start).clamp(max=self.window).to(state.seen.dtype)
        return y[:, past:], WindowState(before, inputs[:, T:], seen)

    def _windowed(self, found: Recurrence, cut: Tensor) -> Tensor:
        if found.b.dim() == 3:
            return windowed_scan(found.a, found.b, self.window, reset=cut)
        a, b = (torch.complex(*v.to(found.h0.dtype).unbind(-2)) for v in (found.a, found.b))
        h = windowed_scan(a, b, self.window, reset=cut)
        return torch.stack([h.real, h.imag], -2)


def mitigated(model: M, mitigation: Callable[[RecurrentLayer], RecurrentLayer]) -> M:
    """A copy of `model` with `mitigation(layer)` in the place of every recurrent layer; `model` is left as it is.

    Its state is another one than the model's, unless the mitigation keeps the layer's.

    Raises:
        ResurgeError: a layer that the mitigation refuses, or no recurrent layer inside the model.
    """
    new = copy.deepcopy(model)
    if not _replace(new, mitigation):
        raise ResurgeError(f"there is no recurrent layer inside {type(model).__name__}")
    return new


def _replace(module: nn.Module, mitigation: Callable[[RecurrentLayer], RecurrentLayer]) -> int:
    found = 0
    for name, child in module.named_children():
        if isinstance(child, RecurrentLayer):
            setattr(module, name, mitigation(child))
            found += 1
        else:
            found += _replace(child, mitigation)
    return found
