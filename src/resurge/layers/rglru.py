"""The Real-Gated Linear Recurrent Unit of Griffin and Hawk."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer
from resurge.ops import diagonal_scan
from resurge.paper import Paper


class RGLRUState(NamedTuple):
    """The real state h_t."""

    h: Tensor  # (B, D)


class _BoundedSqrt(torch.autograd.Function):
    """The square root, its derivative 1 / (2 sqrt(v)) bounded by 1000: at v = 0 (a gate shut) it is infinite."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor) -> Tensor:
        return v.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return gradient / torch.sqrt(torch.clamp(4 * v, min=1 / 1000**2))


class RGLRU(RecurrentLayer):
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
    token of a document enter without the factor sqrt(1 - a²); here, as in the paper, no token is special.
    """

    PAPER = Paper(
        "griffin",
        "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models",
        "Soham De and Samuel L. Smith and Anushan Fernando and Aleksandar Botev and George Cristian-Muraru and "
        "Albert Gu and others",
        2024,
        "2402.19427",
    )
    OPS = ("diagonal_scan",)
    RECURRENT = ("recurrent_param",)

    def __init__(
        self, d_model: int, n_heads: int = 1, *, r_min: float = 0.9, r_max: float = 0.999, c: float = 8.0
    ) -> None:
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

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> RGLRUState:
        return RGLRUState(self.zeros(batch_size, self.d_model, device=device, dtype=dtype))

    def _gate(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        heads = x.unflatten(-1, (self.n_heads, -1))
        return torch.sigmoid((torch.einsum("bthi,hij->bthj", heads, weight) + bias).flatten(2))

    def scan(self, x: Tensor, state: RGLRUState, reset: Tensor | None) -> tuple[Tensor, RGLRUState]:
        r = self._gate(x, self.recurrent_gate_weight, self.recurrent_gate_bias)
        i = self._gate(x, self.input_gate_weight, self.input_gate_bias)
        log_a = -self.c * softplus(self.recurrent_param) * r.to(self.recurrent_param.dtype)
        # 1 - a² = -expm1(2 log a) keeps its digits where a is near 1
        scale = _BoundedSqrt.apply(-torch.expm1(2 * log_a))
        h, h_last = diagonal_scan(torch.exp(log_a), scale * (i * x), state.h, reset=reset)
        return h.to(x.dtype), RGLRUState(h_last)
