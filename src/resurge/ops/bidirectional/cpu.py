"""numba kernels of the scan in both directions: arrays as in `resurge.ops.diagonal.cpu`, and its kernels forward.

A thread takes one row of the batch at a time, ahead and at once back, while the cache holds what both of them read: x
forward, the sums da and dx backward. Where the batch is too small to keep the threads busy, the two directions are
scanned one after the other, each in pieces.
"""

import torch
from torch import Tensor

from resurge.jit import lean
from resurge.ops.diagonal import cpu as one_way
from resurge.ops.diagonal.cpu import in_pieces, steps_between
from resurge.ops.diagonal.cpu_kernels import (
    PARTIAL,
    forward_complex,
    forward_real,
    move,
    step_back,
)
from resurge.ops.diagonal.cpu_pieces import apart, row, whole
from resurge.ops.diagonal.form import PLAIN
from resurge.ops.rows import stepwise
from resurge.ops.threads import flat, flushing, run


@lean
def _both_real(a, a_rows, x, carry, carry_back, cut, cut_back, plan, ahead, back, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    for b in range(b0, b1):
        forward_real(a, a_rows, x, carry, cut, False, PLAIN, plan, x, ahead, b, b + 1, d0, d1)
        forward_real(a, a_rows, x, carry_back, cut_back, True, PLAIN, plan, x, back, b, b + 1, d0, d1)


@lean
def _both_complex(a, a_rows, x, carry, carry_back, cut, cut_back, plan, ahead, back, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    for b in range(b0, b1):
        forward_complex(a, a_rows, x, carry, cut, False, PLAIN, plan, x, ahead, b, b + 1, d0, d1)
        forward_complex(a, a_rows, x, carry_back, cut_back, True, PLAIN, plan, x, back, b, b + 1, d0, d1)


@stepwise()
def _add(carry, dh, a, before, da, dx):  # type: ignore[no-untyped-def]
    g = dh + carry
    return a * g, dx + g, da + g * before


@stepwise()
def _add_conjugate(re, im, dh_re, dh_im, a_re, a_im, h_re, h_im, da_re, da_im, dx_re, dx_im):  # type: ignore[no-untyped-def]
    g_re, g_im, re, im = step_back(dh_re, dh_im, re, im, a_re, a_im)
    return re, im, dx_re + g_re, dx_im + g_im, da_re + g_re * h_re + g_im * h_im, da_im + g_im * h_re - g_re * h_im


@lean
def _add_real(a, a_rows, h, cut, reverse, T, W, D, work, dh, da, da_sum, dx, b, d0, d1):  # type: ignore[no-untyped-def]
    """The gradients of one direction of one row, ĝ_t = dh_t + a_{t+1} ĝ_{t+1} ahead: dx_t += ĝ_t, da_t += ĝ_t h_{t-1}.

    The way ahead, which comes first, finds nothing to add to.
    """
    constant, way = da_sum.size > 0, 1 if reverse else -1
    carry, total = row(work, 3 * b, W, d0, d1), row(work, 3 * b + 1, W, d0, d1)
    zeros = row(work, 3 * b + 2, W, d0, d1)
    carry[:] = 0
    for k in range(T - 1, -1, -1):
        t = T - 1 - k if reverse else k
        is_cut = k == 0 or (cut.size > 0 and cut[b * T + t])
        before = zeros if is_cut else row(h, b * T + (t + 1 if reverse else t - 1), D, d0, d1)
        a_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
        dh_t, dx_t = row(dh, b * T + t, D, d0, d1), row(dx, b * T + t, D, d0, d1)
        if not reverse:
            dx_t[:] = 0
        if constant:
            _add((carry,), (dx_t, total), (dh_t, a_t, before, total, dx_t), (way,), (), 1, False)
            if k % PARTIAL == 0:
                move(total, row(da_sum, b, D, d0, d1))
        else:
            da_t = row(da, b * T + t, D, d0, d1)
            if not reverse:
                da_t[:] = 0
            _add((carry,), (dx_t, da_t), (dh_t, a_t, before, da_t, dx_t), (way,), (), 1, False)
        if is_cut:
            carry[:] = 0


@lean
def _add_complex(a, a_rows, h, cut, reverse, T, W, D, work, dh, da, da_sum, dx, b, d0, d1):  # type: ignore[no-untyped-def]
    """As `_add_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    constant, way = da_sum.size > 0, 1 if reverse else -1
    re, im = row(work, 5 * b, W, d0, d1), row(work, 5 * b + 1, W, d0, d1)
    total_re, total_im = row(work, 5 * b + 2, W, d0, d1), row(work, 5 * b + 3, W, d0, d1)
    zeros = row(work, 5 * b + 4, W, d0, d1)
    re[:] = 0
    im[:] = 0
    for k in range(T - 1, -1, -1):
        t = T - 1 - k if reverse else k
        i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
        is_cut = k == 0 or (cut.size > 0 and cut[b * T + t])
        if is_cut:
            h_re, h_im = zeros, zeros
        else:
            before = j + 2 if reverse else j - 2
            h_re, h_im = row(h, before, D, d0, d1), row(h, before + 1, D, d0, d1)
        dx_re, dx_im = row(dx, j, D, d0, d1), row(dx, j + 1, D, d0, d1)
        if not reverse:
            dx_re[:] = 0
            dx_im[:] = 0
        if constant:
            da_re, da_im = total_re, total_im
        else:
            da_re, da_im = row(da, j, D, d0, d1), row(da, j + 1, D, d0, d1)
            if not reverse:
                da_re[:] = 0
                da_im[:] = 0
        a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
        dh_re, dh_im = row(dh, j, D, d0, d1), row(dh, j + 1, D, d0, d1)
        given = (dh_re, dh_im, a_re, a_im, h_re, h_im, da_re, da_im, dx_re, dx_im)
        _add_conjugate((re, im), (dx_re, dx_im, da_re, da_im), given, (way,), (), 1, False)
        if constant and k % PARTIAL == 0:
            move(total_re, row(da_sum, 2 * b, D, d0, d1))
            move(total_im, row(da_sum, 2 * b + 1, D, d0, d1))
        if is_cut:
            re[:] = 0
            im[:] = 0


@lean
def _backward_real(  # type: ignore[no-untyped-def]
    a, a_rows, ahead, back, cut, cut_back, T, W, D, work, d_ahead, d_back, da, da_sum, dx, b0, b1, d0, d1
):
    for b in range(b0, b1):
        _add_real(a, a_rows, ahead, cut, False, T, W, D, work, d_ahead, da, da_sum, dx, b, d0, d1)
        _add_real(a, a_rows, back, cut_back, True, T, W, D, work, d_back, da, da_sum, dx, b, d0, d1)


@lean
def _backward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, ahead, back, cut, cut_back, T, W, D, work, d_ahead, d_back, da, da_sum, dx, b0, b1, d0, d1
):
    for b in range(b0, b1):
        _add_complex(a, a_rows, ahead, cut, False, T, W, D, work, d_ahead, da, da_sum, dx, b, d0, d1)
        _add_complex(a, a_rows, back, cut_back, True, T, W, D, work, d_back, da, da_sum, dx, b, d0, d1)


def forward(a: Tensor, x: Tensor, cut: Tensor | None, cut_back: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states of the way ahead and of the way back, each shaped as x: (B, T, D) or (B, T, 2, D).

    The cuts are those of `resurge.ops.diagonal.cpu.forward`: of the link to the step before along each way.
    """
    x = x.contiguous()
    B, T, D = x.shape[0], x.shape[1], x.shape[-1]
    start = torch.zeros_like(x[:, 0])
    if in_pieces(B, T, PLAIN):
        ahead, _ = one_way.forward(a, x, start, cut, False, PLAIN)
        back, _ = one_way.forward(a, x, start, cut_back, True, PLAIN)
        return ahead, back
    ahead, back = torch.empty_like(x), torch.empty_like(x)
    kernel = _both_complex if x.dim() == 4 else _both_real
    W = apart(D, B)
    carries = (flat(x.new_zeros(*start.shape[:-1], W)) for _ in range(2))
    inputs = (flat(a), steps_between(a), flat(x), *carries, flat(cut), flat(cut_back))
    arguments = (*inputs, whole(T, D, W), flat(ahead), flat(back))
    run(flushing(kernel), arguments, B, D, 2 * x.numel())
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
    if in_pieces(B, T, PLAIN):
        start = torch.zeros_like(ahead[:, 0])
        da, dx, _ = one_way.backward(a, ahead, ahead, start, cut, False, PLAIN, d_ahead, start)
        da_back, dx_back, _ = one_way.backward(a, back, back, start, cut_back, True, PLAIN, d_back, start)
        return da.add_(da_back), dx.add_(dx_back)
    constant = a.shape[1] == 1
    dx = torch.empty_like(ahead, memory_format=torch.contiguous_format)
    da = ahead.new_empty(0 if constant else ahead.shape)
    da_sum = torch.zeros((B, 1, *ahead.shape[2:]) if constant else (0,), dtype=torch.float64)
    kernel = _backward_complex if ahead.dim() == 4 else _backward_real
    W = apart(D, B)
    work = dx.new_zeros(B, 5, W)
    arguments = (flat(a), steps_between(a), flat(ahead), flat(back), flat(cut), flat(cut_back), T, W, D, flat(work))
    gradients = (flat(d_ahead), flat(d_back), flat(da), flat(da_sum), flat(dx))
    run(flushing(kernel), arguments + gradients, B, D, 2 * dx.numel())
    if constant:
        da = da_sum
    if a.shape[0] == 1 and B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx
