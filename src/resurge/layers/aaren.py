"""Aaren: attention as a recurrent network, whose query is learned and the same for all inputs."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer
from resurge.ops import SoftmaxState, softmax_scan, softmax_step
from resurge.paper import Paper


class AarenState(NamedTuple):
    """The sums of `softmax_scan`: e^m num and e^m den."""

    m: Tensor  # (B, n_heads)
    num: Tensor  # (B, D)
    den: Tensor  # (B, n_heads)


class Aaren(RecurrentLayer):
    r"""Softmax attention of one learned query to all inputs so far, in constant memory.

        s_t = ⟨W_q q, W_k x_t⟩ / sqrt(d)                       in each head, d = D / n_heads
        o_t = Σ_{i<=t} e^{s_i} W_v x_i / Σ_{i<=t} e^{s_i},     y_t = W_o o_t

    A logit does not depend on what asks, so all of the past is a weighted average that is carried along. q starts
    standard normal, the maps as those of `torch.nn.Linear`; they have no biases, of which that of the keys would
    change nothing.

    Args:
        d_model: width D of inputs and outputs.
        n_heads: number of heads; divides d_model.

    State: d + 2 numbers a row and head. Cost: (2 D + n_heads) D multiplications a step (W_k and the query are
    multiplied beforehand) and one exponential a head.

    Raises:
        ResurgeError: d_model below 1, or heads that do not divide it.

    Source: sections 3.2 and 3.3 of "Attention as an RNN", arXiv 2405.13956.
    """

    PAPER = Paper(
        "aaren",
        "Attention as an RNN",
        "Leo Feng and Frederick Tung and Hossein Hajimirsadeghi and Mohamed Osama Ahmed and Yoshua Bengio and "
        "Greg Mori",
        2024,
        "2405.13956",
    )
    OPS = ("softmax_scan",)

    def __init__(self, d_model: int, n_heads: int = 1) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model})
        if n_heads < 1 or d_model % n_heads:
            raise ResurgeError(f"n_heads must divide d_model = {d_model}, and is {n_heads}")
        self.d_model, self.n_heads = d_model, n_heads
        self.query = nn.Parameter(torch.randn(d_model))
        self.W_q = nn.Linear(d_model, d_model, bias=False)
        self.W_k = nn.Linear(d_model, d_model, bias=False)
        self.W_v = nn.Linear(d_model, d_model, bias=False)
        self.W_o = nn.Linear(d_model, d_model, bias=False)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, n_heads={self.n_heads}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> AarenState:
        den = self.zeros(batch_size, self.n_heads, device=device, dtype=dtype)
        return AarenState(den - 1e38, self.zeros(batch_size, self.d_model, device=device, dtype=dtype), den)

    def _logits(self, x: Tensor) -> Tensor:
        """s (..., n_heads)."""
        q = self.W_q(self.query).unflatten(0, (self.n_heads, -1)) / math.sqrt(self.d_model // self.n_heads)
        keys = self.W_k.weight.unflatten(0, (self.n_heads, -1))
        return linear(x, torch.einsum("hd,hdi->hi", q, keys))

    def scan(self, x: Tensor, state: AarenState, reset: Tensor | None) -> tuple[Tensor, AarenState]:
        o, sums = softmax_scan(self._logits(x), self.W_v(x), None, None, state, reset=reset)
        return self.W_o(o), AarenState(*sums)

    def step(self, x_t: Tensor, state: AarenState) -> tuple[Tensor, AarenState]:
        self._check_step(x_t)
        state = self._state(state, x_t.shape[0])
        o, sums = softmax_step(self._logits(x_t), self.W_v(x_t), None, None, SoftmaxState(*state))
        return self.W_o(o), AarenState(*sums)
