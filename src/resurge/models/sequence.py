"""One answer a sequence: classes or values."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError
from resurge.models.stack import Blocks, StackState
from resurge.nn import MeanPool, Pool
from resurge.state import check


class SequenceState(NamedTuple):
    """The states of the blocks, and the summary of what came before."""

    blocks: StackState
    pool: Any


class SequenceSummary(nn.Module):
    """Encoder, residual stack, pooling over time: one vector for all that came so far.

    Args:
        encoder: maps the inputs to (B, T, d_model): `nn.Linear(channels, d_model)` for values (B, T, channels),
            `nn.Embedding(vocabulary, d_model)` for tokens (B, T).
        stack: the residual stack.
        pool: how time is summed up; the mean of all steps by default.
    """

    def __init__(self, encoder: nn.Module, stack: Blocks, *, pool: Pool | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.stack = stack
        self.pool = pool or MeanPool()

    def initial_state(self, batch_size: int) -> SequenceState:
        """The state before the first step."""
        return SequenceState(self.stack.initial_state(batch_size), self._initial_pool(batch_size))

    def _initial_pool(self, batch_size: int) -> Any:
        weight = next(self.parameters())
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        return self.pool.initial_state(weight.new_zeros(batch_size, self.stack.d_model, dtype=dtype))

    def summary(
        self,
        inputs: Tensor,
        state: SequenceState | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, SequenceState]:
        """The summary (B, d_model) of everything seen so far, and the state after it.

        Args:
            inputs: values (B, T, channels) or tokens (B, T), as the encoder takes them; T >= 1.
            state: what came before; None is nothing. Pieces, each with the state of the piece before, end in the
                summary of the whole.
            lengths: (B,) number of real steps of each row; the rest is padding.
            reset: (B, T) bool; a row forgets everything before such a step.
            dt: (B, T), the time since the step before, positive; None is 1 everywhere. For stacks with layers in
                continuous time (`resurge.layer.TimedLayer`); pooling counts steps all the same.

        Raises:
            ResurgeError: no step, lengths out of range, the state of another model or batch size, or dt with no layer
                that takes it.
        """
        if inputs.dim() < 2 or inputs.shape[1] == 0:
            raise ResurgeError(f"inputs must have at least one step, and have shape {tuple(inputs.shape)}")
        if state is not None and not isinstance(state, SequenceState):
            raise ResurgeError(f"state must be a SequenceState, and is a {type(state).__name__}")
        B, T = inputs.shape[:2]
        x = self.encoder(inputs)
        y, blocks = self.stack(x, None if state is None else state.blocks, lengths=lengths, reset=reset, dt=dt)
        steps = torch.arange(T, device=y.device).expand(B, T)
        valid = torch.ones_like(steps, dtype=torch.bool) if lengths is None else steps < lengths[:, None]
        before = self._initial_pool(B)
        if state is not None:
            check(state.pool, before, type(self.pool).__name__)
            before = state.pool
        pooled, pool = self.pool(y, before, valid, reset)
        return pooled, SequenceState(blocks, pool)


class SequenceClassifier(SequenceSummary):
    """A linear head on the summary: one vector of scores for all that came so far.

    Args:
        encoder, stack, pool: as in `SequenceSummary`.
        n_outputs: number of scores, one a class.
    """

    def __init__(self, encoder: nn.Module, stack: Blocks, n_outputs: int, *, pool: Pool | None = None) -> None:
        super().__init__(encoder, stack, pool=pool)
        self.head = nn.Linear(stack.d_model, n_outputs)

    def forward(
        self,
        inputs: Tensor,
        state: SequenceState | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, SequenceState]:
        """Scores (B, n_outputs) for everything seen so far, and the state after it. All else as in `summary`."""
        summary, after = self.summary(inputs, state, lengths=lengths, reset=reset, dt=dt)
        return self.head(summary), after


class SequenceRegressor(SequenceClassifier):
    """As `SequenceClassifier`, its outputs being `n_outputs` real values a sequence."""
