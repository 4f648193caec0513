"""One answer a pair of sequences."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from resurge.errors import ResurgeError
from resurge.models.sequence import SequenceState, SequenceSummary
from resurge.models.stack import Blocks
from resurge.nn import Pool


class PairClassifier(SequenceSummary):
    r"""Both sequences of a pair through the same stack, and a head that compares their summaries.

        a, b = the two summaries;  scores = W_2 GELU(W_1 [a, b, a - b, a ⊙ b] + b_1) + b_2

    Args:
        encoder, stack, pool: as in `SequenceSummary`.
        n_outputs: number of scores, one a class.

    Source: the retrieval task of arXiv 2011.04006 (Long Range Arena), with the features of arXiv 2208.04933 (S5).
    """

    def __init__(self, encoder: nn.Module, stack: Blocks, n_outputs: int, *, pool: Pool | None = None) -> None:
        super().__init__(encoder, stack, pool=pool)
        self.hidden = nn.Linear(4 * stack.d_model, stack.d_model)
        self.head = nn.Linear(stack.d_model, n_outputs)

    def initial_state(self, batch_size: int) -> SequenceState:
        """The state before the first step, a row a sequence: 2 `batch_size` rows, those of a pair side by side."""
        return super().initial_state(2 * batch_size)

    def forward(
        self,
        inputs: Tensor,
        state: SequenceState | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, SequenceState]:
        """Scores (B, n_outputs) for everything seen so far of each pair, and the state after it.

        Args:
            inputs: values (B, 2, T, channels) or tokens (B, 2, T), T >= 1.
            state: what came before of both sequences; None is nothing.
            lengths: (B, 2) number of real steps; the rest is padding.
            reset: (B, 2, T) bool; a sequence forgets everything before such a step.
            dt: (B, 2, T) the time since the step before, for stacks that take it.

        Raises:
            ResurgeError: as `SequenceSummary.summary`, or inputs that are no pairs.
        """
        if inputs.dim() < 3 or inputs.shape[1] != 2:
            raise ResurgeError(f"inputs must be pairs, (B, 2, T, ...), and have shape {tuple(inputs.shape)}")
        lengths, reset, dt = (None if part is None else part.flatten(0, 1) for part in (lengths, reset, dt))
        summaries, after = self.summary(inputs.flatten(0, 1), state, lengths=lengths, reset=reset, dt=dt)
        a, b = summaries.unflatten(0, (-1, 2)).unbind(1)
        return self.head(gelu(self.hidden(torch.cat([a, b, a - b, a * b], -1)))), after
