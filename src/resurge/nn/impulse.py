"""Linear time-invariant recurrences as convolutions with their impulse response."""

import torch
from torch import Tensor


def krylov(A: Tensor, b: Tensor, length: int) -> Tensor:
    """[b, A b, A² b, ..., A^(length-1) b], (..., N, length), for A (..., N, N) and b (..., N).

    By doubling: 2 log2(length) matrix products instead of `length` ones.
    """
    columns, power = b[..., None], A
    while columns.shape[-1] < length:
        columns = torch.cat([columns, power @ columns], -1)
        power = power @ power
    return columns[..., :length]


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = Σ_l kernel_l x_{t-l} for every channel, by FFT: x (B, T, D), kernel (D, T), y (B, T, D)."""
    T = x.shape[1]
    size = 2 * T  # zeros as long as the sequence, so that its end does not come round to its start
    product = torch.fft.rfft(x.mT, size) * torch.fft.rfft(kernel, size)
    y: Tensor = torch.fft.irfft(product, size)
    return y[..., :T].mT
