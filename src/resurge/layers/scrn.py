"""SCRN: a simple recurrent network beside slow context units, with fixed and with learned decays."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer
from resurge.ops import decay_scan, sigmoid_scan
from resurge.paper import Paper


class SCRNState(NamedTuple):
    """The fast state h, and the context s."""

    h: Tensor  # (B, N)
    s: Tensor  # (B, M)


class SCRN(RecurrentLayer):
    r"""Structurally constrained recurrent network: hidden units, and beside them a slow average of the inputs.

        s_t = (1 - α) B x_t + α s_{t-1}                        context
        h_t = σ(P s_t + A x_t + R h_{t-1})
        y_t = U h_t + V s_t

    σ is the logistic function; there are no biases. Weights start normal with standard deviation 0.05, the published
    code's (whose U and V start at zero, and whose states at 0.1, not 0). As in the paper the new context enters h; in
    that code the one of the step before does.

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of hidden units.
        d_context: number M of context units.
        alpha: α, the share of the context that stays, in [0, 1).

    State: N + M numbers a row. Cost: N (d_model + M + N) + M d_model + (N + M) d_model multiplications a step; the
    products with R go one step after the other.

    Raises:
        ResurgeError: a size below one, or α out of range.

    Source: section 3 of "Learning Longer Memory in Recurrent Neural Networks", arXiv 1412.7753.
    """

    PAPER = Paper(
        "scrn",
        "Learning Longer Memory in Recurrent Neural Networks",
        "Tomas Mikolov and Armand Joulin and Sumit Chopra and Michael Mathieu and Marc'Aurelio Ranzato",
        2014,
        "1412.7753",
    )
    OPS = ("diagonal_scan", "sigmoid_scan")

    def __init__(self, d_model: int, d_state: int = 64, d_context: int = 32, *, alpha: float = 0.95) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state, "d_context": d_context})
        if not 0 <= alpha < 1:
            raise ResurgeError(f"alpha must lie in [0, 1), and is {alpha}")
        self.d_model, self.d_state, self.d_context, self.alpha = d_model, d_state, d_context, alpha
        self.B = nn.Parameter(0.05 * torch.randn(d_context, d_model))
        self.P = nn.Parameter(0.05 * torch.randn(d_state, d_context))
        self.A = nn.Parameter(0.05 * torch.randn(d_state, d_model))
        self.R = nn.Parameter(0.05 * torch.randn(d_state, d_state))
        self.U = nn.Parameter(0.05 * torch.randn(d_model, d_state))
        self.V = nn.Parameter(0.05 * torch.randn(d_model, d_context))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, d_context={self.d_context}, alpha={self.alpha}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> SCRNState:
        sizes = (self.d_state, self.d_context)
        return SCRNState(*(self.zeros(batch_size, size, device=device, dtype=dtype) for size in sizes))

    def decays(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """log α and 1 - α, each (M,), with the device and dtype of `like`."""
        alpha = like.new_full((self.d_context,), self.alpha)
        return alpha.log(), 1 - alpha

    def scan(self, x: Tensor, state: SCRNState, reset: Tensor | None) -> tuple[Tensor, SCRNState]:
        dtype = state.h.dtype
        log_alpha, rest = self.decays(state.s)
        with torch.autocast(x.device.type, enabled=False):  # the states are carried in float32
            v = x.to(dtype)
            s, s_last = decay_scan(log_alpha, rest * linear(v, self.B.to(dtype)), state.s, reset=reset)
            p = linear(torch.cat([s, v], -1), torch.cat([self.P, self.A], 1).to(dtype))
            h = sigmoid_scan(p, self.R, state.h, reset=reset)
        y = linear(torch.cat([h, s], -1).to(x.dtype), torch.cat([self.U, self.V], 1))
        return y, SCRNState(h[:, -1].clone(), s_last)  # a copy, so that a state kept does not keep all the others


class AdaptiveSCRN(SCRN):
    r"""`SCRN` with learned decays: each context unit has its own α = σ(β), so that some forget sooner than others.

    Args:
        d_model, d_state, d_context: as in `SCRN`.
        alpha: σ(β) at the start, in (0, 1).

    Everything else is as in `SCRN`.

    Source: section 3.3 of arXiv 1412.7753.
    """

    RECURRENT = ("beta",)

    def __init__(self, d_model: int, d_state: int = 64, d_context: int = 32, *, alpha: float = 0.95) -> None:
        super().__init__(d_model, d_state, d_context, alpha=alpha)
        if alpha == 0:
            raise ResurgeError(f"alpha must lie in (0, 1), and is {alpha}")
        self.beta = nn.Parameter(torch.full((d_context,), math.log(alpha / (1 - alpha))))

    def decays(self, like: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.beta.to(like.dtype)
        return logsigmoid(beta), torch.sigmoid(-beta)
