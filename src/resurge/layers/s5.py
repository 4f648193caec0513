"""S5: one diagonal state-space model for all features together."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from resurge.errors import ResurgeError, at_least
from resurge.layer import TimedLayer
from resurge.nn import hippo
from resurge.nn.diagonal import BothWays, DiagonalSystem, wide
from resurge.nn.discretise import Pair, diagonal_bilinear, diagonal_zoh, log_uniform
from resurge.paper import Paper


class S5State(NamedTuple):
    """The complex state x_t, half of the conjugate pairs: real parts, imaginary parts."""

    h: Tensor  # (B, 2, P/2)


class S5(DiagonalSystem, TimedLayer):
    r"""Simplified state-space layer: a linear, diagonal, complex system in continuous time between two dense maps.

        ẋ = Λ x + B̃ u,    y = 2 Re(C̃ x) + D ⊙ u                x ∈ C^(P/2)
        Δ_t = exp(log_step) dt_t                               a step size for each state
        x_t = exp(Δ_t Λ) ⊙ x_{t-1} + Λ^-1 (exp(Δ_t Λ) - 1) ⊙ (B̃ u_t)    (ZOH; `diagonal_bilinear` for the other rule)

    States come in conjugate pairs, of which one is kept. Λ is trained as its real and imaginary part.

    Initialisation: `n_blocks` times the normal part V Λ V* of HiPPO-LegS of size P / n_blocks; B̃ = V* B and C̃ = C V
    with B real of variance 1 / d_model and C complex of variance 1 / P in each part; D standard normal; step sizes
    log-uniform in [dt_min, dt_max].

    Args:
        d_model: width of inputs and outputs.
        d_state: number P of states, conjugates included.
        n_blocks: number of HiPPO blocks at the start; d_state / n_blocks must be an even number.
        bilinear: discretise by the bilinear rule in the place of ZOH.
        clip_eigs: keep Re Λ <= -1e-4, so that the layer stays stable.
        dt_min, dt_max: range of the step sizes at the start, 0 < dt_min <= dt_max.

    State: P numbers a row. Cost: 2 P d_model multiplications a step, the scan one pass over memory.

    Raises:
        ResurgeError: sizes that do not divide, or a range that is none.

    Source: "Simplified State Space Layers for Sequence Modeling", arXiv 2208.04933. B's variance is 1 / d_model, by
    its inputs; the published code's initialiser makes it 1 / P.
    """

    PAPER = Paper(
        "s5",
        "Simplified State Space Layers for Sequence Modeling",
        "Jimmy T. H. Smith and Andrew Warrington and Scott W. Linderman",
        2022,
        "2208.04933",
    )
    RECURRENT = ("Lambda_re", "Lambda_im", "log_step", "B_re", "B_im")

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        n_blocks: int = 1,
        bilinear: bool = False,
        clip_eigs: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state, "n_blocks": n_blocks})
        if d_state % (2 * n_blocks):
            raise ResurgeError(f"d_state must be a multiple of 2 n_blocks = {2 * n_blocks}, and is {d_state}")
        self.d_model, self.d_state, self.clip_eigs = d_model, d_state, clip_eigs
        self.discretise = diagonal_bilinear if bilinear else diagonal_zoh
        re, im, V = hippo.normal(d_state // n_blocks)
        V_block = torch.block_diag(*[torch.complex(V[0], V[1]).to(torch.cfloat)] * n_blocks)  # (P, P/2)
        B = V_block.mH @ (torch.randn(d_state, d_model) / math.sqrt(d_model)).to(torch.cfloat)
        C = torch.complex(*torch.randn(2, self.DIRECTIONS, d_model, d_state) / math.sqrt(d_state)) @ V_block
        C = C.movedim(0, 1).flatten(1)  # (d_model, P/2) of each direction, side by side
        self.Lambda_re, self.Lambda_im = (nn.Parameter(part.float().repeat(n_blocks)) for part in (re, im))
        self.log_step = nn.Parameter(log_uniform(d_state // 2, dt_min, dt_max))
        self.B_re, self.B_im = nn.Parameter(B.real.contiguous()), nn.Parameter(B.imag.contiguous())
        self.C_re, self.C_im = nn.Parameter(C.real.contiguous()), nn.Parameter(C.imag.contiguous())
        self.D = nn.Parameter(torch.randn(d_model))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, bilinear={self.discretise is diagonal_bilinear}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> S5State:
        return S5State(self.zeros(batch_size, 2, self.d_state // 2, device=device, dtype=dtype))

    def coefficients(self, dt: Tensor | None) -> tuple[Pair, Pair]:
        """Λ̄ and the factor of the input, (P/2,) in float64 where there is one, or (B, T, P/2) for dt (B, T)."""
        re = wide(self.Lambda_re)
        delta = torch.exp(wide(self.log_step))
        if dt is not None:
            delta = delta * dt[..., None]
        return self.discretise(re.clamp(max=-1e-4) if self.clip_eigs else re, wide(self.Lambda_im), delta)

    def eigenvalues(self) -> Tensor:
        """λ̄ of a step of dt = 1 as (2, P/2): real parts, imaginary parts."""
        return torch.stack(self.coefficients(None)[0]).to(self.Lambda_re.dtype)

    def drive(self, x: Tensor, dt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, (g_re, g_im) = self.coefficients(dt)
        dtype = self.Lambda_re.dtype
        B = torch.cat([self.B_re, self.B_im])
        Bu_re, Bu_im = linear(x, B.to(x.dtype)).to(dtype).chunk(2, -1)
        g_re, g_im = g_re.to(dtype), g_im.to(dtype)
        b = torch.stack([g_re * Bu_re - g_im * Bu_im, g_re * Bu_im + g_im * Bu_re], -2)
        return torch.stack(a, -2).to(dtype), b

    def output_map(self) -> Tensor:
        return 2 * super().output_map()


class BidirectionalS5(BothWays, S5):
    r"""S5 in both directions of time: one system and one input map, an output map for each way.

        y = 2 Re(C̃ [ahead; back]) + D ⊙ u            ahead, back ∈ C^(P/2), the states from both ends

    Args, initialisation and errors as in `S5`; C̃ is drawn anew for each way. It needs the whole sequence: there is
    no state and no step.

    Cost: 3 P d_model multiplications a step, the two scans read their inputs once.

    Source: as `S5`; all of its Long Range Arena models are of this kind.
    """
