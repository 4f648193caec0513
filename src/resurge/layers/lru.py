"""The Linear Recurrent Unit."""

import torch
from torch import Tensor, nn

from resurge.nn.diagonal import LRU_PAPER, BothWays, DiagonalRNN, polar, wide


class LRU(DiagonalRNN):
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

    PAPER = LRU_PAPER
    RECURRENT = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im")

    def parameterise(self, nu: Tensor, theta: Tensor) -> None:
        self.nu_log = nn.Parameter(nu.log().float())
        self.theta_log = nn.Parameter(theta.log().float())
        # 1 - |λ|² = -expm1(-2ν) keeps its digits near the unit circle
        self.gamma_log = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * nu)).float())

    def eigenvalues(self) -> Tensor:
        lam = polar(-torch.exp(wide(self.nu_log)), torch.exp(wide(self.theta_log)))
        return lam.to(self.nu_log.dtype)

    def input_scale(self) -> Tensor:
        return torch.exp(self.gamma_log)


class BidirectionalLRU(BothWays, LRU):
    r"""The LRU in both directions of time: one Λ, B and γ, a map C for each way.

        ahead_t = λ ⊙ ahead_{t-1} + exp(γ_log) ⊙ (B u_t)
        back_t  = λ ⊙ back_{t+1}  + exp(γ_log) ⊙ (B u_t)
        y_t = Re(C [ahead_t; back_t]) + D ⊙ u_t                C ∈ C^(d_model, 2 N)

    Args, initialisation and errors as in `LRU`; C is drawn for each way with the variance it has there. It needs the
    whole sequence: there is no state and no step.

    Cost: 6 N d_model multiplications a step and direction of differentiation, where two LRUs take 8.

    Source: section 4 of arXiv 2303.06349 (Pathfinder and Path-X), in the manner of S5, arXiv 2208.04933.
    """
