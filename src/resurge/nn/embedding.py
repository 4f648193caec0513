"""Embeddings of tokens whose table also gives the logits."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear


class ScaledEmbedding(nn.Module):
    """The rows of a table, times a constant: x_t = scale · E[token_t]. E ~ N(0, 1/d_model) at the start.

    Args:
        vocabulary: number of tokens.
        d_model: width.
        scale: the constant; Gemma's is sqrt(d_model) rounded to bfloat16.
    """

    def __init__(self, vocabulary: int, d_model: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(vocabulary, d_model) / d_model**0.5)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, scale={self.scale:g}"

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scale * embedding(tokens, self.weight)


class TiedHead(nn.Module):
    """Logits by an embedding's own table, softly bounded: cap · tanh(E x / cap).

    Args:
        table: the embedding, with a `weight` (vocabulary, d_model).
        cap: bound of the logits.
    """

    def __init__(self, table: nn.Module, cap: float) -> None:
        super().__init__()
        self.cap = cap
        self._table = (table,)  # in a tuple, so that the parameter belongs to one module and is saved once

    def extra_repr(self) -> str:
        return f"cap={self.cap:g}"

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self._table[0].weight  # type: ignore[assignment]
        return self.cap * torch.tanh(linear(x, weight) / self.cap)
