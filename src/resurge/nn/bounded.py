"""What the real and the complex HGRN share: forget gates bounded from below, and bounds that a stack learns."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softmax

from resurge.errors import ResurgeError, at_least
from resurge.nn.gated import GatedRNN, wide
from resurge.paper import Paper


class LowerBounds(nn.Module):
    r"""The forget gates' lower bounds of all layers of a stack, learned together, rising with depth.

        P = softmax(Γ) over the layers,    γ^k = Σ_{j<k} P_j        Γ (depth, N)

    So 0 = γ^0 <= γ^1 <= ... < 1, channel by channel. Γ = 0 at the start: γ^k = k / depth.

    Args:
        depth: number of layers.
        d_state: number N of channels.

    Source: section 3 of arXiv 2311.04823. (flash-linear-attention sums P_1 to P_k, which agrees at Γ = 0 only.)
    """

    def __init__(self, depth: int, d_state: int) -> None:
        super().__init__()
        at_least(1, {"depth": depth, "d_state": d_state})
        self.Gamma = nn.Parameter(torch.zeros(depth, d_state))

    def forward(self) -> Tensor:
        """γ (depth, N), in float32 at least."""
        P = softmax(wide(self.Gamma), 0)
        return P.cumsum(0) - P


class BoundedGateRNN(GatedRNN):
    """Base of the HGRN layers: input c_t, forget gate λ_t >= γ, and the gated, normalised readout.

    A subclass gives `PARTS`, the real numbers of one channel of the state, and `coefficients`.
    """

    PAPER = Paper(
        "hgrn",
        "Hierarchically Gated Recurrent Neural Network for Sequence Modeling",
        "Zhen Qin and Songlin Yang and Yiran Zhong",
        2023,
        "2311.04823",
    )
    PARTS: int

    def __init__(self, d_model: int, lower_bound: float) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model})
        if not 0 <= lower_bound < 1:
            raise ResurgeError(f"lower_bound must lie in [0, 1), and is {lower_bound}")
        self.d_model = self.d_state = d_model
        self.lower_bound = lower_bound
        self.bounds: LowerBounds | None = None
        self.place = 0
        width = self.PARTS * d_model
        self.input = nn.Linear(d_model, width)
        self.forget = nn.Linear(d_model, d_model)
        self.gate = nn.Linear(d_model, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, d_model)

    @classmethod
    def stacked(cls, layers: Mapping[int, Self], depth: int) -> None:
        if len(layers) > 1 and not any(layer.lower_bound for layer in layers.values()):
            share_lower_bounds(list(layers.values()))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, lower_bound={self.lower_bound if self.bounds is None else 'learned'}"

    def forget_gate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """λ_t = γ + (1 - γ) σ(W_μ x_t + b_μ) and 1 - λ_t, (..., N), in float32 at least."""
        gamma = self.lower_bound if self.bounds is None else self.bounds()[self.place]
        mu = wide(self.forget(x))
        return gamma + (1 - gamma) * torch.sigmoid(mu), (1 - gamma) * torch.sigmoid(-mu)

    def readout(self, h: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.norm(h) * silu(self.gate(x)))
        return y


def share_lower_bounds(layers: Sequence[BoundedGateRNN]) -> LowerBounds:
    """Let the layers of a stack, first to last, learn their lower bounds together; their own constant ones end.

    `Stack` does so with layers that are given none. In another stack:

        layers = [HGRN(64) for _ in range(4)]
        share_lower_bounds(layers)
        stack = Blocks(MixerMLPBlock(layer, GatedMLP(64, 128)) for layer in layers)

    Each layer holds the same module, as tied weights do: `model.parameters()` and `param_groups(model)` have its Γ
    once, `state_dict()` has it under each layer's name, and a copy of the whole stack shares it again.

    Raises:
        ResurgeError: no layers, or layers of several widths.
    """
    widths = {layer.d_state for layer in layers}
    if len(widths) != 1:
        raise ResurgeError(f"layers that share lower bounds must have one d_model, and have {sorted(widths)}")
    own = next(layers[0].parameters())
    bounds = LowerBounds(len(layers), widths.pop()).to(own.device, own.dtype)
    for place, layer in enumerate(layers):
        layer.bounds, layer.place = bounds, place
    return bounds
