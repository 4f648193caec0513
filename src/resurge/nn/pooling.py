"""Pooling over time as a recurrence of its own: what a classifier has seen so far is a state too."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class MeanPoolState(NamedTuple):
    """Sum of the steps so far and their number."""

    total: Tensor  # (B, D)
    steps: Tensor  # (B,)


class LastPoolState(NamedTuple):
    """The last step so far."""

    last: Tensor  # (B, D)


class Pool(nn.Module):
    """Base: `forward(y, state, valid, reset)` gives the summary (B, D) of all steps so far, and the next state.

    y (B, T, D); valid (B, T) bool tells the real steps; reset (B, T) bool or None: the summary starts anew there.
    """

    def initial_state(self, like: Tensor) -> Any:
        """The state before the first step, for a summary shaped, placed and typed as `like` (B, D)."""
        raise TypeError(f"{type(self).__name__} does not define initial_state")

    def forward(self, y: Tensor, state: Any, valid: Tensor, reset: Tensor | None) -> tuple[Tensor, Any]:
        raise TypeError(f"{type(self).__name__} does not define forward")


class MeanPool(Pool):
    """The mean of all steps since the start, or since the last reset."""

    def initial_state(self, like: Tensor) -> MeanPoolState:
        return MeanPoolState(torch.zeros_like(like), like.new_zeros(like.shape[0]))

    def forward(
        self, y: Tensor, state: MeanPoolState, valid: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, MeanPoolState]:
        total, seen = state
        if reset is not None:
            reset = reset & valid
            at = torch.arange(y.shape[1], device=y.device)
            start = torch.where(reset, at, -1).amax(1)
            valid = valid & (at >= start[:, None])
            fresh = start >= 0
            total = torch.where(fresh[:, None], torch.zeros_like(total), total)
            seen = torch.where(fresh, torch.zeros_like(seen), seen)
        weight = valid.to(total.dtype)
        total = total + torch.einsum("btd,bt->bd", y.to(total.dtype), weight)
        seen = seen + weight.sum(1)
        return (total / seen.clamp(min=1)[:, None]).to(y.dtype), MeanPoolState(total, seen)


class LastPool(Pool):
    """The last real step."""

    def initial_state(self, like: Tensor) -> LastPoolState:
        return LastPoolState(torch.zeros_like(like))

    def forward(
        self, y: Tensor, state: LastPoolState, valid: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, LastPoolState]:
        length = valid.sum(1)
        at = (length - 1).clamp(min=0)[:, None, None].expand(-1, 1, y.shape[2])
        last = torch.where((length > 0)[:, None], y.gather(1, at)[:, 0].to(state.last.dtype), state.last)
        return last.to(y.dtype), LastPoolState(last)
