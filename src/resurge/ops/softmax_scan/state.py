"""The state of the softmax scan, apart and in one row."""

from typing import NamedTuple

import torch
from torch import Tensor

# The exponent before the first step: below all logits, and finite, so that differences of exponents are never NaN.
EMPTY = -1e38

# A decayed exponent m - w is rounded, which over many steps would be another decay (4e-4 w where m is 4 and w 1e-3). So
# the error goes back into the sums; up to this size, which logits of 1e4 have, for sums never to vanish under larger.
LARGEST_ERROR = 1e-3

# The states before the steps 0, 8, ... and after the last are kept for the backward pass.
EVERY = 8


class SoftmaxState(NamedTuple):
    """The weighted sum of the values so far is e^m num, and the sum of the weights e^m den."""

    m: Tensor  # (B, H), the largest logit so far, decayed as its weight is
    num: Tensor  # (B, D)
    den: Tensor  # (B, H)


def empty(batch_size: int, heads: int, width: int, *, device: torch.device, dtype: torch.dtype) -> SoftmaxState:
    """The state before the first step."""
    nothing = torch.zeros(batch_size, heads, device=device, dtype=dtype)
    return SoftmaxState(nothing + EMPTY, torch.zeros(batch_size, width, device=device, dtype=dtype), nothing)


def pack(state: SoftmaxState) -> Tensor:
    """[num, m, den] as one (..., D + 2 H)."""
    return torch.cat([state.num, state.m, state.den], -1)


def unpack(packed: Tensor, heads: int) -> SoftmaxState:
    """What `pack` put together."""
    num, m, den = packed.split([packed.shape[-1] - 2 * heads, heads, heads], -1)
    return SoftmaxState(m, num, den)


def beyond_a_shift(gradient: Tensor, packed: Tensor, heads: int, sign: int) -> Tensor:
    """The gradient of a packed state with that of m counted from, -1, or counted on, +1, what a shift of m alone gives.

    With e^m num and e^m den held, m + ε takes ε num from num and ε den from den, and the gradient of that is
    num · dnum + den dden. The backward pass carries the rest apart, which a loss of later outputs does not have.
    """
    dm, dnum, dden = unpack(gradient, heads)
    _, num, den = unpack(packed, heads)
    shift = (dnum * num).unflatten(-1, (heads, -1)).sum(-1) + dden * den
    return pack(SoftmaxState(dm + sign * shift, dnum, dden))
