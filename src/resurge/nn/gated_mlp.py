"""The gated feed-forward part of a residual block."""

import math

from torch import Tensor, nn
from torch.nn.functional import gelu

from resurge.errors import at_least


class GatedMLP(nn.Module):
    """Feed-forward part with a gate, of each step alone: y = W_d (GELU(W_g x + b_g) ⊙ (W_u x + b_u)) + b_d.

    GELU is its tanh approximation. At the start W_g, W_u ~ N(0, 1/d_model), W_d ~ N(0, 2/(depth d_hidden)), biases 0.

    Args:
        d_model: width of inputs and outputs.
        d_hidden: width inside; Griffin's is 3 d_model.
        depth: number of residual blocks of the model, for the start of W_d.

    Source: "GLU Variants Improve Transformer", arXiv 2002.05202 (GEGLU); section 2.2 of arXiv 2402.19427.
    """

    def __init__(self, d_model: int, d_hidden: int, *, depth: int = 2) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_hidden": d_hidden, "depth": depth})
        self.gate_proj = nn.Linear(d_model, d_hidden)
        self.up_proj = nn.Linear(d_model, d_hidden)
        self.down_proj = nn.Linear(d_hidden, d_model)
        for linear, std in (
            (self.gate_proj, 1 / math.sqrt(d_model)),
            (self.up_proj, 1 / math.sqrt(d_model)),
            (self.down_proj, math.sqrt(2 / (depth * d_hidden))),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return y
