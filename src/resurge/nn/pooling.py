"""Pooling over time as a recurrence of its own: what a classifier has seen so far is a state too."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class MeanPoolState(NamedTuple):
    """Mean of the steps so far and their number."""

    mean: Tensor  # (B, D)
    steps: Tensor  # (B,) int64


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
    """The mean of all steps since the start, or since the last reset.

    Kept is the mean, not the sum: in float32 a sum and a count stop growing after some 10 million steps of a stream.
    """

    def initial_state(self, like: Tensor) -> MeanPoolState:
        return MeanPoolState(torch.zeros_like(like), like.new_zeros(like.shape[0], dtype=torch.int64))

    def forward(
        self, y: Tensor, state: MeanPoolState, valid: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, MeanPoolState]:
        mean, seen = state
        if reset is not None:
            reset = reset & valid
            at = torch.arange(y.shape[1], device=y.device)
            start = torch.where(reset, at, -1).amax(1)
            valid = valid & (at >= start[:, None])
            fresh = start >= 0
            mean = torch.where(fresh[:, None], torch.zeros_like(mean), mean)
            seen = torch.where(fresh, torch.zeros_like(seen), seen)
        count = valid.sum(1)
        seen = seen + count
        with torch.autocast(y.device.type, enabled=False):  # the sum over time in the precision of the state
            total = torch.einsum("btd,bt->bd", y.to(mean.dtype), valid.to(mean.dtype))
        mean = mean + (total - count[:, None] * mean) / seen.clamp(min=1)[:, None]
        return mean.to(y.dtype), MeanPoolState(mean, seen)


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
