"""From continuous to discrete time: ẋ = A x + B u, with u held over each step of length Δ, to x_t = Ā x_{t-1} + B̄ u_t.

    forward Euler    Ā = I + Δ A                              B̄ = Δ B
    backward Euler   Ā = (I - Δ A)^-1                         B̄ = (I - Δ A)^-1 Δ B
    bilinear         Ā = (I - Δ/2 A)^-1 (I + Δ/2 A)           B̄ = (I - Δ/2 A)^-1 Δ B
    ZOH              Ā = exp(Δ A)                             B̄ = A^-1 (Ā - I) B

ZOH (zero-order hold) is exact for inputs that are held; bilinear and backward Euler keep every stable system stable.
Dense systems have A (..., N, N), B (..., N) and Δ (...), which broadcast; diagonal complex ones come as pairs of reals.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from resurge.errors import ResurgeError

Discretise = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Pair = tuple[Tensor, Tensor]  # real part, imaginary part
DiscretiseDiagonal = Callable[[Tensor, Tensor, Tensor], tuple[Pair, Pair]]


def forward_euler(A: Tensor, B: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Ā (..., N, N) and B̄ (..., N): cheap, and unstable where Δ |λ| > 2."""
    return _identity(A) + delta[..., None, None] * A, delta[..., None] * B


def backward_euler(A: Tensor, B: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Ā (..., N, N) and B̄ (..., N): stable, of first order."""
    return _implicit(A, B, delta, 1.0)


def bilinear(A: Tensor, B: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Ā (..., N, N) and B̄ (..., N): stable, of second order; the trapezoidal rule."""
    return _implicit(A, B, delta, 0.5)


def bilinear_step(A: Tensor, B: Tensor, delta: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Ā x + B̄ u by the bilinear rule, for x (..., N) and u (...): where Δ changes at every step, a system is solved
    for one right-hand side, and Ā is never made."""
    half = delta[..., None] / 2
    right = x + half * (x @ A.mT) + 2 * half * u[..., None] * B
    after: Tensor = torch.linalg.solve(_identity(A) - half[..., None] * A, right)
    return after


def zoh(A: Tensor, B: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Ā (..., N, N) and B̄ (..., N): exact, as blocks of the exponential of [[A, B], [0, 0]]; A may be singular."""
    N = A.shape[-1]
    step = delta[..., None, None] * torch.cat([A, B[..., None].expand(*A.shape[:-1], 1)], -1)
    whole = torch.linalg.matrix_exp(torch.cat([step, torch.zeros_like(step[..., :1, :])], -2))
    return whole[..., :N, :N], whole[..., :N, N]


def _implicit(A: Tensor, B: Tensor, delta: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The generalised bilinear transform: the share alpha of the slope is that after the step."""
    eye, step = _identity(A), delta[..., None, None] * A
    right = torch.cat([eye + (1 - alpha) * step, (delta[..., None] * B)[..., None]], -1)
    solved = torch.linalg.solve(eye - alpha * step, right)
    return solved[..., :-1], solved[..., -1]


def _identity(A: Tensor) -> Tensor:
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)


def diagonal_zoh(re: Tensor, im: Tensor, delta: Tensor) -> tuple[Pair, Pair]:
    """λ̄ = exp(Δ λ) and the factor (λ̄ - 1) / λ of the input, for λ = re + i im. Δ broadcasts."""
    a, b = delta * re, delta * im
    decay, sin = torch.exp(a), torch.sin(b)
    # exp(z) - 1 as sums of small terms: for short steps the difference would lose its digits
    less = (torch.expm1(a) * torch.cos(b) - 2 * torch.sin(b / 2) ** 2, decay * sin)
    return (decay * torch.cos(b), decay * sin), _over(less, (re, im))


def diagonal_bilinear(re: Tensor, im: Tensor, delta: Tensor) -> tuple[Pair, Pair]:
    """λ̄ = (1 + Δ/2 λ) / (1 - Δ/2 λ) and the factor Δ / (1 - Δ/2 λ) of the input. Δ broadcasts."""
    a, b = delta * re / 2, delta * im / 2
    below = (1 - a, -b)
    return _over((1 + a, b), below), _over((delta, torch.zeros_like(delta)), below)


def _over(above: Pair, below: Pair) -> Pair:
    (a, b), (c, d) = above, below
    square = c * c + d * d
    return (a * c + b * d) / square, (b * c - a * d) / square


def log_uniform(n: int, dt_min: float, dt_max: float) -> Tensor:
    """Logarithms (n,) of step sizes at the start of training, uniform between those of dt_min and dt_max.

    Raises:
        ResurgeError: a range that is none.
    """
    if not 0 < dt_min <= dt_max < math.inf:
        raise ResurgeError(f"dt_min and dt_max must satisfy 0 < dt_min <= dt_max, and are {dt_min} and {dt_max}")
    return torch.rand(n) * math.log(dt_max / dt_min) + math.log(dt_min)
