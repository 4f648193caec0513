"""numba kernels of the sigmoid scan: rows of the batch in parallel, their steps one after the other.

Arrays come flat. Weights come in rows of what they multiply, so that a product is a sum of rows.
"""

import numpy as np
from torch import Tensor

from resurge.jit import jit
from resurge.ops.dense.cpu import add_product
from resurge.ops.elementary import sigmoid
from resurge.ops.threads import flat, run


@jit
def _forward(p, R, h0, cut, T, D, h, b0, b1, _0, _1):  # type: ignore[no-untyped-def]
    s = np.empty(D, p.dtype)
    for b in range(b0, b1):
        before = h0[b * D :][:D].copy()
        for i in range(b * T, (b + 1) * T):
            s[:] = p[i * D :][:D]
            if cut.size == 0 or not cut[i]:
                add_product(s, before, R)
            for d in range(D):
                before[d] = sigmoid(s[d])
            h[i * D :][:D] = before


@jit
def _backward(R, cut, T, D, h, dh, dp, dh0, b0, b1, _0, _1):  # type: ignore[no-untyped-def]
    one = h.dtype.type(1)
    for b in range(b0, b1):
        carry = dh0[b * D :][:D]  # from behind
        carry[:] = 0
        for i in range((b + 1) * T - 1, b * T - 1, -1):
            h_t, dh_t, dp_t = h[i * D :][:D], dh[i * D :][:D], dp[i * D :][:D]
            for d in range(D):
                dp_t[d] = (dh_t[d] + carry[d]) * h_t[d] * (one - h_t[d])
            carry[:] = 0
            if cut.size == 0 or not cut[i]:
                add_product(carry, dp_t, R)


def forward(p: Tensor, R: Tensor, h0: Tensor, cut: Tensor | None) -> Tensor:
    """All states, as `reference.scan`."""
    B, T, D = p.shape
    h = p.new_empty(B, T, D)
    run(_forward, (*(flat(v) for v in (p, R.T, h0, cut)), T, D, flat(h)), B, 1, p.numel() * D)
    return h


def backward(R: Tensor, cut: Tensor | None, h: Tensor, dh: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients to p and to the state before the first step."""
    B, T, D = h.shape
    dp, dh0 = h.new_empty(B, T, D), h.new_empty(B, D)
    run(_backward, (*(flat(v) for v in (R, cut)), T, D, *(flat(v) for v in (h, dh, dp, dh0))), B, 1, h.numel() * D)
    return dp, dh0
