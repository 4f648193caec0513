"""The linear RNN with a gated ReLU readout to which LSRL programs compile."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from resurge.errors import at_least
from resurge.layer import RecurrentLayer
from resurge.nn.diagonal import polar, sample_ring, wide
from resurge.ops import diagonal_scan_pairs
from resurge.paper import Paper


class GatedReLURNNState(NamedTuple):
    """The complex state h_t: its real parts and its imaginary parts."""

    h: Tensor  # (B, 2, N)


class GatedReLURNN(RecurrentLayer):
    r"""Complex diagonal linear recurrence with a learned initial state, and a gated ReLU network of one hidden layer.

        h_t = λ ⊙ h_{t-1} + B x_t + b,    λ = exp(-exp(ν_log) + iθ)
        v_t = [Re h_t, Im h_t, x_t]
        y_t = C v_t + W_o (ReLU(W_1 v_t) ⊙ W_2 v_t)

    C, W_1 and W_2 have biases. λ and b are complex, all else real; |λ| = 1 is ν_log = -inf. With W_2 v = 1 the hidden
    layer is a plain ReLU, and as p q = ReLU(p) q - ReLU(-p) q it multiplies: so one layer does any one operation of the
    language `resurge.lsrl`, whose programs are compiled to a stack of these.

    λ starts uniform by area on the ring [r_min, r_max] with phases in [0, max_phase], the weights as N(0, 1/fan-in), B
    with a factor sqrt(1 - |λ|²) in its rows, so that white noise gives states of variance 1; h_0 and the biases as 0.

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of complex units.
        d_hidden: number G of gated ReLU units.
        r_min, r_max: ring of |λ| at the start, 0 <= r_min < r_max <= 1.
        max_phase: largest phase at the start, in (0, 2π].

    State: 2 N numbers a row. Cost: 2 N d_model + (2 N + d_model)(d_model + 2 G) + G d_model multiplications a step, the
    scan one pass over memory.

    Raises:
        ResurgeError: a size below 1, or a radius or phase out of range.

    Source: the linear RNN and the gated linear RNN of "Universal In-Context Approximation By Prompting Fully Recurrent
    Models", arXiv 2406.01424, in one layer, with the state diagonalised.
    """

    PAPER = Paper(
        "lsrl",
        "Universal In-Context Approximation By Prompting Fully Recurrent Models",
        "Aleksandar Petrov and Tom A. Lamb and Alasdair Paren and Philip H. S. Torr and Adel Bibi",
        2024,
        "2406.01424",
    )
    OPS = ("diagonal_scan",)
    RECURRENT = ("nu_log", "theta", "h0")

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_hidden: int = 64,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state, "d_hidden": d_hidden})
        self.d_model, self.d_state, self.d_hidden = d_model, d_state, d_hidden
        nu, theta = sample_ring(d_state, r_min, r_max, max_phase)
        self.nu_log, self.theta = nn.Parameter(torch.log(nu).float()), nn.Parameter(theta.float())
        self.h0 = nn.Parameter(torch.zeros(2, d_state))
        d_read = 2 * d_state + d_model
        self.B = nn.Linear(d_model, 2 * d_state)
        self.C = nn.Linear(d_read, d_model)
        self.W_1, self.W_2 = nn.Linear(d_read, d_hidden), nn.Linear(d_read, d_hidden)
        self.W_o = nn.Linear(d_hidden, d_model, bias=False)
        for linear in (self.B, self.C, self.W_1, self.W_2, self.W_o):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        for linear in (self.B, self.C, self.W_1, self.W_2):
            nn.init.zeros_(linear.bias)
        with torch.no_grad():  # real and imaginary parts share the variance
            self.B.weight *= torch.sqrt(-torch.expm1(-2 * nu) / 2).float().repeat(2)[:, None]

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, d_hidden={self.d_hidden}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> GatedReLURNNState:
        return GatedReLURNNState(self.h0.to(device=device, dtype=dtype).expand(batch_size, 2, self.d_state))

    def eigenvalues(self) -> Tensor:
        """λ as (2, N): real parts, imaginary parts."""
        return polar(-torch.exp(wide(self.nu_log)), wide(self.theta)).to(self.nu_log.dtype)

    def scan(self, x: Tensor, state: GatedReLURNNState, reset: Tensor | None) -> tuple[Tensor, GatedReLURNNState]:
        lam, Bx = self.eigenvalues(), self.B(x).unflatten(-1, (2, self.d_state))
        if reset is not None:  # the scan starts anew from zero, this layer from h_0
            (re, im), (h_re, h_im) = lam, self.h0
            first = torch.stack([re * h_re - im * h_im, re * h_im + im * h_re])
            Bx = Bx + (reset[..., None, None] * first).to(Bx.dtype)
        h, h_last = diagonal_scan_pairs(lam, Bx, state.h, reset=reset)
        v = torch.cat([h.flatten(2).to(x.dtype), x], -1)
        return self.C(v) + self.W_o(relu(self.W_1(v)) * self.W_2(v)), GatedReLURNNState(h_last)
