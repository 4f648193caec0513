"""The kernels that scan a piece of the diagonal scan, forward and backward; see cpu.py.

They make no arrays: `carries` is theirs to change, and `work` holds the rows that they need beside; rows of both lie
`apart`.
"""

import numpy as np

from resurge.jit import inlined, lean
from resurge.ops.diagonal.cpu_pieces import apart, decays, plain, row, variances
from resurge.ops.diagonal.form import NORMALIZED
from resurge.ops.rows import rowwise
from resurge.ops.streaming import fetch, settle, streams

# How many float32 products are summed before they go to the float64 sum of a coefficient's gradient: a plain
# float32 sum over a million steps would lose half its digits.
PARTIAL = 64

# How many steps ahead the backward kernels of constant coefficients fetch: 30 % faster, where others gain nothing.
AHEAD = 3

# The derivative of sqrt(v) is bounded by 1000, as in the published code of RG-LRU.
_LEAST = 2.5e-7


@lean
def move(source, target):  # type: ignore[no-untyped-def]
    """Add a row to another, wider one, and start it anew."""
    for d in range(source.size):
        target[d] += source[d]
        source[d] = 0


@rowwise()
def _copy(x):  # type: ignore[no-untyped-def]
    return (x,)


@rowwise(streamed=1)
def _advance(carry, a, x):  # type: ignore[no-untyped-def]
    h = (a * carry + x).without_denormals()
    return h, h


@rowwise(streamed=2)
def _advance_complex(re, im, a_re, a_im, x_re, x_im):  # type: ignore[no-untyped-def]
    h_re = (a_re * re - a_im * im + x_re).without_denormals()
    h_im = (a_re * im + a_im * re + x_im).without_denormals()
    return h_re, h_im, h_re, h_im


@rowwise(streamed=2)
def _retreat(dh, carry, a, before):  # type: ignore[no-untyped-def]
    g = dh + carry
    return g, g * before, (a * g).without_denormals()


@rowwise(streamed=1)
def _retreat_adding(dh, carry, a, before, total):  # type: ignore[no-untyped-def]
    g = dh + carry
    return g, total + g * before, (a * g).without_denormals()


@rowwise()
def _retreat_log(dh, carry, a, before):  # type: ignore[no-untyped-def]
    g = dh + carry
    carry = (a * g).without_denormals()
    return g, carry * before, carry


def step_back(dh_re, dh_im, re, im, a_re, a_im):  # type: ignore[no-untyped-def]
    """The gradient to the state, and with conj(a) to the one before."""
    g_re, g_im = dh_re + re, dh_im + im
    return g_re, g_im, (a_re * g_re + a_im * g_im).without_denormals(), (a_re * g_im - a_im * g_re).without_denormals()


@rowwise(streamed=4)
def _retreat_complex(dh_re, dh_im, re, im, a_re, a_im, h_re, h_im):  # type: ignore[no-untyped-def]
    g_re, g_im, re, im = step_back(dh_re, dh_im, re, im, a_re, a_im)
    return g_re, g_im, g_re * h_re + g_im * h_im, g_im * h_re - g_re * h_im, re, im


@rowwise(streamed=2)
def _retreat_adding_complex(dh_re, dh_im, re, im, a_re, a_im, h_re, h_im, total_re, total_im):  # type: ignore[no-untyped-def]
    g_re, g_im, re, im = step_back(dh_re, dh_im, re, im, a_re, a_im)
    return g_re, g_im, total_re + g_re * h_re + g_im * h_im, total_im + g_im * h_re - g_re * h_im, re, im


