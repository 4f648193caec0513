"""numba kernels of the scan in both directions: arrays as in `resurge.ops.diagonal.cpu`, and its kernels forward.

A thread takes one row of the batch at a time, ahead and at once back, while the cache holds what both of them read: x
forward, the sums da and dx backward. Where the batch is too small to keep the threads busy, the two directions are
scanned one after the other, each in pieces.
"""

import numpy as np
import torch
from torch import Tensor

from resurge.jit import jit, lean
from resurge.ops.diagonal import cpu as one_way
from resurge.ops.diagonal.cpu import _a_rows, _cut, _flat, _pieces
from resurge.ops.diagonal.cpu_kernels import _AHEAD, _PARTIAL, _fetch_ahead, _move, forward_complex, forward_real
from resurge.ops.diagonal.cpu_pieces import apart, row, smallest_normal
from resurge.ops.diagonal.form import PLAIN
from resurge.ops.threads import run


@lean
def _both_real(a, a_rows, x, carry, carry_back, cut, cut_back, T, D, ahead, back, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    for b in range(b0, b1):
        forward_real(a, a_rows, x, carry, cut, False, PLAIN, T, T, 1, D, x, ahead, b, b + 1, d0, d1)
        forward_real(a, a_rows, x, carry_back, cut_back, True, PLAIN, T, T, 1, D, x, back, b, b + 1, d0, d1)


@lean
def _both_complex(a, a_rows, x, carry, carry_back, cut, cut_back, T, D, ahead, back, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    for b in range(b0, b1):
        forward_complex(a, a_rows, x, carry, cut, False, PLAIN, T, T, 1, D, x, ahead, b, b + 1, d0, d1)
        forward_complex(a, a_rows, x, carry_back, cut_back, True, PLAIN, T, T, 1, D, x, back, b, b + 1, d0, d1)


@jit
def _add_real(a, a_rows, h, cut, reverse, T, D, dh, da, da_sum, dx, b, d0, d1):  # type: ignore[no-untyped-def]
    """The gradients of one direction of one row, ĝ_t = dh_t + a_{t+1} ĝ_{t+1} ahead: dx_t += ĝ_t, da_t += ĝ_t h_{t-1}.

    The way ahead, which comes first, finds nothing to add to.
    """
    tiny, n, constant = smallest_normal(h), d1 - d0, da_sum.size > 0
    carry, total, zeros = np.zeros(n, h.dtype), np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    for k in range(T - 1, -1, -1):
        t = T - 1 - k if reverse else k
        if constant and k >= _AHEAD:
            _fetch_ahead(dh, h, dx, b * T + (t + _AHEAD if reverse else t - _AHEAD), D, d0, d1)
        is_cut = k == 0 or (cut.size > 0 and cut[b * T + t])
        before = zeros if is_cut else row(h, b * T + (t + 1 if reverse else t - 1), D, d0, d1)
        a_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
        dh_t, dx_t = row(dh, b * T + t, D, d0, d1), row(dx, b * T + t, D, d0, d1)
        if not reverse:
            dx_t[:] = 0
        if constant:
            for d in range(n):
                g = dh_t[d] + carry[d]
                dx_t[d] += g
                total[d] += g * before[d]
                value = a_t[d] * g
                carry[d] = 0 if abs(value) < tiny else value
            if k % _PARTIAL == 0:
                _move(total, row(da_sum, b, D, d0, d1))
        else:
            da_t = row(da, b * T + t, D, d0, d1)
            if not reverse:
                da_t[:] = 0
            for d in range(n):
                g = dh_t[d] + carry[d]
                dx_t[d] += g
                da_t[d] += g * before[d]
                value = a_t[d] * g
                carry[d] = 0 if abs(value) < tiny else value
        if is_cut:
            carry[:] = 0


@jit
def _add_complex(a, a_rows, h, cut, reverse, T, D, dh, da, da_sum, dx, b, d0, d1):  # type: ignore[no-untyped-def]
    """As `_add_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    tiny, n, constant = smallest_normal(h), d1 - d0, da_sum.size > 0
    re, im, zeros = np.zeros(n, h.dtype), np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    total_re, total_im = np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    g_re, g_im = np.empty(n, h.dtype), np.empty(n, h.dtype)
    for k in range(T - 1, -1, -1):
        t = T - 1 - k if reverse else k
        i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
        if constant and k >= _AHEAD:
            later = j + 2 * _AHEAD if reverse else j - 2 * _AHEAD
            _fetch_ahead(dh, h, dx, later, D, d0, d1)
            _fetch_ahead(dh, h, dx, later + 1, D, d0, d1)
        is_cut = k == 0 or (cut.size > 0 and cut[b * T + t])
        if is_cut:
            h_re, h_im = zeros, zeros
        else:
            before = j + 2 if reverse else j - 2
            h_re, h_im = row(h, before, D, d0, d1), row(h, before + 1, D, d0, d1)
        a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
        dh_re, dh_im = row(dh, j, D, d0, d1), row(dh, j + 1, D, d0, d1)
        dx_re, dx_im = row(dx, j, D, d0, d1), row(dx, j + 1, D, d0, d1)
        for d in range(n):
            g_re[d] = dh_re[d] + re[d]
            g_im[d] = dh_im[d] + im[d]
            new_re = a_re[d] * g_re[d] + a_im[d] * g_im[d]
            new_im = a_re[d] * g_im[d] - a_im[d] * g_re[d]
            re[d] = 0 if abs(new_re) < tiny else new_re
            im[d] = 0 if abs(new_im) < tiny else new_im
        # loops of their own: with too many arrays in one, LLVM gives up
        if reverse:
            for d in range(n):
                dx_re[d] += g_re[d]
                dx_im[d] += g_im[d]
        else:
            for d in range(n):
                dx_re[d] = g_re[d]
                dx_im[d] = g_im[d]
        if constant:
            for d in range(n):
                total_re[d] += g_re[d] * h_re[d] + g_im[d] * h_im[d]
                total_im[d] += g_im[d] * h_re[d] - g_re[d] * h_im[d]
            if k % _PARTIAL == 0:
                _move(total_re, row(da_sum, 2 * b, D, d0, d1))
                _move(total_im, row(da_sum, 2 * b + 1, D, d0, d1))
        else:
            da_re, da_im = row(da, j, D, d0, d1), row(da, j + 1, D, d0, d1)
            if not reverse:
                da_re[:] = 0
                da_im[:] = 0
            for d in range(n):
                da_re[d] += g_re[d] * h_re[d] + g_im[d] * h_im[d]
                da_im[d] += g_im[d] * h_re[d] - g_re[d] * h_im[d]
        if is_cut:
            re[:] = 0
            im[:] = 0


@jit
def _backward_real(  # type: ignore[no-untyped-def]
    a, a_rows, ahead, back, cut, cut_back, T, D, d_ahead, d_back, da, da_sum, dx, b0, b1, d0, d1
):
    for b in range(b0, b1):
        _add_real(a, a_rows, ahead, cut, False, T, D, d_ahead, da, da_sum, dx, b, d0, d1)
        _add_real(a, a_rows, back, cut_back, True, T, D, d_back, da, da_sum, dx, b, d0, d1)


@jit
def _backward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, ahead, back, cut, cut_back, T, D, d_ahead, d_back, da, da_sum, dx, b0, b1, d0, d1
):
    for b in range(b0, b1):
        _add_complex(a, a_rows, ahead, cut, False, T, D, d_ahead, da, da_sum, dx, b, d0, d1)
        _add_complex(a, a_rows, back, cut_back, True, T, D, d_back, da, da_sum, dx, b, d0, d1)


def forward(a: Tensor, x: Tensor, cut: Tensor | None, cut_back: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states of the way ahead and of the way back, each shaped as x: (B, T, D) or (B, T, 2, D).

    The cuts are those of `resurge.ops.diagonal.cpu.forward`: of the link to the step before along each way.
    """
    x = x.contiguous()
    B, T, D = x.shape[0], x.shape[1], x.shape[-1]
    start = torch.zeros_like(x[:, 0])
    if _pieces(B, T, D, PLAIN)[1] > 1:
        ahead, _ = one_way.forward(a, x, start, cut, False, PLAIN)
        back, _ = one_way.forward(a, x, start, cut_back, True, PLAIN)
        return ahead, back
    ahead, back = torch.empty_like(x), torch.empty_like(x)
    kernel = _both_complex if x.dim() == 4 else _both_real
    carries = (_flat(x.new_zeros(*start.shape[:-1], apart(D))) for _ in range(2))
    arguments = (_flat(a), _a_rows(a), _flat(x), *carries, _cut(cut), _cut(cut_back), T, D, _flat(ahead), _flat(back))
    run(kernel, arguments, B, D, 2 * x.numel())
    return ahead, back


def backward(
    a: Tensor,
    ahead: Tensor,
    back: Tensor,
    cut: Tensor | None,
    cut_back: Tensor | None,
    d_ahead: Tensor,
    d_back: Tensor,
) -> tuple[Tensor, Tensor]:
    """(da shaped as a, dx shaped as the states) from the gradients of both."""
    B, T, D = ahead.shape[0], ahead.shape[1], ahead.shape[-1]
    if _pieces(B, T, D, PLAIN)[1] > 1:
        start = torch.zeros_like(ahead[:, 0])
        da, dx, _ = one_way.backward(a, ahead, ahead, start, cut, False, PLAIN, d_ahead, start)
        da_back, dx_back, _ = one_way.backward(a, back, back, start, cut_back, True, PLAIN, d_back, start)
        return da.add_(da_back), dx.add_(dx_back)
    constant = a.shape[1] == 1
    dx = torch.empty_like(ahead, memory_format=torch.contiguous_format)
    da = ahead.new_empty(0 if constant else ahead.shape)
    da_sum = torch.zeros((B, 1, *ahead.shape[2:]) if constant else (0,), dtype=torch.float64)
    kernel = _backward_complex if ahead.dim() == 4 else _backward_real
    arguments = (_flat(a), _a_rows(a), _flat(ahead), _flat(back), _cut(cut), _cut(cut_back), T, D)
    gradients = (_flat(d_ahead), _flat(d_back), _flat(da), _flat(da_sum), _flat(dx))
    run(kernel, arguments + gradients, B, D, 2 * dx.numel())
    if constant:
        da = da_sum
    if a.shape[0] == 1 and B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx
