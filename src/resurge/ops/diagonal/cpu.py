"""numba kernels of the diagonal scan.

Arrays come flat, in rows of D numbers: one a step for real scans, two for complex ones, the real parts and then the
imaginary parts. The loops over a row run from 0 over slices of one axis, which is the form that LLVM turns into vector
instructions; from pairs side by side, or with offsets in the index, they came out scalar and three times slower
(docs/LOG.md). Coefficients are (1 or B, 1 or T, ...), stepped through by 0 or 1 rows.

Steps are counted along the scan: step k is at t = k, or at T - 1 - k in reverse. Where the batch is too small to keep
the threads busy, each row of it is cut into pieces of `length` steps: a summary gives each piece's affine map of the
state, these carry the state across, and then all pieces are scanned at once.

A carried number below the smallest normal one is carried as 0: arithmetic with denormal numbers is a hundred times
slower, and every state that decays comes by there.
"""

import numpy as np
import torch
from torch import Tensor

from resurge.jit import jit
from resurge.ops.diagonal.cpu_pieces import (
    decays,
    plain,
    row,
    smallest_normal,
    summary_complex,
    summary_real,
    variances,
)
from resurge.ops.diagonal.form import NORMALIZED, PLAIN, cut_pieces
from resurge.ops.threads import run

# How many float32 products are summed before they go to the float64 sum of a coefficient's gradient: a plain
# float32 sum over a million steps would lose half its digits.
_PARTIAL = 64

# Fewer steps a piece are not worth a summary.
_SHORTEST = 2048

# The derivative of sqrt(v) is bounded by 1000, as in the published code of RG-LRU.
_LEAST = 2.5e-7


@jit
def _move(source, target):  # type: ignore[no-untyped-def]
    """Add a row to another, wider one, and start it anew."""
    for d in range(source.size):
        target[d] += source[d]
        source[d] = 0


