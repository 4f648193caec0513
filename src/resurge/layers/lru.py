"""The Linear Recurrent Unit."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from resurge.errors import ResurgeError
from resurge.layer import RecurrentLayer
from resurge.ops import diagonal_scan_pairs
from resurge.paper import Paper


class LRUState(NamedTuple):
    """The complex state x_t: its real parts and its imaginary parts."""

    h: Tensor  # (B, 2, N)


class LRU(RecurrentLayer):
    r"""Linear Recurrent Unit: a linear, diagonal, complex recurrence between two dense maps.

        λ   = exp(-exp(ν_log) + i exp(θ_log))                  |λ| < 1 always
        x_t = λ ⊙ x_{t-1} + exp(γ_log) ⊙ (B u_t)               x_t ∈ C^N
        y_t = Re(C x_t) + D ⊙ u_t                              y_t ∈ R^d_model

    Initialisation: λ uniform by area on the ring r_min <= |λ| <= r_max with phases in [0, max_phase];
    γ = sqrt(1 - |λ|²), trained freely from there; B, C complex Gaussian with variance 1/(2 d_model) and 1/d_state
    in each part; D standard normal.

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of complex states.
        r_min: inner radius of the ring, in [0, r_max).
        r_max: outer radius, at most 1. A state with |λ| = r remembers for about 1 / (1 - r) steps.
        max_phase: largest phase in radians, in (0, 2π]. Small phases favour slow features of long sequences.

    State: 2 N numbers a row. Cost: 4 N d_model multiplications a step and direction (B and C), the scan one pass
    over memory.

    Raises:
        ResurgeError: a radius or phase out of range.

    Source: section 3 and appendix A of "Resurrecting Recurrent Neural Networks for Long Sequences",
    arXiv 2303.06349. The factor of C follows the paper's code, not its text.
    """

    PAPER = Paper(
        "lru",
        "Resurrecting Recurrent Neural Networks for Long Sequences",
        "Antonio Orvieto and Samuel L. Smith and Albert Gu and Anushan Fernando and Caglar Gulcehre and "
        "Razvan Pascanu and Soham De",
        2023,
        "2303.06349",
    )
    OPS = ("diagonal_scan",)
    RECURRENT = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im")

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__()
        if not 0 <= r_min < r_max <= 1:
            raise ResurgeError(f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1, and are {r_min} and {r_max}")
        if not 0 < max_phase <= 2 * math.pi + 1e-9:
            raise ResurgeError(f"max_phase must lie in (0, 2π], and is {max_phase}")
        self.d_model, self.d_state = d_model, d_state
        # 0 and 1 are left out: they would put ν_log or θ_log at minus infinity
        u1, u2 = torch.rand(2, d_state).clamp(1e-7, 1 - 1e-7).double()
        nu = -0.5 * torch.log(u1 * (r_max**2 - r_min**2) + r_min**2)
        self.nu_log = nn.Parameter(nu.log().float())
        self.theta_log = nn.Parameter((max_phase * u2).log().float())
        # 1 - |λ|² = -expm1(-2ν) keeps its digits near the unit circle
        self.gamma_log = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * nu)).float())
        self.B_re = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.B_im = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.C_re = nn.Parameter(torch.randn(d_model, d_state) / math.sqrt(d_state))
        self.C_im = nn.Parameter(torch.randn(d_model, d_state) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def eigenvalues(self) -> Tensor:
        """λ as (2, N): real parts, imaginary parts."""
        radius, phase = torch.exp(-torch.exp(self.nu_log)), torch.exp(self.theta_log)
        return torch.stack([radius * torch.cos(phase), radius * torch.sin(phase)])

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LRUState:
        return LRUState(self.zeros(batch_size, 2, self.d_state, device=device, dtype=dtype))

    def scan(self, x: Tensor, state: LRUState, reset: Tensor | None) -> tuple[Tensor, LRUState]:
        # exp(γ_log) scales the rows of B rather than (B, T, N) numbers
        B = torch.cat([self.B_re, self.B_im]) * torch.exp(self.gamma_log).repeat(2)[:, None]
        C = torch.cat([self.C_re, -self.C_im], 1)
        Bu = linear(x, B.to(x.dtype)).unflatten(-1, (2, self.d_state))
        h, h_last = diagonal_scan_pairs(self.eigenvalues(), Bu, state.h, reset=reset)
        return linear(h.flatten(2), C.to(x.dtype)) + self.D * x, LRUState(h_last)

    def step(self, x_t: Tensor, state: LRUState) -> tuple[Tensor, LRUState]:
        # the recurrence spelt out in PyTorch's own operators: one step needs no scan, and exports anywhere
        Bu = torch.stack([linear(x_t, B.to(x_t.dtype)) for B in (self.B_re, self.B_im)], 1)
        re, im = self.eigenvalues()
        h_re, h_im = state.h.unbind(1)
        h = torch.stack([re * h_re - im * h_im, re * h_im + im * h_re], 1) + torch.exp(self.gamma_log) * Bu
        h_re, h_im = h.to(x_t.dtype).unbind(1)
        return linear(h_re, self.C_re) - linear(h_im, self.C_im) + self.D * x_t, LRUState(h)
