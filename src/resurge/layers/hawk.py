"""Griffin's recurrent block: a convolution and an RG-LRU beside a gate."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer
from resurge.nn.recurrence import Recurrence
from resurge.nn.rglru import GRIFFIN, RGLRUGates, plain
from resurge.nn.short_conv import ShortConv
from resurge.ops import normalized_decay_scan
from resurge.paper import Paper


class HawkState(NamedTuple):
    """The last inputs of the convolution, and the real state h_t."""

    conv: Tensor  # (B, K-1, N)
    h: Tensor  # (B, N); of `GemmaHawk` (B, N + 1)


class Hawk(RecurrentLayer):
    r"""The temporal-mixing block of Hawk and Griffin: two branches, one recurrent, one a gate.

        u_t = Conv_K(W_1 x + b_1)_t                            causal, each channel by itself
        h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ (i_t ⊙ u_t)     the RG-LRU, with a_t and i_t gated by u_t
        y_t = W_o (h_t ⊙ GELU(W_2 x_t + b_2)) + b_o

    GELU is its tanh approximation. Initialisation as in the published code: W_1, W_2 ~ N(0, 1/d_model),
    W_o ~ N(0, 2/(n_layers d_state)), the convolution N(0, 0.01/K), biases zero, the RG-LRU as in `RGLRU`.

    Args:
        d_model: width D of inputs and outputs.
        d_state: width N of the branches and of the state; the paper's is about 4/3 d_model.
        n_heads: number of blocks of the gates; divides d_state.
        width: number K of steps that the convolution sees, from 2 to 8.
        n_layers: number of residual blocks of the model, for the start of W_o; 1 in a `Stack`: its depth.
        r_min, r_max: ring of the decay at the start, 0 < r_min < r_max < 1.
        c: factor of the decay; the paper's 8.

    State: K N numbers a row. Cost: 3 D N + 2 N² / n_heads multiplications a step, the convolution and the scan one
    pass over memory each.

    Raises:
        ResurgeError: sizes below 1 or that do not divide, a width or a radius out of range.

    Source: section 2.3 of "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
    Models", arXiv 2402.19427. Parameter names are those of Hugging Face's RecurrentGemma.
    """

    PAPER = GRIFFIN
    OPS = ("short_conv", "diagonal_scan")
    RECURRENT = ("rg_lru.recurrent_param",)

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        n_heads: int = 1,
        *,
        width: int = 4,
        n_layers: int = 1,
        r_min: float = 0.9,
        r_max: float = 0.999,
        c: float = 8.0,
    ) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state, "n_layers": n_layers})
        if n_heads < 1 or d_state % n_heads:
            raise ResurgeError(f"n_heads must divide d_state = {d_state}, and is {n_heads}")
        self.d_model, self.d_state, self.width, self.n_layers = d_model, d_state, width, n_layers
        self.linear_x = nn.Linear(d_model, d_state)
        self.linear_y = nn.Linear(d_model, d_state)
        self.conv_1d = ShortConv(d_state, width)
        self.rg_lru = RGLRUGates(d_state, n_heads, r_min=r_min, r_max=r_max, c=c)
        self.linear_out = nn.Linear(d_state, d_model)
        for linear, std in (
            (self.linear_x, 1 / math.sqrt(d_model)),
            (self.linear_y, 1 / math.sqrt(d_model)),
            (self.linear_out, math.sqrt(2 / (n_layers * d_state))),
        ):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    @classmethod
    def stacked(cls, layers: Mapping[int, Self], depth: int) -> None:
        for layer in layers.values():
            if layer.n_layers == 1:
                layer.n_layers = depth
                layer.linear_out.weight.data /= math.sqrt(depth)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> HawkState:
        conv = self.zeros(batch_size, self.width - 1, self.d_state, device=device, dtype=dtype)
        return HawkState(conv, self.zeros(batch_size, self.d_state, device=device, dtype=dtype))

    def scan(self, x: Tensor, state: HawkState, reset: Tensor | None) -> tuple[Tensor, HawkState]:
        log_a, v, h0, conv = self._inputs(x, state, reset)
        h, h_last = normalized_decay_scan(log_a, v, h0, reset=reset)
        return self._readout(h, x), HawkState(conv, self._kept(h_last))

    def recurrence(self, x: Tensor, state: HawkState, reset: Tensor | None) -> Recurrence:
        log_a, v, h0, conv = self._inputs(x, state, reset)
        return Recurrence(
            *plain(log_a, v), h0, lambda h, h_last: (self._readout(h, x), HawkState(conv, self._kept(h_last)))
        )

    def _inputs(self, x: Tensor, state: HawkState, reset: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log a_t, v_t = i_t ⊙ u_t, the recurrence's state before them, and the convolution's after them."""
        u, conv = self.conv_1d(self.linear_x(x), state.conv, reset=reset)
        return *self.rg_lru.gates(u), state.h, conv

    def _kept(self, h_last: Tensor) -> Tensor:
        """The recurrence's last state as the layer keeps it."""
        return h_last

    def _readout(self, h: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.linear_out(h.to(x.dtype) * gelu(self.linear_y(x), approximate="tanh"))
        return y


class GemmaHawk(Hawk):
    r"""`Hawk` with the rule of the published code, to which RecurrentGemma's weights belong: the first step of a
    sequence, and of a document, enters in full.

        h_t = i_t ⊙ u_t  at the first step,    h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ (i_t ⊙ u_t)  at the others

    So the state must tell whether there was a step: h has one number more, 1 if there was one and 0 before the first.

    Everything else is as in `Hawk`; the state has one number more.

    Source: "RecurrentGemma: Moving Past Transformers for Efficient Open Language Models", arXiv 2404.07839, and its
    published code.
    """

    PAPER = Paper(
        "recurrentgemma",
        "RecurrentGemma: Moving Past Transformers for Efficient Open Language Models",
        "Aleksandar Botev and Soham De and Samuel L. Smith and Anushan Fernando and George-Cristian Muraru and "
        "Ruba Haroun and others",
        2024,
        "2404.07839",
    )

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> HawkState:
        conv, h = super().initial_state(batch_size, device=device, dtype=dtype)
        return HawkState(conv, pad(h, (0, 1)))

    def _inputs(self, x: Tensor, state: HawkState, reset: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_a, v, h0, conv = super()._inputs(x, state, reset)
        first = pad(h0[:, -1:] < 0.5, (0, x.shape[1] - 1))
        if reset is not None:
            first = first | reset
        # a = 0 cuts the link and makes the factor 1
        return log_a.masked_fill(first[..., None], -math.inf), v, h0[:, :-1], conv

    def _kept(self, h_last: Tensor) -> Tensor:
        return pad(h_last, (0, 1), value=1.0)
