"""The short causal convolution as a module, with the names and shapes of `torch.nn.Conv1d`."""

import math

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError
from resurge.ops import short_conv
from resurge.ops.short_conv import WIDTHS


class ShortConv(nn.Module):
    """Causal convolution of each channel over its last `width` steps, with a bias: `resurge.ops.short_conv`.

    Weights start as N(0, std²), the bias as zero.

    Args:
        d_model: number of channels D.
        width: number of taps K, from 2 to 8.
        std: standard deviation of the weights; by default 0.1 / sqrt(K), as in Griffin's published code.

    Raises:
        ResurgeError: a width out of range.
    """

    def __init__(self, d_model: int, width: int = 4, *, std: float | None = None) -> None:
        super().__init__()
        if width not in WIDTHS:
            raise ResurgeError(f"the convolution's width must lie in {WIDTHS[0]} to {WIDTHS[-1]}, and is {width}")
        std = 0.1 / math.sqrt(width) if std is None else std
        self.weight = nn.Parameter(std * torch.randn(d_model, 1, width))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def extra_repr(self) -> str:
        return f"d_model={len(self.weight)}, width={self.weight.shape[2]}"

    def forward(self, x: Tensor, state: Tensor, *, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, T, D) and the K-1 inputs before it (B, K-1, D) to the outputs and the last K-1 inputs."""
        return short_conv(x, self.weight[:, 0], self.bias, state, reset=reset)
