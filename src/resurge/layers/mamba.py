"""Mamba: a state-space model for each channel whose step size, input and output maps depend on the input."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from resurge.errors import at_least
from resurge.layer import TimedLayer
from resurge.nn.discretise import log_uniform
from resurge.nn.recurrence import Recurrence
from resurge.nn.short_conv import ShortConv
from resurge.ops import selective_scan
from resurge.ops.selective_scan.reference import gated, step_size
from resurge.paper import Paper


class MambaState(NamedTuple):
    """The inputs of the convolution before the next one, the latest last, and the states of every channel."""

    conv: Tensor  # (B, width - 1, expand d_model)
    h: Tensor  # (B, expand d_model, N)


class Mamba(TimedLayer):
    r"""The Mamba block: a short convolution and a selective state-space model (S6) between two maps, with a gate.

        [x_t, z_t] = W_in u_t,                          x̃_t = silu(conv(x)_t)
        [δ_t, B_t, C_t] = W_x x̃_t,                      Δ_t = dt_t softplus(W_Δ δ_t + b_Δ),    A = -exp(A_log)
        h_t = exp(Δ_t A) ⊙ h_{t-1} + (Δ_t x̃_t) B_tᵀ     h (expand d_model, N)
        y_t = W_out ((h_t C_t + D ⊙ x̃_t) ⊙ silu(z_t))

    The convolution counts steps, whatever the time dt between them.

    Initialisation: A_log = log(1 ... N) for each channel, D = 1, W_Δ uniform in ± dt_rank^(-1/2), b_Δ such that Δ is
    log-uniform in [dt_min, dt_max] for δ = 0, the other maps and the convolution as PyTorch's, W_out divided by
    sqrt(n_layers).

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of states a channel.
        expand: channels over d_model.
        width: taps of the convolution, 2 to 8.
        dt_rank: size of δ; 0 is d_model / 16, rounded up.
        n_layers: number of residual blocks of the model, for the start of W_out; 1 in a `Stack`: its depth.
        dt_min, dt_max: range of Δ at the start, 0 < dt_min <= dt_max; less than 1e-4 is taken as 1e-4.

    State: expand d_model (N + width - 1) numbers a row. Cost: about expand d_model (3 d_model + 2 dt_rank + 6 N)
    multiplications a step.

    Raises:
        ResurgeError: a size or a range that is none.

    Source: section 3 of "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, with
    B̄ = Δ B as in its published code. Parameter names are those of Hugging Face's MambaMixer.
    """

    PAPER = Paper(
        "mamba",
        "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        "Albert Gu and Tri Dao",
        2023,
        "2312.00752",
    )
    OPS = ("short_conv", "selective_scan")
    # the published code takes A_log and D out of weight decay, as it does all biases; b_Δ sets the time scales
    RECURRENT = ("A_log", "D", "dt_proj.bias")

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: int = 2,
        *,
        width: int = 4,
        dt_rank: int = 0,
        n_layers: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state, "expand": expand, "n_layers": n_layers})
        at_least(0, {"dt_rank": dt_rank})
        self.d_model, self.d_state, self.width = d_model, d_state, width
        self.d_inner, self.dt_rank = expand * d_model, dt_rank or -(-d_model // 16)
        self.n_layers = n_layers
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = ShortConv(self.d_inner, width)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        dt = torch.exp(log_uniform(self.d_inner, dt_min, dt_max)).clamp(min=1e-4)
        with torch.no_grad():
            for parameter in (self.conv1d.weight, self.conv1d.bias):
                nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))
            nn.init.uniform_(self.dt_proj.weight, -1 / math.sqrt(self.dt_rank), 1 / math.sqrt(self.dt_rank))
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of the softplus
            self.out_proj.weight /= math.sqrt(n_layers)

    @classmethod
    def stacked(cls, layers: Mapping[int, Self], depth: int) -> None:
        for layer in layers.values():
            if layer.n_layers == 1:
                layer.n_layers = depth
                layer.out_proj.weight.data /= math.sqrt(depth)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, d_inner={self.d_inner}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        return MambaState(
            self.zeros(batch_size, self.width - 1, self.d_inner, device=device, dtype=dtype),
            self.zeros(batch_size, self.d_inner, self.d_state, device=device, dtype=dtype),
        )

    def scan(
        self, x: Tensor, state: MambaState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, MambaState]:
        x, z, delta, B, C, conv = self._inputs(x, state, reset)
        A = -torch.exp(self.A_log)
        y, h = selective_scan(x, delta, A, B, C, self.D, z, self.dt_proj.bias, state.h, dt=dt, reset=reset)
        return self.out_proj(y), MambaState(conv, h)

    def _inputs(self, x: Tensor, state: MambaState, reset: Tensor | None) -> tuple[Tensor, ...]:
        """x̃, z, W_Δ δ, B and C, and the convolution's state. The bias of Δ stays in float32 and enters in the scan."""
        x, z = self.in_proj(x).chunk(2, -1)
        x, conv = self.conv1d(x, state.conv, reset=reset)
        x = silu(x)
        delta, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], -1)
        return x, z, linear(delta, self.dt_proj.weight), B, C, conv

    def recurrence(self, x: Tensor, state: MambaState, reset: Tensor | None) -> Recurrence:
        u, z, delta, B, C, conv = self._inputs(x, state, reset)
        wide, skip, bias, delta, B, C = (v.to(state.h) for v in (u, self.D, self.dt_proj.bias, delta, B, C))
        delta = step_size(delta, bias, None)
        a = torch.exp(-delta[..., None] * torch.exp(self.A_log.to(state.h)))
        b = (delta * wide)[..., None] * B[:, :, None]

        def finish(h: Tensor, h_last: Tensor) -> tuple[Tensor, MambaState]:
            y = gated(torch.einsum("btdn,btn->btd", h.view(a.shape), C), wide, skip, z.to(state.h))
            return self.out_proj(y.to(u.dtype)), MambaState(conv, h_last.view(state.h.shape))

        return Recurrence(a.flatten(2), b.flatten(2), state.h.flatten(1), finish)