@lean
def forward_real(a, a_rows, x, carries, cut, reverse, form, T, length, pieces, D, work, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    past_cache = streams(h, D, d0, d1)
    W = apart(D)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry = row(carries, r, W, d0, d1)
        for k in range(first, min(first + length, T)):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                carry[:] = 0
            a_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            x_t = row(x, b * T + t, D, d0, d1)
            _advance((row(h, b * T + t, D, d0, d1), carry), (carry, a_t, x_t), past_cache)
    settle()


@lean
def forward_log(a, a_rows, x, carries, cut, reverse, form, T, length, pieces, D, work, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    """As `forward_real`, from log a. A kernel of its own: the plain one took four times as long on narrow rows."""
    past_cache = streams(h, D, d0, d1)
    W = apart(D)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry = row(carries, r, W, d0, d1)
        a_t, x_t = row(work, 2 * r, W, d0, d1), row(work, 2 * r + 1, W, d0, d1)
        for k in range(first, min(first + length, T)):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                carry[:] = 0
            log_a = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            plain(form, log_a, row(x, b * T + t, D, d0, d1), a_t, x_t)
            _advance((row(h, b * T + t, D, d0, d1), carry), (carry, a_t, x_t), past_cache)
    settle()


@lean
def forward_complex(a, a_rows, x, carries, cut, reverse, form, T, length, pieces, D, work, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    past_cache = streams(h, D, d0, d1)
    W = apart(D)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        re, im = row(carries, 2 * r, W, d0, d1), row(carries, 2 * r + 1, W, d0, d1)
        for k in range(first, min(first + length, T)):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                re[:] = 0
                im[:] = 0
            i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
            a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
            x_re, x_im = row(x, j, D, d0, d1), row(x, j + 1, D, d0, d1)
            h_re, h_im = row(h, j, D, d0, d1), row(h, j + 1, D, d0, d1)
            _advance_complex((h_re, h_im, re, im), (re, im, a_re, a_im, x_re, x_im), past_cache)
    settle()


@inlined
def fetch_ahead(dh, h, dx, past_cache, index, D, d0, d1):  # type: ignore[no-untyped-def]
    fetch(row(dh, index, D, d0, d1))
    fetch(row(h, index, D, d0, d1))
    if not past_cache:
        fetch(row(dx, index, D, d0, d1))


@lean
def backward_real(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, T, length, pieces, D, work, dh, carries, da, sums, dx, dh0, r0, r1, d0, d1
):
    """ĝ_t = dh_t + a_{t+1} ĝ_{t+1};  dx_t = ĝ_t;  da_t = ĝ_t h_{t-1};  dh0 = a_1 ĝ_1."""
    constant = sums.size > 0
    past_cache = streams(dx, D, d0, d1)
    W = apart(D)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry, zeros = row(carries, r, W, d0, d1), row(work, 3 * r, W, d0, d1)
        total = row(work, 3 * r + 1, W, d0, d1)
        for k in range(min(first + length, T) - 1, first - 1, -1):
            t = T - 1 - k if reverse else k
            if constant and k >= first + AHEAD:
                fetch_ahead(dh, h, dx, past_cache, b * T + (t + AHEAD if reverse else t - AHEAD), D, d0, d1)
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
                _retreat_adding((dx_t, total, carry), (dh_t, carry, a_t, before, total), past_cache)
                if k % PARTIAL == 0 or k == first:
                    move(total, row(sums, r, D, d0, d1))
            else:
                da_t = row(da, b * T + t, D, d0, d1)
                _retreat((dx_t, da_t, carry), (dh_t, carry, a_t, before), past_cache)
            if is_cut:
                carry[:] = 0
        if first == 0:
            _copy((row(dh0, b, D, d0, d1),), (carry,), False)
    settle()


@lean
def backward_log(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, T, length, pieces, D, work, dh, carries, da, sums, dx, dh0, r0, r1, d0, d1
):
    """As `backward_real`, from log a and to it: d log a = a da. Where x enters as s x with s = sqrt(1 - a²), also
    dx = s ĝ and d log a = a da - ĝ x a² / s."""
    least = h.dtype.type(_LEAST)
    n = d1 - d0
    W = apart(D)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        carry, zeros = row(carries, r, W, d0, d1), row(work, 3 * r, W, d0, d1)
        a_t, v = row(work, 3 * r + 1, W, d0, d1), row(work, 3 * r + 2, W, d0, d1)
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
            _retreat_log((dx_t, da_t, carry), (dh_t, carry, a_t, before), False)
            if form == NORMALIZED:
                variances(log_a, v)
                x_t = row(x, b * T + t, D, d0, d1)
                for d in range(n):
                    da_t[d] -= dx_t[d] * x_t[d] * (a_t[d] * a_t[d] / np.sqrt(max(v[d], least)))
                    dx_t[d] *= np.sqrt(v[d])
            if is_cut:
                carry[:] = 0
        if first == 0:
            _copy((row(dh0, b, D, d0, d1),), (carry,), False)


@lean
def backward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, T, length, pieces, D, work, dh, carries, da, sums, dx, dh0, r0, r1, d0, d1
):
    """As `backward_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    constant = sums.size > 0
    past_cache = streams(dx, D, d0, d1)
    W = apart(D)
    for r in range(r0, r1):
        b, first = r // pieces, (r % pieces) * length
        re, im = row(carries, 2 * r, W, d0, d1), row(carries, 2 * r + 1, W, d0, d1)
        total_re, total_im = row(work, 3 * r, W, d0, d1), row(work, 3 * r + 1, W, d0, d1)
        zeros = row(work, 3 * r + 2, W, d0, d1)
        for k in range(min(first + length, T) - 1, first - 1, -1):
            t = T - 1 - k if reverse else k
            if constant and k >= first + AHEAD:
                ahead = 2 * (b * T + (t + AHEAD if reverse else t - AHEAD))
                fetch_ahead(dh, h, dx, past_cache, ahead, D, d0, d1)
                fetch_ahead(dh, h, dx, past_cache, ahead + 1, D, d0, d1)
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
            given = (dh_re, dh_im, re, im, a_re, a_im, h_re, h_im)
            if constant:
                _retreat_adding_complex(
                    (dx_re, dx_im, total_re, total_im, re, im), (*given, total_re, total_im), past_cache
                )
                if k % PARTIAL == 0 or k == first:
                    move(total_re, row(sums, 2 * r, D, d0, d1))
                    move(total_im, row(sums, 2 * r + 1, D, d0, d1))
            else:
                da_re, da_im = row(da, j, D, d0, d1), row(da, j + 1, D, d0, d1)
                _retreat_complex((dx_re, dx_im, da_re, da_im, re, im), given, past_cache)
            if is_cut:
                re[:] = 0
                im[:] = 0
        if first == 0:
            _copy((row(dh0, 2 * b, D, d0, d1),), (re,), False)
            _copy((row(dh0, 2 * b + 1, D, d0, d1),), (im,), False)
    settle()
