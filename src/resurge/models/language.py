"""The language model: the next token from all before it."""

from torch import Tensor, nn

from resurge.errors import ResurgeError
from resurge.models.stack import Blocks, StackState


class LanguageModel(nn.Module):
    """Embedding, residual stack, norm and a linear head to the logits of the next token.

    Args:
        vocabulary: number of kinds of tokens.
        stack: the residual stack; its norm should not look across time ("layer" or "rms").
        embedding: maps tokens (B, T) to (B, T, d_model); `nn.Embedding` by default.
        norm: of the stack's outputs; `nn.LayerNorm` by default.
        head: maps (B, T, d_model) to logits (B, T, vocabulary); `nn.Linear` by default.
    """

    def __init__(
        self,
        vocabulary: int,
        stack: Blocks,
        *,
        embedding: nn.Module | None = None,
        norm: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = embedding or nn.Embedding(vocabulary, stack.d_model)
        self.stack = stack
        self.norm = norm or nn.LayerNorm(stack.d_model)
        self.head = head or nn.Linear(stack.d_model, vocabulary)

    def initial_state(self, batch_size: int) -> StackState:
        """The state before the first token."""
        return self.stack.initial_state(batch_size)

    def forward(
        self,
        inputs: Tensor,
        state: StackState | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, StackState]:
        """Logits (B, T, vocabulary) of the token after each of the tokens `inputs` (B, T), and the state after them.

        state, lengths, reset and dt as in `SequenceClassifier`.
        """
        if inputs.dim() != 2 or inputs.is_floating_point() or inputs.shape[1] == 0:
            raise ResurgeError(
                f"inputs must be integer tokens (B, T), T >= 1, and are {inputs.dtype} {tuple(inputs.shape)}"
            )
        y, after = self.stack(self.embedding(inputs), state, lengths=lengths, reset=reset, dt=dt)
        return self.head(self.norm(y)), after
