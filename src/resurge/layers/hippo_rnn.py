"""The gated RNN of HiPPO, with a memory that compresses all of its past."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from resurge.errors import at_least
from resurge.layer import TimedLayer
from resurge.nn import hippo
from resurge.paper import Paper


class HiPPOState(NamedTuple):
    """The hidden state h, and the memory: N coefficients and, last, the time since the start."""

    h: Tensor  # (B, D)
    c: Tensor  # (B, N + 1)


class HiPPORNN(TimedLayer):
    r"""Gated RNN whose memory holds the history of one signal that it chooses itself, as Legendre coefficients.

        u_t = W_u [x_t; h_{t-1}] + b_u                         the signal, one number
        c_t = HiPPO-LegS of u_1 ... u_t                        its whole history, N coefficients
        g_t = σ(W_g [x_t; c_t] + b_g)
        h_t = (1 - g_t) ⊙ h_{t-1} + g_t ⊙ tanh(W_h [x_t; c_t] + b_h),    y_t = h_t

    The memory follows t ċ = A c + B u (`resurge.nn.hippo.legs`), which is ċ = A c + B u in logarithmic time: the
    bilinear rule with δ_t = ln(t / (t - dt_t)) for the sample that was held from t - dt_t to t. The first sample sets
    c = (u_1, 0, ...). The paper has 1/t in the place of δ_t, the same for large t; by δ_t the history comes back a
    hundred times more exactly. Scaling all dt by one number changes nothing.

    Initialisation: that of `torch.nn.Linear` for u; Xavier normal weights and zero biases for g and the candidate.

    Args:
        d_model: width of inputs, h and outputs.
        d_state: number N of coefficients.

    State: d_model + N + 1 numbers a row. Cost: 2 d_model (d_model + N) + 2 N² multiplications a step, one step after
    the other; training keeps N² numbers a step and row.

    Raises:
        ResurgeError: a size below one.

    Source: section 3 and appendices D and F of "HiPPO: Recurrent Memory with Optimal Polynomial Projections",
    arXiv 2008.07669.
    """

    PAPER = Paper(
        "hippo",
        "HiPPO: Recurrent Memory with Optimal Polynomial Projections",
        "Albert Gu and Tri Dao and Stefano Ermon and Atri Rudra and Christopher Ré",
        2020,
        "2008.07669",
    )
    OPS = ("torch.linalg.solve_triangular",)

    def __init__(self, d_model: int, d_state: int = 64) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state})
        self.d_model, self.d_state = d_model, d_state
        self.W_u = nn.Linear(2 * d_model, 1)
        self.W_g, self.W_h = nn.Linear(d_model + d_state, d_model), nn.Linear(d_model + d_state, d_model)
        for into in (self.W_g, self.W_h):
            nn.init.xavier_normal_(into.weight)
            nn.init.zeros_(into.bias)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> HiPPOState:
        sizes = (self.d_model, self.d_state + 1)
        return HiPPOState(*(self.zeros(batch_size, size, device=device, dtype=dtype) for size in sizes))

    def scan(
        self, x: Tensor, state: HiPPOState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, HiPPOState]:
        dtype, N = state.h.dtype, self.d_state
        legs = hippo.System(*(v.to(x.device, dtype) for v in hippo.legs(N)))
        weights = [p.to(dtype) for into in (self.W_u, self.W_g, self.W_h) for p in (into.weight, into.bias)]
        W_u, b_u, W_gh, b_gh = *weights[:2], torch.cat(weights[2::2]), torch.cat(weights[3::2])
        steps = torch.ones(x.shape[:2], dtype=dtype, device=x.device) if dt is None else dt.to(dtype)
        h, (c, time), outputs = state.h, state.c.split([N, 1], 1), []
        with torch.autocast(x.device.type, enabled=False):  # the state is carried in float32
            for t, (x_t, passed) in enumerate(zip(x.to(dtype).unbind(1), steps.split(1, 1), strict=True)):
                if reset is not None:
                    h, c, time = (torch.where(reset[:, t, None], torch.zeros_like(v), v) for v in (h, c, time))
                u = linear(torch.cat([x_t, h], 1), W_u, b_u)
                c, time = remember(c, time, u, passed, legs), time + passed
                g, candidate = linear(torch.cat([x_t, c], 1), W_gh, b_gh).chunk(2, 1)
                h = torch.lerp(h, torch.tanh(candidate), torch.sigmoid(g))
                outputs.append(h)
        return torch.stack(outputs, 1).to(x.dtype), HiPPOState(h, torch.cat([c, time], 1))


def remember(c: Tensor, time: Tensor, u: Tensor, dt: Tensor, system: hippo.System) -> Tensor:
    """One bilinear step of HiPPO-LegS: c (B, N) at `time` (B, 1), and u (B, 1) held for dt (B, 1) from there on.

    Solved as a triangular system, which in float32 keeps its digits where an explicit inverse would lose them.
    """
    A, B = system
    first = time == 0
    half = 0.5 * torch.log1p(dt / torch.where(first, torch.ones_like(time), time))
    right = c + half * (c @ A.T) + 2 * half * u * B
    left = torch.eye(len(B), dtype=A.dtype, device=A.device) - half[..., None] * A
    c = torch.linalg.solve_triangular(left, right[..., None], upper=False)[..., 0]
    return torch.where(first, torch.cat([u, torch.zeros_like(c[:, 1:])], 1), c)
