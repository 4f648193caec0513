"""What the Triton kernels of recurrences with dense weights share: one program a row of the batch, of any width.

The state lies in memory, in the rows of the outputs, and is read back behind a barrier of the program's threads. A
product goes over tiles of BLOCK x BLOCK weights, which come from the caches at every step.
"""

import triton
import triton.language as tl


@triton.jit
def _row(b, t, T, D):
    """Where step t of row b starts in a (B, T, D) tensor; in 64 bits, as b is."""
    return (b * T + t) * D


@triton.jit
def _kept(cut, b, t, T, CUT: tl.constexpr):
    """Whether the state before step t enters it."""
    kept = t == t
    if CUT:
        kept = tl.load(cut + b * T + t) == 0
    return kept


@triton.jit
def _add_product(total, weights, v, o, D, TRANSPOSED: tl.constexpr, BLOCK: tl.constexpr):
    """total + (W v)_o for the rows o of W (D, D), or total + (Wᵀ v)_o for its columns."""
    for first in range(0, D, BLOCK):
        i = first + tl.arange(0, BLOCK)
        v_i = tl.load(v + i, i < D, 0.0)
        at = o[:, None] * D + i[None, :]
        if TRANSPOSED:
            at = i[None, :] * D + o[:, None]
        w = tl.load(weights + at, (o < D)[:, None] & (i < D)[None, :], 0.0)
        total += tl.sum(w * v_i[None, :], 1)
    return total


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """With g = 1 - e^(-2|x|) it is g / (2 - g); near 0 a series gives g, since 1 - e^y has no digits there."""
    y = -2 * tl.abs(x)
    series = 1 + y / 2 * (1 + y / 3 * (1 + y / 4 * (1 + y / 5 * (1 + y / 6 * (1 + y / 7 * (1 + y / 8 * (1 + y / 9)))))))
    g = tl.where(y > -0.1, -y * series, 1 - tl.exp(y))
    return tl.where(x > 0, g, -g) / (2 - g)
