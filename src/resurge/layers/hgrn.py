"""HGRN: gated recurrences, real and complex, whose forget gates are bounded from below, layer by layer."""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from resurge.nn.bounded import BoundedGateRNN
from resurge.nn.diagonal import wide as eigenvalue
from resurge.nn.gated import ComplexGatedRNN, wide


class HGRN(BoundedGateRNN):
    r"""Hierarchically gated recurrent network, real: an elementwise average that forgets at most 1 - γ a step.

        λ_t = γ + (1 - γ) σ(W_μ x_t + b_μ)                     γ <= λ_t < 1
        h_t = λ_t ⊙ h_{t-1} + (1 - λ_t) ⊙ SiLU(W_c x_t + b_c)
        y_t = W_o (LayerNorm(h_t) ⊙ SiLU(W_g x_t + b_g)) + b_o

    Upper layers, with γ near 1, keep what is far away; lower ones are free to follow what is near. γ is a constant, or
    learned together with those of the other layers of a stack, as `Stack` arranges for layers whose γ is 0 (in other
    stacks, `resurge.nn.share_lower_bounds`). Parameters start as those of `torch.nn.Linear`.

    Args:
        d_model: width D of inputs, outputs and state.
        lower_bound: γ, in [0, 1); all 0 in a `Stack`: learned, at first γ = k / depth in layer k.

    State: D numbers a row. Cost: 4 D² multiplications a step, the scan one pass over memory.

    Raises:
        ResurgeError: d_model below 1, or γ out of range.

    Source: section 3 of "Hierarchically Gated Recurrent Neural Network for Sequence Modeling", arXiv 2311.04823.
    Normalised before it is gated, as in the published code; the paper's text has LayerNorm(g_t ⊙ h_t).
    """

    PARTS = 1

    def __init__(self, d_model: int, *, lower_bound: float = 0.0) -> None:
        super().__init__(d_model, lower_bound)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lam, rest = self.forget_gate(x)
        return lam, rest * wide(silu(self.input(x)))


class ComplexHGRN(ComplexGatedRNN, BoundedGateRNN):
    r"""Hierarchically gated recurrent network, complex: the state also turns, by a constant angle θ a step.

        λ_t = γ + (1 - γ) σ(W_μ x_t + b_μ)                     γ <= λ_t < 1
        h_t = λ_t e^{iθ} ⊙ h_{t-1} + (1 - λ_t) ⊙ c_t           h_t ∈ C^D
        c_t = SiLU(W_re x_t + b_re) + i SiLU(W_im x_t + b_im)
        y_t = W_o (LayerNorm([Re h_t, Im h_t]) ⊙ SiLU(W_g x_t + b_g)) + b_o

    θ starts at 10000^(-2k/D), k = 0 ... D-1, in radians: from one radian a step to a turn in some 10⁸ steps.

    Args:
        d_model: width D of inputs and outputs.
        lower_bound: γ, in [0, 1); constant or learned, as in `HGRN`.

    State: 2 D numbers a row. Cost: 7 D² multiplications a step, the scan one pass over memory.

    Raises:
        ResurgeError: d_model below 1, or γ out of range.

    Source: section 3 of arXiv 2311.04823, normalised and gated as in `HGRN`; the start of θ is that of the published
    code.
    """

    PARTS = 2
    RECURRENT = ("theta",)

    def __init__(self, d_model: int, *, lower_bound: float = 0.0) -> None:
        super().__init__(d_model, lower_bound)
        k = torch.arange(d_model, dtype=torch.float64)
        self.theta = nn.Parameter((10_000.0 ** (-2 * k / d_model)).float())

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lam, rest = self.forget_gate(x)
        theta = eigenvalue(self.theta)
        turn = torch.stack([torch.cos(theta), torch.sin(theta)]).to(lam.dtype)
        c = wide(silu(self.input(x))).unflatten(-1, (2, self.d_state))
        return lam[..., None, :] * turn, rest[..., None, :] * c

    def readout(self, h: Tensor, x: Tensor) -> Tensor:
        return super().readout(h.flatten(-2), x)
