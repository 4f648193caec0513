"""numba kernels of the diagonal scan.

Arrays come flat, one row of W numbers a step: W = D for real scans, W = 2 D for complex ones, the real parts first
and the imaginary parts after them. LLVM turns the loops over a row into vector instructions only in this form: from
pairs side by side, or from slices of arrays of several axes, the same loops came out scalar and three times slower
(docs/LOG.md). Coefficients are (1 or B, 1 or T, W), stepped through by 0 or 1 rows.
"""

from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from resurge.ops.threads import run

# How many float32 products are summed before they go to the float64 sum of a coefficient's gradient: a plain
# float32 sum over a million steps would lose half its digits.
_PARTIAL = 64


def _jit(function: Any) -> Any:
    jit = partial(numba.njit, nogil=True, fastmath={"contract"}, error_model="numpy")
    try:
        return jit(cache=True)(function)
    except RuntimeError:  # no folder that a cache could be written to: compile anew in each process
        return jit()(function)


@_jit
def _forward_real(a, a_rows, x, h0, cut, reverse, D, h, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    T, n = x.size // h0.size, d1 - d0
    carry = np.empty(n, x.dtype)
    for b in range(b0, b1):
        for d in range(n):
            carry[d] = h0[b * D + d0 + d]
        for k in range(T):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                carry[:] = 0
            row, a_row = (b * T + t) * D + d0, (b * a_rows[0] + t * a_rows[1]) * D + d0
            for d in range(n):
                value = a[a_row + d] * carry[d] + x[row + d]
                carry[d] = value
                h[row + d] = value


@_jit
def _forward_complex(a, a_rows, x, h0, cut, reverse, D, h, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    T, n = x.size // h0.size, d1 - d0
    re, im = np.empty(n, x.dtype), np.empty(n, x.dtype)
    for b in range(b0, b1):
        for d in range(n):
            re[d] = h0[2 * b * D + d0 + d]
            im[d] = h0[2 * b * D + D + d0 + d]
        for k in range(T):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                re[:] = 0
                im[:] = 0
            row, a_row = 2 * (b * T + t) * D + d0, 2 * (b * a_rows[0] + t * a_rows[1]) * D + d0
            for d in range(n):
                a_re, a_im = a[a_row + d], a[a_row + D + d]
                h_re = a_re * re[d] - a_im * im[d] + x[row + d]
                h_im = a_re * im[d] + a_im * re[d] + x[row + D + d]
                re[d] = h_re
                im[d] = h_im
                h[row + d] = h_re
                h[row + D + d] = h_im


@_jit
def _backward_real(a, a_rows, h, h0, cut, reverse, D, dh, dh_last, da, da_sum, dx, dh0, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    """ĝ_t = dh_t + a_{t+1} ĝ_{t+1};  dx_t = ĝ_t;  da_t = ĝ_t h_{t-1};  dh0 = a_1 ĝ_1."""
    T, n = h.size // h0.size, d1 - d0
    constant = da_sum.size > 0
    carry, partial, zeros = np.empty(n, h.dtype), np.zeros(n, h.dtype), np.zeros(D, h.dtype)
    for b in range(b0, b1):
        for d in range(n):
            carry[d] = dh_last[b * D + d0 + d]
        for k in range(T - 1, -1, -1):
            t = T - 1 - k if reverse else k
            row, a_row = (b * T + t) * D + d0, (b * a_rows[0] + t * a_rows[1]) * D + d0
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:  # the state before is taken as zero, and no gradient goes to it
                before, at = zeros, d0
            elif k == 0:
                before, at = h0, b * D + d0
            else:
                before, at = h, (row + D if reverse else row - D)
            if constant:
                for d in range(n):
                    g = dh[row + d] + carry[d]
                    dx[row + d] = g
                    partial[d] += g * before[at + d]
                    carry[d] = a[a_row + d] * g
                if k % _PARTIAL == 0:
                    for d in range(n):
                        da_sum[b * D + d0 + d] += partial[d]
                        partial[d] = 0
            else:
                for d in range(n):
                    g = dh[row + d] + carry[d]
                    dx[row + d] = g
                    da[row + d] = g * before[at + d]
                    carry[d] = a[a_row + d] * g
            if is_cut:
                carry[:] = 0
        for d in range(n):
            dh0[b * D + d0 + d] = carry[d]


@_jit
def _backward_complex(a, a_rows, h, h0, cut, reverse, D, dh, dh_last, da, da_sum, dx, dh0, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    """As `_backward_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    T, n = h.size // h0.size, d1 - d0
    constant = da_sum.size > 0
    re, im, zeros = np.empty(n, h.dtype), np.empty(n, h.dtype), np.zeros(2 * D, h.dtype)
    partial_re, partial_im = np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    for b in range(b0, b1):
        for d in range(n):
            re[d] = dh_last[2 * b * D + d0 + d]
            im[d] = dh_last[2 * b * D + D + d0 + d]
        for k in range(T - 1, -1, -1):
            t = T - 1 - k if reverse else k
            row, a_row = 2 * (b * T + t) * D + d0, 2 * (b * a_rows[0] + t * a_rows[1]) * D + d0
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:
                before, at = zeros, d0
            elif k == 0:
                before, at = h0, 2 * b * D + d0
            else:
                before, at = h, (row + 2 * D if reverse else row - 2 * D)
            if constant:
                for d in range(n):
                    g_re, g_im = dh[row + d] + re[d], dh[row + D + d] + im[d]
                    dx[row + d] = g_re
                    dx[row + D + d] = g_im
                    h_re, h_im = before[at + d], before[at + D + d]
                    partial_re[d] += g_re * h_re + g_im * h_im
                    partial_im[d] += g_im * h_re - g_re * h_im
                    a_re, a_im = a[a_row + d], a[a_row + D + d]
                    re[d] = a_re * g_re + a_im * g_im
                    im[d] = a_re * g_im - a_im * g_re
                if k % _PARTIAL == 0:
                    for d in range(n):
                        da_sum[2 * b * D + d0 + d] += partial_re[d]
                        da_sum[2 * b * D + D + d0 + d] += partial_im[d]
                        partial_re[d] = 0
                        partial_im[d] = 0
            else:
                for d in range(n):
                    g_re, g_im = dh[row + d] + re[d], dh[row + D + d] + im[d]
                    dx[row + d] = g_re
                    dx[row + D + d] = g_im
                    h_re, h_im = before[at + d], before[at + D + d]
                    da[row + d] = g_re * h_re + g_im * h_im
                    da[row + D + d] = g_im * h_re - g_re * h_im
                    a_re, a_im = a[a_row + d], a[a_row + D + d]
                    re[d] = a_re * g_re + a_im * g_im
                    im[d] = a_re * g_im - a_im * g_re
            if is_cut:
                re[:] = 0
                im[:] = 0
        for d in range(n):
            dh0[2 * b * D + d0 + d] = re[d]
            dh0[2 * b * D + D + d0 + d] = im[d]


def _flat(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().view(-1).numpy()
    return array


def _a_rows(a: Tensor) -> tuple[int, int]:
    """How many rows of `a` (1 or B, 1 or T, ...) lie between two rows of the batch, and between two steps."""
    return (a.shape[1] if a.shape[0] > 1 else 0), (1 if a.shape[1] > 1 else 0)


def _cut(cut: Tensor | None) -> np.ndarray:
    return np.empty(0, np.bool_) if cut is None else _flat(cut)


def forward(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool) -> Tensor:
    """All states h, shaped as x: (B, T, D), or (B, T, 2, D) for real and imaginary parts."""
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    B, D = x.shape[0], x.shape[-1]
    kernel = _forward_complex if x.dim() == 4 else _forward_real
    arguments = (_flat(a), _a_rows(a), _flat(x), _flat(h0), _cut(cut), reverse, D, _flat(h))
    run(kernel, arguments, B, D, x.numel())
    return h


def backward(
    a: Tensor, h: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, dh: Tensor, dh_last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(da shaped as a, dx shaped as h, dh0 shaped as h0) from the gradients of all states and of the last."""
    B, D, constant = h.shape[0], h.shape[-1], a.shape[1] == 1
    dx = torch.empty_like(h, memory_format=torch.contiguous_format)
    dh0 = torch.empty_like(h0, memory_format=torch.contiguous_format)
    da = h.new_empty(0 if constant else h.shape)
    da_sum = torch.zeros(h0.shape if constant else (0,), dtype=torch.float64)
    kernel = _backward_complex if h.dim() == 4 else _backward_real
    arguments = (_flat(a), _a_rows(a), _flat(h), _flat(h0), _cut(cut), reverse, D)
    gradients = (_flat(dh), _flat(dh_last), _flat(da), _flat(da_sum), _flat(dx), _flat(dh0))
    run(kernel, arguments + gradients, B, D, h.numel())
    if constant:
        da = da_sum[:, None]
    if a.shape[0] == 1 and B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx, dh0
