"""The Real-Gated Linear Recurrent Unit of Griffin and Hawk."""

from typing import NamedTuple

import torch
from torch import Tensor

from resurge.layer import RecurrentLayer
from resurge.nn.recurrence import Recurrence
from resurge.nn.rglru import GRIFFIN, RGLRUGates, plain
from resurge.ops import normalized_decay_scan


class RGLRUState(NamedTuple):
    """The real state h_t."""

    h: Tensor  # (B, D)


class RGLRU(RGLRUGates, RecurrentLayer):
    r"""Real-gated linear recurrent unit: elementwise, its decay gated by the input.

        r_t = σ(W_a x_t + b_a)                                 recurrence gate
        i_t = σ(W_x x_t + b_x)                                 input gate
        log a_t = -c softplus(Λ) ⊙ r_t
        h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ (i_t ⊙ x_t),    y_t = h_t

    W_a and W_x are block-diagonal with `n_heads` blocks. Initialisation as in the published code: a = exp(-softplus(Λ))
    uniform by area on the ring [r_min, r_max], block weights N(0, 1/block width), biases zero. (The paper's text puts
    a^c on that ring, and gives Λ the other sign.)

    Args:
        d_model: width D of inputs, outputs and state.
        n_heads: number of blocks of the gates; divides d_model.
        r_min, r_max: ring of a at the start, 0 < r_min < r_max < 1.
        c: factor of the decay; the paper's 8.

    State: D numbers a row. Cost: 2 D² / n_heads multiplications a step, the scan one pass over memory.

    Raises:
        ResurgeError: sizes that do not divide, or a radius out of range.

    Source: section 2.4 of "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
    Models", arXiv 2402.19427. Parameter names are those of Hugging Face's RecurrentGemma. That code lets the first
    token of a document enter without the factor sqrt(1 - a²), as `GemmaHawk` does; here, as in the paper, no token is
    special.
    """

    PAPER = GRIFFIN
    OPS = ("diagonal_scan",)
    RECURRENT = ("recurrent_param",)

    def __init__(
        self, d_model: int, n_heads: int = 1, *, r_min: float = 0.9, r_max: float = 0.999, c: float = 8.0
    ) -> None:
        super().__init__(d_model, n_heads, r_min=r_min, r_max=r_max, c=c)

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> RGLRUState:
        return RGLRUState(self.zeros(batch_size, self.d_model, device=device, dtype=dtype))

    def scan(self, x: Tensor, state: RGLRUState, reset: Tensor | None) -> tuple[Tensor, RGLRUState]:
        log_a, v = self.gates(x)
        h, h_last = normalized_decay_scan(log_a, v, state.h, reset=reset)
        return h.to(x.dtype), RGLRUState(h_last)

    def recurrence(self, x: Tensor, state: RGLRUState, reset: Tensor | None) -> Recurrence:
        return Recurrence(*plain(*self.gates(x)), state.h, lambda h, h_last: (h.to(x.dtype), RGLRUState(h_last)))