@jit
def _forward_real(a, a_rows, x, starts, cut, reverse, form, T, length, pieces, D, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    tiny = smallest_normal(x)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry = row(starts, r, D, d0, d1).copy()
        for k in range(first, min(first + length, T)):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                carry[:] = 0
            a_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            x_t, h_t = row(x, b * T + t, D, d0, d1), row(h, b * T + t, D, d0, d1)
            for d in range(carry.size):
                value = a_t[d] * carry[d] + x_t[d]
                carry[d] = 0 if abs(value) < tiny else value
                h_t[d] = value


@jit
def _forward_log(a, a_rows, x, starts, cut, reverse, form, T, length, pieces, D, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    """As `_forward_real`, from log a. A kernel of its own: the plain one took four times as long on narrow rows."""
    tiny = smallest_normal(x)
    a_t, x_t = np.empty(d1 - d0, x.dtype), np.empty(d1 - d0, x.dtype)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry = row(starts, r, D, d0, d1).copy()
        for k in range(first, min(first + length, T)):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                carry[:] = 0
            log_a = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            plain(form, log_a, row(x, b * T + t, D, d0, d1), a_t, x_t)
            h_t = row(h, b * T + t, D, d0, d1)
            for d in range(carry.size):
                value = a_t[d] * carry[d] + x_t[d]
                carry[d] = 0 if abs(value) < tiny else value
                h_t[d] = value


@jit
def _forward_complex(a, a_rows, x, starts, cut, reverse, form, T, length, pieces, D, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    tiny = smallest_normal(x)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        re, im = row(starts, 2 * r, D, d0, d1).copy(), row(starts, 2 * r + 1, D, d0, d1).copy()
        for k in range(first, min(first + length, T)):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                re[:] = 0
                im[:] = 0
            i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
            a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
            x_re, x_im = row(x, j, D, d0, d1), row(x, j + 1, D, d0, d1)
            h_re, h_im = row(h, j, D, d0, d1), row(h, j + 1, D, d0, d1)
            for d in range(re.size):
                new_re = a_re[d] * re[d] - a_im[d] * im[d] + x_re[d]
                new_im = a_re[d] * im[d] + a_im[d] * re[d] + x_im[d]
                re[d] = 0 if abs(new_re) < tiny else new_re
                im[d] = 0 if abs(new_im) < tiny else new_im
                h_re[d] = new_re
                h_im[d] = new_im


@jit
def _backward_real(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, T, length, pieces, D, dh, carries, da, da_sum, dx, dh0, r0, r1, d0, d1
):
    """ĝ_t = dh_t + a_{t+1} ĝ_{t+1};  dx_t = ĝ_t;  da_t = ĝ_t h_{t-1};  dh0 = a_1 ĝ_1."""
    tiny = smallest_normal(h)
    n = d1 - d0
    constant = da_sum.size > 0
    total, zeros = np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry = row(carries, r, D, d0, d1).copy()
        for k in range(min(first + length, T) - 1, first - 1, -1):
            t = T - 1 - k if reverse else k
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:  # the state before is taken as zero, and no gradient goes to it
                before = zeros
            elif k == 0:
                before = row(h0, b, D, d0, d1)
            else:
                before = row(h, b * T + (t + 1 if reverse else t - 1), D, d0, d1)
            a_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            dh_t, dx_t = row(dh, b * T + t, D, d0, d1), row(dx, b * T + t, D, d0, d1)
            if constant:
                for d in range(n):
                    g = dh_t[d] + carry[d]
                    dx_t[d] = g
                    total[d] += g * before[d]
                    value = a_t[d] * g
                    carry[d] = 0 if abs(value) < tiny else value
                if k % _PARTIAL == 0 or k == first:
                    _move(total, row(da_sum, r, D, d0, d1))
            else:
                da_t = row(da, b * T + t, D, d0, d1)
                for d in range(n):
                    g = dh_t[d] + carry[d]
                    dx_t[d] = g
                    da_t[d] = g * before[d]
                    value = a_t[d] * g
                    carry[d] = 0 if abs(value) < tiny else value
            if is_cut:
                carry[:] = 0
        if first == 0:
            row(dh0, b, D, d0, d1)[:] = carry


@jit
def _backward_log(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, T, length, pieces, D, dh, carries, da, da_sum, dx, dh0, r0, r1, d0, d1
):
    """As `_backward_real`, from log a and to it: d log a = a da. Where x enters as s x with s = sqrt(1 - a²), also
    dx = s ĝ and d log a = a da - ĝ x a² / s."""
    tiny = smallest_normal(h)
    n = d1 - d0
    zeros, a_t, v = np.zeros(n, h.dtype), np.empty(n, h.dtype), np.empty(n, h.dtype)
    least = np.full(1, _LEAST, h.dtype)[0]
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry = row(carries, r, D, d0, d1).copy()
        for k in range(min(first + length, T) - 1, first - 1, -1):
            t = T - 1 - k if reverse else k
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:
                before = zeros
            elif k == 0:
                before = row(h0, b, D, d0, d1)
            else:
                before = row(h, b * T + (t + 1 if reverse else t - 1), D, d0, d1)
            log_a = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            decays(log_a, a_t)
            dh_t, dx_t, da_t = (
                row(dh, b * T + t, D, d0, d1),
                row(dx, b * T + t, D, d0, d1),
                row(da, b * T + t, D, d0, d1),
            )
            for d in range(n):
                g = dh_t[d] + carry[d]
                dx_t[d] = g
                value = a_t[d] * g
                carry[d] = 0 if abs(value) < tiny else value
                da_t[d] = carry[d] * before[d]
            if form == NORMALIZED:
                variances(log_a, v)
                x_t = row(x, b * T + t, D, d0, d1)
                for d in range(n):
                    da_t[d] -= dx_t[d] * x_t[d] * (a_t[d] * a_t[d] / np.sqrt(v[d] if v[d] > least else least))
                    dx_t[d] *= np.sqrt(v[d])
            if is_cut:
                carry[:] = 0
        if first == 0:
            row(dh0, b, D, d0, d1)[:] = carry


@jit
def _backward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, T, length, pieces, D, dh, carries, da, da_sum, dx, dh0, r0, r1, d0, d1
):
    """As `_backward_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    tiny = smallest_normal(h)
    n = d1 - d0
    constant = da_sum.size > 0
    total_re, total_im, zeros = np.zeros(n, h.dtype), np.zeros(n, h.dtype), np.zeros(n, h.dtype)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        re, im = row(carries, 2 * r, D, d0, d1).copy(), row(carries, 2 * r + 1, D, d0, d1).copy()
        for k in range(min(first + length, T) - 1, first - 1, -1):
            t = T - 1 - k if reverse else k
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:
                h_re, h_im = zeros, zeros
            elif k == 0:
                h_re, h_im = row(h0, 2 * b, D, d0, d1), row(h0, 2 * b + 1, D, d0, d1)
            else:
                before = 2 * (b * T + (t + 1 if reverse else t - 1))
                h_re, h_im = row(h, before, D, d0, d1), row(h, before + 1, D, d0, d1)
            i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
            a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
            dh_re, dh_im = row(dh, j, D, d0, d1), row(dh, j + 1, D, d0, d1)
            dx_re, dx_im = row(dx, j, D, d0, d1), row(dx, j + 1, D, d0, d1)
            for d in range(n):
                g_re, g_im = dh_re[d] + re[d], dh_im[d] + im[d]
                dx_re[d] = g_re
                dx_im[d] = g_im
                new_re = a_re[d] * g_re + a_im[d] * g_im
                new_im = a_re[d] * g_im - a_im[d] * g_re
                re[d] = 0 if abs(new_re) < tiny else new_re
                im[d] = 0 if abs(new_im) < tiny else new_im
            # loops of their own: with too many arrays in one, LLVM gives up
            if constant:
                for d in range(n):
                    total_re[d] += dx_re[d] * h_re[d] + dx_im[d] * h_im[d]
                    total_im[d] += dx_im[d] * h_re[d] - dx_re[d] * h_im[d]
                if k % _PARTIAL == 0 or k == first:
                    _move(total_re, row(da_sum, 2 * r, D, d0, d1))
                    _move(total_im, row(da_sum, 2 * r + 1, D, d0, d1))
            else:
                da_re, da_im = row(da, j, D, d0, d1), row(da, j + 1, D, d0, d1)
                for d in range(n):
                    da_re[d] = dx_re[d] * h_re[d] + dx_im[d] * h_im[d]
                    da_im[d] = dx_im[d] * h_re[d] - dx_re[d] * h_im[d]
            if is_cut:
                re[:] = 0
                im[:] = 0
        if first == 0:
            row(dh0, 2 * b, D, d0, d1)[:] = re
            row(dh0, 2 * b + 1, D, d0, d1)[:] = im


def _flat(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().view(-1).numpy()
    return array


def _a_rows(a: Tensor) -> tuple[int, int]:
    """How many rows of `a` (1 or B, 1 or T, ...) lie between two rows of the batch, and between two steps."""
    return (a.shape[1] if a.shape[0] > 1 else 0), (1 if a.shape[1] > 1 else 0)


def _cut(cut: Tensor | None) -> np.ndarray:
    return np.empty(0, np.bool_) if cut is None else _flat(cut)


def _pieces(B: int, T: int, form: int) -> tuple[int, int]:
    """(steps a piece, pieces a row). Exponentials keep the threads busy without pieces: the channels are shared out."""
    threads = torch.get_num_threads()
    if form != PLAIN or B % threads == 0 or 4 * threads <= B or 2 * _SHORTEST > T:
        return T, 1
    length = threads * -(-max(-(-T // threads), _SHORTEST) // threads)  # so that a piece has equal parts
    return length, -(-T // length)


def _carried(
    a: Tensor,
    x: Tensor,
    first: Tensor,
    cut: Tensor | None,
    reverse: bool,
    cuts: tuple[int, int],
    *,
    backward: bool,
) -> Tensor:
    """What each piece starts from: the state before it, or `backward` the gradient from behind it.

    All pieces but the one where nothing follows are summed up, each in as many parts as there are threads.
    """
    length, pieces = cuts
    if pieces == 1:
        return first
    B, T, D = x.shape[0], x.shape[1], x.shape[-1]
    parts = torch.get_num_threads()
    count, offset = (pieces - 1) * parts, parts if backward else 0
    gain = first.new_empty(B, count, *first.shape[1:])
    end = torch.empty_like(gain)
    kernel = summary_complex if x.dim() == 4 else summary_real
    sizes = (T, length // parts, count, offset, D)
    run(
        kernel,
        (_flat(a), _a_rows(a), _flat(x), _cut(cut), backward, reverse, *sizes, _flat(gain), _flat(end)),
        B * count,
        D,
        x.numel(),
    )
    stops = None if cut is None else cut_pieces(cut, length // parts, pieces * parts, reverse)
    starts = [first]
    carry = first
    for done, part in enumerate(reversed(range(count)) if backward else range(count), 1):
        if stops is not None:
            carry = torch.where(stops[:, offset + part].view(-1, *[1] * (carry.dim() - 1)), 0, carry)
        carry = _times(gain[:, part], carry) + end[:, part]
        if done % parts == 0:
            starts.append(carry)
    return torch.stack(starts[::-1] if backward else starts, 1)


def _times(a: Tensor, b: Tensor) -> Tensor:
    if a.dim() == 2:
        return a * b
    (a_re, a_im), (b_re, b_im) = a.unbind(1), b.unbind(1)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], 1)


def forward(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int) -> tuple[Tensor, Tensor]:
    """All states h, shaped as x: (B, T, D), or (B, T, 2, D) for real and imaginary parts; and the last one."""
    x = x.contiguous()
    h = torch.empty_like(x)
    B, T, D = x.shape[0], x.shape[1], x.shape[-1]
    cuts = _pieces(B, T, form)
    starts = _carried(a, x, h0, cut, reverse, cuts, backward=False)
    kernel = _forward_complex if x.dim() == 4 else _forward_real if form == PLAIN else _forward_log
    arguments = (_flat(a), _a_rows(a), _flat(x), _flat(starts), _cut(cut), reverse, form, T, *cuts, D, _flat(h))
    run(kernel, arguments, B * cuts[1], D, x.numel())
    return h, h[:, 0 if reverse else -1].clone()


def backward(
    a: Tensor,
    x: Tensor,
    h: Tensor,
    h0: Tensor,
    cut: Tensor | None,
    reverse: bool,
    form: int,
    dh: Tensor,
    dh_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(da shaped as a, dx shaped as h, dh0 shaped as h0) from the gradients of all states and of the last.

    x is read by the normalized form only; others may pass anything of its dtype.
    """
    B, T, D = h.shape[0], h.shape[1], h.shape[-1]
    constant = a.shape[1] == 1
    dh = dh.contiguous()
    cuts = _pieces(B, T, form)
    carries = _carried(a, dh, dh_last, cut, reverse, cuts, backward=True)
    dx = torch.empty_like(h, memory_format=torch.contiguous_format)
    dh0 = torch.empty_like(h0, memory_format=torch.contiguous_format)
    da = h.new_empty(0 if constant else h.shape)
    da_sum = torch.zeros((B, cuts[1], *h0.shape[1:]) if constant else (0,), dtype=torch.float64)
    kernel = _backward_complex if h.dim() == 4 else _backward_real if form == PLAIN else _backward_log
    arguments = (_flat(a), _a_rows(a), _flat(x), _flat(h), _flat(h0), _cut(cut), reverse, form, T, *cuts, D)
    gradients = (_flat(dh), _flat(carries), _flat(da), _flat(da_sum), _flat(dx), _flat(dh0))
    run(kernel, arguments + gradients, B * cuts[1], D, h.numel())
    if constant:
        da = da_sum.sum(1, keepdim=True)
    if a.shape[0] == 1 and B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx, dh0
