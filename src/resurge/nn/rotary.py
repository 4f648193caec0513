"""Rotary position embedding: queries and keys turned by their place in time."""

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, width: int, *, base: float = 10_000.0) -> Tensor:
    """The first `width` numbers of each head turned by their position, in pairs j and j + width/2; the rest as it is.

        angle_j = position · base^(-2j/width)        j = 0 ... width/2 - 1

    The product of a turned query and a turned key depends on the difference of their positions alone.

    Args:
        x: queries or keys `(..., T, d)`.
        positions: `(T,)`, floating point; angles are computed in its dtype.
        width: even, at most d.

    Source: "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864; pairs as in GPT-NeoX.
    """
    j = torch.arange(width // 2, device=x.device, dtype=positions.dtype)
    angle = positions[:, None] * base ** (-2 * j / width)
    cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
    first, second, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)
