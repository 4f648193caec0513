"""The rows of the LRU paper's ablation between a dense linear RNN and the LRU: ways to parameterise eigenvalues."""

import torch
from torch import Tensor, nn

from resurge.nn.diagonal import LRU_PAPER, BothWays, DiagonalRNN, polar, wide


class DiagonalReIm(DiagonalRNN):
    r"""Complex diagonal linear RNN whose eigenvalues are their real and imaginary parts, free to leave the disk.

        x_t = λ ⊙ x_{t-1} + B u_t,    y_t = Re(C x_t) + D ⊙ u_t,    λ = λ_re + i λ_im

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of complex states.
        r_min, r_max, max_phase: ring on which λ starts, uniform by area; the whole disk by default.

    State: 2 N numbers a row. Cost: as the LRU's.

    Source: row "Λ as Re + Im" of table 1 of arXiv 2303.06349, section 3.2.
    """

    PAPER = LRU_PAPER
    RECURRENT = ("lambda_re_im", "B_re", "B_im")

    def parameterise(self, nu: Tensor, theta: Tensor) -> None:
        self.lambda_re_im = nn.Parameter(polar(-nu, theta).float())

    def eigenvalues(self) -> Tensor:
        return self.lambda_re_im


class DiagonalExp(DiagonalRNN):
    r"""Complex diagonal linear RNN with λ = exp(-ν + iθ), ν and θ trained themselves: not forced to be stable.

    Args, state and cost as in `DiagonalReIm`.

    Source: row "Λ Exp" of table 1 of arXiv 2303.06349, section 3.3.
    """

    PAPER = LRU_PAPER
    RECURRENT = ("nu", "theta", "B_re", "B_im")

    def parameterise(self, nu: Tensor, theta: Tensor) -> None:
        self.nu, self.theta = nn.Parameter(nu.float()), nn.Parameter(theta.float())

    def eigenvalues(self) -> Tensor:
        return polar(-wide(self.nu), wide(self.theta)).to(self.nu.dtype)


class DiagonalStableExp(DiagonalRNN):
    r"""Complex diagonal linear RNN with λ = exp(-exp(ν_log) + iθ), so that |λ| < 1 always; the LRU without its γ.

    Args, state and cost as in `DiagonalReIm`.

    Source: rows "Λ Stable Exp" (r_min = 0, r_max = 1) and "+ Ring Init" of table 1 of
    arXiv 2303.06349, section 3.3.
    """

    PAPER = LRU_PAPER
    RECURRENT = ("nu_log", "theta", "B_re", "B_im")

    def parameterise(self, nu: Tensor, theta: Tensor) -> None:
        self.nu_log, self.theta = nn.Parameter(nu.log().float()), nn.Parameter(theta.float())

    def eigenvalues(self) -> Tensor:
        return polar(-torch.exp(wide(self.nu_log)), wide(self.theta)).to(self.nu_log.dtype)


class BidirectionalDiagonalReIm(BothWays, DiagonalReIm):
    """`DiagonalReIm` in both directions of time, as `BidirectionalLRU` is of `LRU`."""


class BidirectionalDiagonalExp(BothWays, DiagonalExp):
    """`DiagonalExp` in both directions of time, as `BidirectionalLRU` is of `LRU`."""


class BidirectionalDiagonalStableExp(BothWays, DiagonalStableExp):
    """`DiagonalStableExp` in both directions of time, as `BidirectionalLRU` is of `LRU`."""
