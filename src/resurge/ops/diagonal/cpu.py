"""numba kernels of the diagonal scan.

Arrays come flat, in rows of D numbers: one a step for real scans, two for complex ones, the real parts and then the
imaginary parts. The loops over a row run from 0 over slices of one axis, which is the form that LLVM turns into vector
instructions; from pairs side by side, or with offsets in the index, they came out scalar and three times slower
(docs/LOG.md). Coefficients are (1 or B, 1 or T, ...), stepped through by 0 or 1 rows.
"""

import numpy as np
import torch
from torch import Tensor

from resurge.jit import jit
from resurge.ops.threads import run

# How many float32 products are summed before they go to the float64 sum of a coefficient's gradient: a plain
# float32 sum over a million steps would lose half its digits.
_PARTIAL = 64


@jit
def _row(array, index, D, d0, d1):  # type: ignore[no-untyped-def]
    """Channels d0..d1 of row `index` of a flat array with rows of D numbers."""
    return array[index * D + d0 : index * D + d1]


@jit
def _move(source, target):  # type: ignore[no-untyped-def]
    """Add a row to another, wider one, and start it anew."""
    for d in range(source.size):
        target[d] += source[d]
        source[d] = 0


@jit
def _forward_real(a, a_rows, x, h0, cut, reverse, D, h, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    T = x.size // h0.size
    for b in range(b0, b1):
        carry = _row(h0, b, D, d0, d1).copy()
        for k in range(T):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                carry[:] = 0
            a_t = _row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            x_t, h_t = _row(x, b * T + t, D, d0, d1), _row(h, b * T + t, D, d0, d1)
            for d in range(carry.size):
                value = a_t[d] * carry[d] + x_t[d]
                carry[d] = value
                h_t[d] = value


@jit
def _forward_complex(a, a_rows, x, h0, cut, reverse, D, h, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    T = x.size // h0.size
    for b in range(b0, b1):
        re, im = _row(h0, 2 * b, D, d0, d1).copy(), _row(h0, 2 * b + 1, D, d0, d1).copy()
        for k in range(T):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                re[:] = 0
                im[:] = 0
            i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
            a_re, a_im = _row(a, i, D, d0, d1), _row(a, i + 1, D, d0, d1)
            x_re, x_im = _row(x, j, D, d0, d1), _row(x, j + 1, D, d0, d1)
            h_re, h_im = _row(h, j, D, d0, d1), _row(h, j + 1, D, d0, d1)
            for d in range(re.size):
                new_re = a_re[d] * re[d] - a_im[d] * im[d] + x_re[d]
                new_im = a_re[d] * im[d] + a_im[d] * re[d] + x_im[d]
                re[d] = new_re
                im[d] = new_im
                h_re[d] = new_re
                h_im[d] = new_im


@jit
def _backward_real(a, a_rows, h, h0, cut, reverse, D, dh, dh_last, da, da_sum, dx, dh0, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    """ĝ_t = dh_t + a_{t+1} ĝ_{t+1};  dx_t = ĝ_t;  da_t = ĝ_t h_{t-1};  dh0 = a_1 ĝ_1."""
    T, n = h.size // h0.size, d1 - d0
    constant = da_sum.size > 0
    total, zeros = np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    for b in range(b0, b1):
        carry = _row(dh_last, b, D, d0, d1).copy()
        for k in range(T - 1, -1, -1):
            t = T - 1 - k if reverse else k
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:  # the state before is taken as zero, and no gradient goes to it
                before = zeros
            elif k == 0:
                before = _row(h0, b, D, d0, d1)
            else:
                before = _row(h, b * T + (t + 1 if reverse else t - 1), D, d0, d1)
            a_t = _row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            dh_t, dx_t = _row(dh, b * T + t, D, d0, d1), _row(dx, b * T + t, D, d0, d1)
            if constant:
                for d in range(n):
                    g = dh_t[d] + carry[d]
                    dx_t[d] = g
                    total[d] += g * before[d]
                    carry[d] = a_t[d] * g
                if k % _PARTIAL == 0:
                    _move(total, _row(da_sum, b, D, d0, d1))
            else:
                da_t = _row(da, b * T + t, D, d0, d1)
                for d in range(n):
                    g = dh_t[d] + carry[d]
                    dx_t[d] = g
                    da_t[d] = g * before[d]
                    carry[d] = a_t[d] * g
            if is_cut:
                carry[:] = 0
        _row(dh0, b, D, d0, d1)[:] = carry


@jit
def _backward_complex(a, a_rows, h, h0, cut, reverse, D, dh, dh_last, da, da_sum, dx, dh0, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    """As `_backward_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    T, n = h.size // h0.size, d1 - d0
    constant = da_sum.size > 0
    total_re, total_im, zeros = np.zeros(n, h.dtype), np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    for b in range(b0, b1):
        re, im = _row(dh_last, 2 * b, D, d0, d1).copy(), _row(dh_last, 2 * b + 1, D, d0, d1).copy()
        for k in range(T - 1, -1, -1):
            t = T - 1 - k if reverse else k
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:
                h_re, h_im = zeros, zeros
            elif k == 0:
                h_re, h_im = _row(h0, 2 * b, D, d0, d1), _row(h0, 2 * b + 1, D, d0, d1)
            else:
                before = 2 * (b * T + (t + 1 if reverse else t - 1))
                h_re, h_im = _row(h, before, D, d0, d1), _row(h, before + 1, D, d0, d1)
            i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
            a_re, a_im = _row(a, i, D, d0, d1), _row(a, i + 1, D, d0, d1)
            dh_re, dh_im = _row(dh, j, D, d0, d1), _row(dh, j + 1, D, d0, d1)
            dx_re, dx_im = _row(dx, j, D, d0, d1), _row(dx, j + 1, D, d0, d1)
            if constant:
                for d in range(n):
                    g_re, g_im = dh_re[d] + re[d], dh_im[d] + im[d]
                    dx_re[d] = g_re
                    dx_im[d] = g_im
                    re[d] = a_re[d] * g_re + a_im[d] * g_im
                    im[d] = a_re[d] * g_im - a_im[d] * g_re
                for d in range(n):  # a loop of its own: with too many arrays in one, LLVM gives up
                    total_re[d] += dx_re[d] * h_re[d] + dx_im[d] * h_im[d]
                    total_im[d] += dx_im[d] * h_re[d] - dx_re[d] * h_im[d]
                if k % _PARTIAL == 0:
                    _move(total_re, _row(da_sum, 2 * b, D, d0, d1))
                    _move(total_im, _row(da_sum, 2 * b + 1, D, d0, d1))
            else:
                da_re, da_im = _row(da, j, D, d0, d1), _row(da, j + 1, D, d0, d1)
                for d in range(n):
                    g_re, g_im = dh_re[d] + re[d], dh_im[d] + im[d]
                    dx_re[d] = g_re
                    dx_im[d] = g_im
                    re[d] = a_re[d] * g_re + a_im[d] * g_im
                    im[d] = a_re[d] * g_im - a_im[d] * g_re
                for d in range(n):
                    da_re[d] = dx_re[d] * h_re[d] + dx_im[d] * h_im[d]
                    da_im[d] = dx_im[d] * h_re[d] - dx_re[d] * h_im[d]
            if is_cut:
                re[:] = 0
                im[:] = 0
        _row(dh0, 2 * b, D, d0, d1)[:] = re
        _row(dh0, 2 * b + 1, D, d0, d1)[:] = im


def _flat(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().view(-1).numpy()
    return array


def _a_rows(a: Tensor) -> tuple[int, int]:
    """How many rows of `a` (1 or B, 1 or T, ...) lie between two rows of the batch, and between two steps."""
    return (a.shape[1] if a.shape[0] > 1 else 0), (1 if a.shape[1] > 1 else 0)


def _cut(cut: Tensor | None) -> np.ndarray:
    return np.empty(0, np.bool_) if cut is None else _flat(cut)


def forward(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """All states h, shaped as x: (B, T, D), or (B, T, 2, D) for real and imaginary parts; and the last one."""
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    B, D = x.shape[0], x.shape[-1]
    kernel = _forward_complex if x.dim() == 4 else _forward_real
    arguments = (_flat(a), _a_rows(a), _flat(x), _flat(h0), _cut(cut), reverse, D, _flat(h))
    run(kernel, arguments, B, D, x.numel())
    return h, h[:, 0 if reverse else -1].clone()


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
