"""What minGRU and minLSTM share: widths, the positive candidate and the way back to d_model."""

import torch
from torch import Tensor, nn

from resurge.errors import at_least
from resurge.nn.gated import GatedRNN, wide
from resurge.paper import Paper


class MinimalRNN(GatedRNN):
    """Base of minGRU and minLSTM: the candidate g(W_h x + b_h), and y = h, or W_o h if the state is wider than y.

    A subclass registers its gates and gives `coefficients`.
    """

    PAPER = Paper(
        "mingru",
        "Were RNNs All We Needed?",
        "Leo Feng and Frederick Tung and Mohamed Osama Ahmed and Yoshua Bengio and Hossein Hajimirsadeghi",
        2024,
        "2410.01201",
    )

    def __init__(self, d_model: int, expand: int) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "expand": expand})
        self.d_model, self.d_state = d_model, expand * d_model
        self.linear_h = nn.Linear(d_model, self.d_state)
        self.out = nn.Linear(self.d_state, d_model, bias=False) if expand > 1 else nn.Identity()

    def candidate(self, x: Tensor) -> Tensor:
        """g(W_h x + b_h) > 0, (..., N), in float32 at least; g(v) = v + 1/2 for v >= 0, σ(v) for v < 0."""
        v = wide(self.linear_h(x))
        return torch.where(v >= 0, v + 0.5, torch.sigmoid(v))

    def readout(self, h: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out(h)
        return y
