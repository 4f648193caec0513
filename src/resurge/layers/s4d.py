"""S4D: a diagonal state-space model for each feature, with the paper's three initialisations."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError, at_least
from resurge.layer import TimedLayer
from resurge.nn import hippo
from resurge.nn.diagonal import wide
from resurge.nn.discretise import Pair, diagonal_bilinear, diagonal_zoh, log_uniform
from resurge.nn.impulse import convolve
from resurge.nn.recurrence import Recurrence
from resurge.paper import Paper


class S4DState(NamedTuple):
    """The complex states of every feature, half of the conjugate pairs: real parts, imaginary parts."""

    h: Tensor  # (B, 2, D, N/2)


class S4D(TimedLayer):
    r"""Diagonal state-space model: for each feature a linear system in continuous time, with a step size of its own.

        ẋ = A x + u,    y = 2 Re(C x) + D u                    x ∈ C^(N/2) for each of the d_model features
        A = -exp(log_A_re) + i A_im,    Δ_t = exp(log_dt) dt_t
        x_t = exp(Δ_t A) ⊙ x_{t-1} + A^-1 (exp(Δ_t A) - 1) u_t    (ZOH; `diagonal_bilinear` for the other rule)

    States come in conjugate pairs, of which one is kept. The paper's B is absorbed in C, which multiplies it alone.
    With constant steps the layer is also a convolution with K_l = 2 Re Σ_n C_n B̄_n Ā_n^l: see `convolution`.

    Initialisation: Re A = -1/2, Im A by subclass, C complex Gaussian of variance 1 (times the subclass's B), D standard
    normal, Δ log-uniform in [dt_min, dt_max] for each feature.

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of states of a feature, even.
        bilinear: discretise by the bilinear rule in the place of ZOH.
        dt_min, dt_max: range of Δ at the start, 0 < dt_min <= dt_max. A feature sees about 1/Δ steps at once.

    State: N d_model numbers a row. Cost: about 5 N d_model multiplications a step.

    Raises:
        ResurgeError: an odd d_state or a range that is none.

    Source: "On the Parameterization and Initialization of Diagonal State Space Models", arXiv 2206.11893.
    """

    PAPER = Paper(
        "s4d",
        "On the Parameterization and Initialization of Diagonal State Space Models",
        "Albert Gu and Ankit Gupta and Karan Goel and Christopher Ré",
        2022,
        "2206.11893",
    )
    OPS = ("diagonal_scan",)
    RECURRENT = ("log_dt", "log_A_re", "A_im")

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        bilinear: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state})
        if d_state % 2:
            raise ResurgeError(f"d_state must be even, conjugate pairs of states, and is {d_state}")
        self.d_model, self.d_state = d_model, d_state
        self.discretise = diagonal_bilinear if bilinear else diagonal_zoh
        omega, B = self.spectrum(d_state)
        C = torch.randn(d_model, d_state // 2, dtype=torch.cfloat) * B  # variance 1: 1/2 in each part
        self.log_dt = nn.Parameter(log_uniform(d_model, dt_min, dt_max))
        self.log_A_re = nn.Parameter(torch.full(C.shape, math.log(0.5)))
        self.A_im = nn.Parameter(omega.float().repeat(d_model, 1))
        self.C_re, self.C_im = nn.Parameter(C.real.contiguous()), nn.Parameter(C.imag.contiguous())
        self.D = nn.Parameter(torch.randn(d_model))

    @staticmethod
    def spectrum(n: int) -> tuple[Tensor, Tensor]:
        """Im A (n/2,) at the start, and the B (n/2,), complex, that C takes in."""
        raise TypeError("S4D has three initialisations, S4DLin, S4DInv and S4DLegS, and is none by itself")

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, bilinear={self.discretise is diagonal_bilinear}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> S4DState:
        return S4DState(self.zeros(batch_size, 2, self.d_model, self.d_state // 2, device=device, dtype=dtype))

    def coefficients(self, dt: Tensor | None) -> tuple[Pair, Pair]:
        """Ā and B̄, (d_model, N/2) in float64 where there is one, or (B, T, d_model, N/2) for dt (B, T)."""
        delta = torch.exp(wide(self.log_dt))
        if dt is not None:
            delta = delta * dt[..., None]
        return self.discretise(-torch.exp(wide(self.log_A_re)), wide(self.A_im), delta[..., None])

    def scan(
        self, x: Tensor, state: S4DState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, S4DState]:
        return self.recurrence(x, state, reset, dt).run(reset)

    def recurrence(self, x: Tensor, state: S4DState, reset: Tensor | None, dt: Tensor | None = None) -> Recurrence:
        a, b = (torch.stack(pair, -3).to(state.h.dtype) for pair in self.coefficients(dt))
        Bu = b * x[:, :, None, :, None]

        def finish(h: Tensor, h_last: Tensor) -> tuple[Tensor, S4DState]:
            C = torch.stack([self.C_re, -self.C_im]).to(h.dtype)
            y = 2 * torch.einsum("btphn,phn->bth", h.view(Bu.shape), C)
            return y.to(x.dtype) + self.D * x, S4DState(h_last.view(state.h.shape))

        return Recurrence(a.flatten(-2), Bu.flatten(-2), state.h.flatten(-2), finish)

    def kernel(self, length: int) -> Tensor:
        """The impulse response K (d_model, length) without D, in the dtype of the recurrence."""
        (a_re, a_im), (b_re, b_im) = self.coefficients(None)
        steps = torch.arange(length, dtype=a_re.dtype, device=a_re.device)[:, None, None]
        size, phase = torch.exp(steps * torch.log(torch.hypot(a_re, a_im))), steps * torch.atan2(a_im, a_re)
        re, im = self.C_re * b_re - self.C_im * b_im, self.C_re * b_im + self.C_im * b_re
        K = 2 * (size * (re * torch.cos(phase) - im * torch.sin(phase))).sum(-1)
        return K.T.to(self.log_dt.dtype)

    def convolution(self, x: Tensor) -> Tensor:
        """`forward(x)[0]` from the initial state with steps of dt = 1, by FFT: no states are made."""
        return convolve(x.to(self.log_dt.dtype), self.kernel(x.shape[1])).to(x.dtype) + self.D * x


class S4DLin(S4D):
    """S4D that starts from evenly spaced frequencies, Im A_n = π n: a Fourier basis that fades.

        x_t = Ā x_{t-1} + B̄ u_t,    y_t = 2 Re(C x_t) + D u_t,    Ā = exp(Δ A),    A_n = -1/2 + i π n at the start

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of states of a feature, even.
        bilinear: discretise by the bilinear rule in the place of ZOH.
        dt_min, dt_max: range of Δ at the start, 0 < dt_min <= dt_max. A feature sees about 1/Δ steps at once.

    State: N d_model numbers a row. Cost: about 5 N d_model multiplications a step.

    Source: section 4.2 of arXiv 2206.11893.
    """

    @staticmethod
    def spectrum(n: int) -> tuple[Tensor, Tensor]:
        k = torch.arange(n // 2, dtype=torch.float64)
        return math.pi * k, torch.ones(n // 2, dtype=torch.cfloat)


class S4DInv(S4D):
    """S4D that starts from Im A_n = (N/π) (N / (2n+1) - 1), the law that the frequencies of LegS follow for large N.

        x_t = Ā x_{t-1} + B̄ u_t,    y_t = 2 Re(C x_t) + D u_t,    Ā = exp(Δ A),    Re A_n = -1/2 at the start

    Everything else is as in `S4DLin`.

    Source: section 4.2 of arXiv 2206.11893. (The LRU paper prints N / (n+1) in the place of N / (2n+1),
    which is another law.)
    """

    @staticmethod
    def spectrum(n: int) -> tuple[Tensor, Tensor]:
        k = torch.arange(n // 2, dtype=torch.float64)
        return n / math.pi * (n / (2 * k + 1) - 1), torch.ones(n // 2, dtype=torch.cfloat)


class S4DLegS(S4D):
    """S4D that starts from the normal part of HiPPO-LegS, -1/2 ± iω, with its B, whose imaginary part is cut at ±2.

        x_t = Ā x_{t-1} + B̄ u_t,    y_t = 2 Re(C x_t) + D u_t,    Ā = exp(Δ A)

    Everything else is as in `S4DLin`.

    Source: section 4.2 and theorem 3 of arXiv 2206.11893.
    """

    @staticmethod
    def spectrum(n: int) -> tuple[Tensor, Tensor]:
        _, omega, V = hippo.normal(n)
        B = torch.complex(V[0], -V[1]).T @ torch.complex(hippo.legs(n).B, torch.zeros(n, dtype=torch.float64))
        return omega, torch.complex(B.real, B.imag.clamp(-2, 2)).to(torch.cfloat)
