"""State collapse: how a memory fares on sequences far longer than those it was trained on.

    trace = state_trace(model, inputs, every=64)          what the states are like on the way
    loss = loss_by_position(model, inputs, targets)       what a prediction costs at each step
    collapse_ratio(loss, 512)                             1: as good at the end as at the length of the training
    picture(trace, loss, 512)

`resurge.nn.mitigation` has what helps without training.

Source: section 3 of "Stuffed Mamba: State Collapse and State Capacity of RNN-Based Long-Context Modeling",
arXiv 2410.07145v1.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resurge.analysis import figures
from resurge.errors import ResurgeError, at_least
from resurge.state import named_tensors


class StateTrace(NamedTuple):
    """What the states of a model were like after `steps` steps, by the names of their tensors ("0.h", ...).

    Statistics of each number of a state over the rows, (S, ...); and the Euclidean norm of a row's tensor, (S, B).
    """

    steps: Tensor  # (S,)
    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    largest: dict[str, Tensor]  # largest magnitude
    norm: dict[str, Tensor]


@torch.no_grad()
def state_trace(model: nn.Module, inputs: Tensor, *, every: int = 64) -> StateTrace:
    """Statistics of all states of `model` after each `every` steps, and at the end.

    Args:
        model: a recurrent layer, or any model that gives (outputs, state) for (inputs, state).
        inputs: as the model takes them, (B, T, ...).
        every: steps between two looks; 1 is every step, read one by one.
    """
    at_least(1, {"every": every})
    found: dict[str, list[Tensor]] = {}
    state, steps = None, []
    for start in range(0, inputs.shape[1], every):
        piece = inputs[:, start : start + every]
        _, state = model(piece, state)
        steps.append(start + piece.shape[1])
        for name, part in named_tensors(state):
            found.setdefault(name, []).append(part.double().cpu())
    over = {name: torch.stack(parts) for name, parts in found.items()}  # (S, B, ...)
    return StateTrace(
        torch.tensor(steps),
        {name: v.mean(1) for name, v in over.items()},
        {name: v.var(1, correction=0) for name, v in over.items()},
        {name: v.abs().amax(1) for name, v in over.items()},
        {name: torch.linalg.vector_norm(v.flatten(2), dim=2) for name, v in over.items()},
    )


@torch.no_grad()
def loss_by_position(model: nn.Module, inputs: Tensor, targets: Tensor, *, every: int = 1024) -> Tensor:
    """Mean cross-entropy in nats at each step, (T,) in float64; NaN where no row has a target.

    Args:
        model: gives (logits (B, T, classes), state) for (inputs, state).
        inputs: as the model takes them, (B, T, ...). For a text, all tokens but the last.
        targets: classes (B, T), -100 for none. For a text, all tokens but the first.
        every: steps that are computed at once.

    Raises:
        ResurgeError: targets of another shape.
    """
    at_least(1, {"every": every})
    if targets.shape != inputs.shape[:2]:
        raise ResurgeError(
            f"targets must have shape (B, T) = {tuple(inputs.shape[:2])}, and have {tuple(targets.shape)}"
        )
    state: Any = None
    losses = []
    for x, y in zip(inputs.split(every, 1), targets.split(every, 1), strict=True):
        logits, state = model(x, state)
        loss = cross_entropy(logits.double().flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
        losses.append(loss.sum(0) / (y != -100).sum(0))
    return torch.cat(losses).cpu()


def collapse_ratio(loss: Tensor, length: int) -> float:
    """The loss at the end over the loss at the length of the training: 1 if the memory does not collapse.

    Both are means over length / 2 steps: the last ones of `loss` (T,), and those up to `length`.

    Raises:
        ResurgeError: less than two steps of training, or a loss that is not twice as long.
    """
    at_least(2, {"length": length})
    if len(loss) < 2 * length:
        raise ResurgeError(f"loss must reach at least to twice the length {length}, and has {len(loss)} steps")
    half = length // 2
    return float(loss[-half:].nanmean() / loss[length - half : length].nanmean())


def picture(trace: StateTrace, loss: Tensor, length: int) -> str:
    """An SVG: the largest number and the root mean square of each state over time, and the loss at each step.

    A line marks the length of the training. `loss` (T,) is drawn as means over length / 2 steps.
    """
    largest = {name: v.flatten(1).amax(1) for name, v in trace.largest.items() if v[0].numel()}
    usual = {
        name: torch.sqrt((trace.mean[name].square() + trace.variance[name]).flatten(1).mean(1)) for name in largest
    }
    pieces = loss.split(max(1, length // 2))
    means = torch.stack([piece.nanmean() for piece in pieces])
    ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)
    return figures.collapse(trace.steps, largest, usual, ends, means, length)
