"""The gates of the RG-LRU, alone and inside Griffin's recurrent block."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from resurge.errors import ResurgeError, at_least
from resurge.ops.gradient import bounded_sqrt
from resurge.paper import Paper

GRIFFIN = Paper(
    "griffin",
    "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models",
    "Soham De and Samuel L. Smith and Anushan Fernando and Aleksandar Botev and George Cristian-Muraru and "
    "Albert Gu and others",
    2024,
    "2402.19427",
)


class RGLRUGates(nn.Module):
    r"""What the RG-LRU makes of its input before the recurrence: the decay, and the gated input.

        r_t = σ(W_a x_t + b_a),    log a_t = -c softplus(Λ) ⊙ r_t
        i_t = σ(W_x x_t + b_x),    v_t = i_t ⊙ x_t

    W_a and W_x are block-diagonal with `n_heads` blocks. Parameters are named and start as `RGLRU` tells.

    Args:
        d_model: width.
        n_heads: number of blocks of the gates; divides d_model.
        r_min, r_max: ring of exp(-softplus(Λ)) at the start, 0 < r_min < r_max < 1.
        c: factor of the decay.

    Raises:
        ResurgeError: sizes that do not divide, or a radius out of range.
    """

    def __init__(self, d_model: int, n_heads: int, *, r_min: float, r_max: float, c: float) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model})
        if n_heads < 1 or d_model % n_heads:
            raise ResurgeError(f"n_heads must divide d_model = {d_model}, and is {n_heads}")
        if not 0 < r_min < r_max < 1:
            raise ResurgeError(f"r_min and r_max must satisfy 0 < r_min < r_max < 1, and are {r_min} and {r_max}")
        self.d_model, self.n_heads, self.c = d_model, n_heads, c
        width = d_model // n_heads
        u = torch.rand(d_model, dtype=torch.float64) * (r_max**2 - r_min**2) + r_min**2
        self.recurrent_param = nn.Parameter(torch.log(torch.expm1(-0.5 * torch.log(u))).float())
        self.recurrent_gate_weight = nn.Parameter(torch.randn(n_heads, width, width) / math.sqrt(width))
        self.recurrent_gate_bias = nn.Parameter(torch.zeros(n_heads, width))
        self.input_gate_weight = nn.Parameter(torch.randn(n_heads, width, width) / math.sqrt(width))
        self.input_gate_bias = nn.Parameter(torch.zeros(n_heads, width))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, n_heads={self.n_heads}, c={self.c}"

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log a and v, both (B, T, d_model), for x (B, T, d_model); log a in float32 at least."""
        r = self._gate(x, self.recurrent_gate_weight, self.recurrent_gate_bias)
        i = self._gate(x, self.input_gate_weight, self.input_gate_bias)
        return -self.c * softplus(self.recurrent_param) * r.to(self.recurrent_param.dtype), i * x

    def _gate(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        heads = x.unflatten(-1, (self.n_heads, -1))
        return torch.sigmoid((torch.einsum("bthi,hij->bthj", heads, weight) + bias).flatten(2))


def plain(log_a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """a and sqrt(1 - a²) ⊙ v: what `normalized_decay_scan` makes of its arguments on the way."""
    return torch.exp(log_a), bounded_sqrt(-torch.expm1(2 * log_a)) * v
