"""GateLoop: a complex linear recurrence whose decay and rotation are set by the input."""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from resurge.errors import at_least
from resurge.nn.gated import ComplexGatedRNN, wide
from resurge.paper import Paper


class GateLoop(ComplexGatedRNN):
    r"""Fully data-controlled linear recurrence, with as many heads as channels: each has one key, one value, one query.

        a_t = σ(α_t) exp(i β_t)                                α, β, q, k, v: linear maps of x_t
        S_t = a_t ⊙ S_{t-1} + k_t ⊙ v_t                        S_t ∈ C^D
        y_t = W_o (SiLU(W_g x_t + b_g) ⊙ q_t ⊙ Re(S_t)) + b_o

    Parameters start as those of `torch.nn.Linear`.

    Args:
        d_model: width D of inputs and outputs.

    State: 2 D numbers a row. Cost: 7 D² multiplications a step, the scan one pass over memory.

    Raises:
        ResurgeError: d_model below 1.

    Source: section 3 of "GateLoop: Fully Data-Controlled Linear Recurrence for Sequence Modeling", arXiv 2311.01927.
    The equal quadratic form is `surrogate_attention`.
    """

    PAPER = Paper(
        "gateloop",
        "GateLoop: Fully Data-Controlled Linear Recurrence for Sequence Modeling",
        "Tobias Katsch",
        2023,
        "2311.01927",
    )

    def __init__(self, d_model: int) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model})
        self.d_model = self.d_state = d_model
        self.alpha = nn.Linear(d_model, d_model)
        self.beta = nn.Linear(d_model, d_model)
        self.q = nn.Linear(d_model, d_model)
        self.k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, d_model)
        self.gate = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)

    def transition(self, x: Tensor) -> Tensor:
        """a as pairs (..., 2, D) for x (..., d_model), in float32 at least."""
        radius, angle = torch.sigmoid(wide(self.alpha(x))), wide(self.beta(x))
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -2)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kv = wide(self.k(x)) * wide(self.v(x))
        return self.transition(x), torch.stack([kv, torch.zeros_like(kv)], -2)

    def readout(self, h: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out(silu(self.gate(x)) * self.q(x) * h.select(-2, 0))
        return y


def surrogate_attention(q: Tensor, k: Tensor, v: Tensor, a: Tensor) -> Tensor:
    """The recurrence of `GateLoop` as attention, y_t = Re(Σ_{j<=t} q_t k_j v_j Π_{j<i<=t} a_i), for q, k, v and y
    (..., T, D) and a (..., T, D) complex: relative positions are cumulative products that the data set.

    The paper divides the products up to t by those up to j, which underflow; their logarithms are subtracted here. Time
    and memory grow with T²: for tests and for looking at the weights.
    """
    log = torch.cumsum(torch.log(a.abs()), -2), torch.cumsum(torch.angle(a), -2)
    radius, angle = (s[..., :, None, :] - s[..., None, :, :] for s in log)
    T = a.shape[-2]
    past = torch.ones(T, T, dtype=torch.bool, device=a.device).tril()[..., None]
    weight = torch.where(past, torch.exp(torch.where(past, radius, 0)) * torch.cos(angle), 0)
    return q * torch.einsum("...tjd,...jd->...td", weight, k * v)
