"""The Linear State-Space Layer: recurrent, convolutional and continuous in time."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from resurge.errors import at_least
from resurge.layer import TimedLayer
from resurge.nn import hippo
from resurge.nn.diagonal import wide
from resurge.nn.discretise import bilinear, bilinear_step, log_uniform
from resurge.nn.impulse import convolve, krylov
from resurge.paper import Paper


class LSSLState(NamedTuple):
    """The states of every feature."""

    h: Tensor  # (B, D, N)


class LSSL(TimedLayer):
    r"""Linear state-space layer: one dense system in continuous time, run by each feature at its own step size.

        ẋ = A x + B u,    y = C x + D u                        x ∈ R^N for each of the d_model features
        Δ_t = exp(log_dt) dt_t
        x_t = Ā x_{t-1} + B̄ u_t,    Ā = (I - Δ_t/2 A)^-1 (I + Δ_t/2 A),    B̄ = (I - Δ_t/2 A)^-1 Δ_t B    (bilinear)
        A = -diag(p_l) (T^-1 + diag(c)) diag(p_r),    B = p_l ⊙ b,    T tridiagonal

    The seven vectors of A and B (T's three diagonals, p_l, p_r, c, b) start at HiPPO-LegS and are trained; they are
    shared by all features. LSSL-fixed of the paper is this layer with its recurrent parameters frozen:
    `for p in layer.param_groups().recurrent: p.requires_grad_(False)`. With constant steps the layer is also a
    convolution with K_l = C Ā^l B̄: `convolution`, by which the paper trains it.

    Initialisation: C and D standard normal, Δ log-uniform in [dt_min, dt_max] for each feature.

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of states of a feature. The matrices are dense: keep it small.
        dt_min, dt_max: range of Δ at the start, 0 < dt_min <= dt_max. A feature sees about 1/Δ steps.

    State: N d_model numbers a row. Cost: (N² + 2 N) d_model multiplications a step, one step after the other, and a
    system of N equations for each feature, once a call; with `dt`, once a step and row.

    Raises:
        ResurgeError: a size below one, or a range that is none.

    Source: "Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers",
    arXiv 2110.13985, with one output channel a feature (the paper's M = 1).
    """

    PAPER = Paper(
        "lssl",
        "Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers",
        "Albert Gu and Isys Johnson and Karan Goel and Khaled Saab and Tri Dao and Atri Rudra and Christopher Ré",
        2021,
        "2110.13985",
    )
    OPS = ("torch.baddbmm",)
    RECURRENT: ClassVar[tuple[str, ...]] = ("log_dt", "T_lower", "T_diag", "T_upper", "p_l", "p_r", "c", "b")

    def __init__(self, d_model: int, d_state: int = 32, *, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state})
        self.d_model, self.d_state = d_model, d_state
        n = torch.arange(d_state, dtype=torch.float64)
        root = hippo.legs(d_state).B
        self.log_dt = nn.Parameter(log_uniform(d_model, dt_min, dt_max))
        self.T_lower, self.T_upper = nn.Parameter(-torch.ones(d_state - 1)), nn.Parameter(torch.zeros(d_state - 1))
        self.T_diag = nn.Parameter(torch.ones(d_state))
        self.p_l, self.p_r = nn.Parameter(root.float()), nn.Parameter(root.float())
        self.c, self.b = nn.Parameter((-n / (2 * n + 1)).float()), nn.Parameter(torch.ones(d_state))
        self.C, self.D = nn.Parameter(torch.randn(d_model, d_state)), nn.Parameter(torch.randn(d_model))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LSSLState:
        return LSSLState(self.zeros(batch_size, self.d_model, self.d_state, device=device, dtype=dtype))

    def system(self) -> hippo.System:
        """A (N, N) and B (N,), in float64 where there is one."""
        T = torch.diag(wide(self.T_diag)) + torch.diag(wide(self.T_lower), -1) + torch.diag(wide(self.T_upper), 1)
        p_l, p_r = wide(self.p_l), wide(self.p_r)
        inverse = torch.linalg.solve(T, torch.eye(self.d_state, dtype=T.dtype, device=T.device))
        return hippo.System(-p_l[:, None] * (inverse + torch.diag(wide(self.c))) * p_r, p_l * wide(self.b))

    def scan(
        self, x: Tensor, state: LSSLState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, LSSLState]:
        dtype = state.h.dtype
        delta, system = torch.exp(wide(self.log_dt)), self.system()
        A_bar, B_bar = (v.to(dtype) for v in bilinear(*system, delta))
        A, B, delta = (v.to(dtype) for v in (*system, delta))
        h, states = state.h.transpose(0, 1), []  # (D, B, N): one matrix product for each feature
        with torch.autocast(x.device.type, enabled=False):  # the state is carried in float32
            for t, u in enumerate(x.to(dtype).permute(1, 2, 0).unbind(0)):
                if reset is not None:
                    h = torch.where(reset[None, :, t, None], torch.zeros_like(h), h)
                if dt is None:
                    h = torch.baddbmm(B_bar[:, None] * u[..., None], h, A_bar.mT)
                else:
                    h = bilinear_step(A, B, delta[:, None] * dt[:, t].to(dtype), h, u)
                states.append(h)
            y = torch.einsum("tdbn,dn->btd", torch.stack(states), self.C.to(dtype))
        return y.to(x.dtype) + self.D * x, LSSLState(h.transpose(0, 1))

    def kernel(self, length: int) -> Tensor:
        """The impulse response K (d_model, length) without D, in the dtype of the recurrence."""
        A, B = bilinear(*self.system(), torch.exp(wide(self.log_dt)))
        dtype = self.log_dt.dtype
        return torch.einsum("dnl,dn->dl", krylov(A.to(dtype), B.to(dtype), length), self.C.to(dtype))

    def convolution(self, x: Tensor) -> Tensor:
        """`forward(x)[0]` from the initial state with steps of dt = 1, by FFT. It keeps N d_model numbers a step."""
        return convolve(x.to(self.log_dt.dtype), self.kernel(x.shape[1])).to(x.dtype) + self.D * x
