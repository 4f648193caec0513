"""HiPPO: systems ċ = A c + B f whose state c holds the coefficients of the past of f in an orthogonal basis.

Each measure weighs the past in its own way. With s = age / window, the past is read off as f(t - s window) = Σ_n c_n
g_n(s), with basis functions g_n that are orthonormal under the measure:

| measure   | time                | window        | basis g_n(s)                         | s       |
| --------- | ------------------- | ------------- | ------------------------------------ | ------- |
| `LEGS`    | t ċ = A c + B f     | all of it: t  | sqrt(2n+1) P_n(1 - 2s)               | [0, 1]  |
| `LEGT`    | θ ċ = A c + B f     | the last θ    | sqrt(2n+1) P_n(1 - 2s)               | [0, 1]  |
| `FOURIER` | θ ċ = A c + B f     | the last θ    | 1, then sqrt(2) cos 2πks, sin 2πks   | [0, 1]  |
| `LAGT`    | θ ċ = A c + B f     | fading over θ | L_n(s) exp(-s/2)                     | [0, ∞)  |

Papers print A of LegS and LegT with the other sign. Everything is float64.

Source: appendices B to D of "HiPPO: Recurrent Memory with Optimal Polynomial Projections", arXiv 2008.07669; FOURIER
(FouT) of "How to Train Your HiPPO", arXiv 2206.12037.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from resurge.errors import ResurgeError, at_least


class System(NamedTuple):
    """ċ = A c + B f."""

    A: Tensor  # (N, N)
    B: Tensor  # (N,)


class Measure(NamedTuple):
    """A way of weighing the past: the system of size n, and the basis (..., n) at ages s (...), in units of the window.

    `scaled`: the window is the whole past and grows with it, so that the system runs in logarithmic time.
    `span`: the largest age s that the basis tells of.
    """

    system: Callable[[int], System]
    basis: Callable[[int, Tensor], Tensor]
    scaled: bool = False
    span: float = 1.0


def legs(n: int) -> System:
    """Scaled Legendre: A_nk = -sqrt((2n+1)(2k+1)) for n > k, -(n+1) for n = k, 0 above; B_n = sqrt(2n+1).

    The eigenvalues are -1 ... -n.
    """
    k, root = _orders(n)
    return System(-torch.tril(root[:, None] * root, -1) - torch.diag(k + 1), root)


def legt(n: int) -> System:
    """Translated Legendre: A_nk = -sqrt((2n+1)(2k+1)) (1 if k <= n else (-1)^(n-k)); B_n = sqrt(2n+1)."""
    k, root = _orders(n)
    sign = torch.where(k > k[:, None], 1 - 2 * ((k[:, None] - k) % 2), 1.0)
    return System(-root[:, None] * root * sign, root)


def lagt(n: int) -> System:
    """Translated Laguerre: A = 1/2 I - tril(1), B = 1."""
    _orders(n)
    ones = torch.ones(n, n, dtype=torch.float64)
    return System(0.5 * torch.eye(n, dtype=torch.float64) - torch.tril(ones), ones[0])


def fourier(n: int) -> System:
    """Translated Fourier, odd n: A = D - 2 b bᵀ, B = 2 b with b = g(0) = (1, sqrt 2, 0, sqrt 2, 0, ...).

    D differentiates the basis. What leaves the window, f(t - θ), is taken from the series, which at either end gives
    the mean of both: (f(t) + f(t-θ)) / 2 = bᵀ c.

    Raises:
        ResurgeError: an even n: beside the constant, functions come in pairs.
    """
    if n % 2 == 0:
        raise ResurgeError(f"n must be odd for the Fourier basis, a constant and pairs, and is {n}")
    at_least(1, {"n": n})
    b = fourier_basis(n, torch.zeros((), dtype=torch.float64))
    turn = 2 * math.pi * torch.arange(1, n // 2 + 1, dtype=torch.float64)
    beside = torch.zeros(max(n - 1, 0), dtype=torch.float64)
    beside[1::2] = turn
    D = torch.diag(beside, -1) - torch.diag(beside, 1)  # cos' = -2πk sin, sin' = 2πk cos
    return System(D - 2 * b[:, None] * b, 2 * b)


def legendre_basis(n: int, s: Tensor) -> Tensor:
    """sqrt(2k+1) P_k(1 - 2s), k < n: (..., n) for s (...)."""
    x = 1 - 2 * s.double()
    values = [torch.ones_like(x), x]
    for k in range(1, n - 1):
        values.append(((2 * k + 1) * x * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack(values[:n], -1) * _orders(n)[1].to(x.device)


def laguerre_basis(n: int, s: Tensor) -> Tensor:
    """L_k(s) exp(-s/2), k < n: (..., n) for s (...)."""
    s = s.double()
    values = [torch.exp(-s / 2), (1 - s) * torch.exp(-s / 2)]
    for k in range(1, n - 1):
        values.append(((2 * k + 1 - s) * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack(values[:n], -1)


def fourier_basis(n: int, s: Tensor) -> Tensor:
    """1, sqrt(2) cos 2πs, sqrt(2) sin 2πs, sqrt(2) cos 4πs, ...: (..., n) for s (...)."""
    angle = 2 * math.pi * s.double()[..., None] * torch.arange(1, n // 2 + 1, device=s.device)
    pairs = math.sqrt(2) * torch.stack([torch.cos(angle), torch.sin(angle)], -1).flatten(-2)
    return torch.cat([torch.ones_like(s.double())[..., None], pairs], -1)[..., :n]


def normal(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The normal part A_N of LegS, diagonalised: eigenvalues with positive imaginary part, and their eigenvectors V.

    A_LegS = A_N - p pᵀ with p_k = sqrt(k + 1/2), and A_N = -1/2 I + S with S antisymmetric. The eigenvalues are
    -1/2 ± iω, the eigenvectors orthonormal; those of the other half are the conjugates.

    Returns:
        The real parts -1/2 (n/2,), the imaginary parts ω > 0 (n/2,), ascending, and V (2, n, n/2), real and imaginary.

    Raises:
        ResurgeError: an odd n, which leaves an eigenvalue without its conjugate.
    """
    if n < 2 or n % 2:
        raise ResurgeError(f"n must be even, conjugate pairs of eigenvalues, and is {n}")
    A, root = legs(n)
    p = root / math.sqrt(2)
    S = A + p[:, None] * p + 0.5 * torch.eye(n, dtype=torch.float64)
    omega, V = torch.linalg.eigh(torch.complex(torch.zeros_like(S), -S))  # -iS is Hermitian
    half = slice(n // 2, n)
    V = V[:, half]
    return torch.full((n // 2,), -0.5, dtype=torch.float64), omega[half], torch.stack([V.real, V.imag])


def _orders(n: int) -> tuple[Tensor, Tensor]:
    """k = 0 ... n-1 and sqrt(2k+1)."""
    at_least(1, {"n": n})
    k = torch.arange(n, dtype=torch.float64)
    return k, torch.sqrt(2 * k + 1)


LEGS = Measure(legs, legendre_basis, scaled=True)
LEGT = Measure(legt, legendre_basis)
LAGT = Measure(lagt, laguerre_basis, span=math.inf)
FOURIER = Measure(fourier, fourier_basis)
