"""The kernels that scan a piece of the diagonal scan, forward and backward; see cpu.py.

They make no arrays: `carries` is theirs to change, and `work` holds the rows that they need beside; rows of both lie
`apart`.
"""

import numpy as np

from resurge.jit import lean
from resurge.ops.diagonal.cpu_pieces import NEAR, TILE, decays, plain, plus_times, row, span, tile, uncut, variances
from resurge.ops.diagonal.form import NORMALIZED
from resurge.ops.rows import rowwise, stepwise
from resurge.ops.streaming import settle, streams

# How many float32 products are summed before they go to the float64 sum of a coefficient's gradient: a plain
# float32 sum over a million steps would lose half its digits.
PARTIAL = TILE

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


@stepwise(streamed=1)
def _advance(carry, x, a):  # type: ignore[no-untyped-def]
    h = a * carry + x
    return h, h


@stepwise(streamed=2)
def _advance_complex(re, im, x_re, x_im, a_re, a_im):  # type: ignore[no-untyped-def]
    h_re, h_im = plus_times(x_re, x_im, a_re, a_im, re, im)
    return h_re, h_im, h_re, h_im


@stepwise(streamed=2)
def _retreat(carry, dh, before, a):  # type: ignore[no-untyped-def]
    g = dh + carry
    return a * g, g, g * before


@stepwise(streamed=1)
def _retreat_adding(carry, total, dh, before, a):  # type: ignore[no-untyped-def]
    g = dh + carry
    return a * g, total + g * before, g


@rowwise()
def _retreat_log(dh, carry, a, before):  # type: ignore[no-untyped-def]
    g = dh + carry
    carry = a * g
    return g, carry * before, carry


def step_back(dh_re, dh_im, re, im, a_re, a_im):  # type: ignore[no-untyped-def]
    """The gradient to the state, and with conj(a) to the one before."""
    g_re, g_im = dh_re + re, dh_im + im
    return g_re, g_im, a_re * g_re + a_im * g_im, a_re * g_im - a_im * g_re


@stepwise(streamed=4)
def _retreat_complex(re, im, dh_re, dh_im, h_re, h_im, a_re, a_im):  # type: ignore[no-untyped-def]
    g_re, g_im, re, im = step_back(dh_re, dh_im, re, im, a_re, a_im)
    return re, im, g_re, g_im, g_re * h_re + g_im * h_im, g_im * h_re - g_re * h_im


@stepwise(streamed=2)
def _retreat_adding_complex(re, im, total_re, total_im, dh_re, dh_im, h_re, h_im, a_re, a_im):  # type: ignore[no-untyped-def]
    g_re, g_im, re, im = step_back(dh_re, dh_im, re, im, a_re, a_im)
    return re, im, total_re + g_re * h_re + g_im * h_im, total_im + g_im * h_re - g_re * h_im, g_re, g_im


@lean
def forward_real(a, a_rows, x, carries, cut, reverse, form, plan, work, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    T, D, W = plan.T, plan.D, plan.W
    past_cache, along, most = streams(h, D, d0, d1, 1), -1 if reverse else 1, tile(D)
    s, s_a = along * D, along * a_rows[1] * D
    for r in range(r0, r1):
        b, first, stop, ahead = span(plan, r)
        carry, left = row(carries, r, W, d0, d1), stop - first
        t = T - 1 - first if reverse else first
        while left > 0:
            n = uncut(cut, b * T + t, along, min(most, left))
            if n == 0:
                carry[:] = 0
                n = 1
            a_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            x_t, h_t = row(x, b * T + t, D, d0, d1), row(h, b * T + t, D, d0, d1)
            _advance((carry,), (h_t,), (x_t, a_t), (s, s, s_a), (ahead * s, ahead * s_a), n, past_cache)
            t += n * along
            left -= n
    settle()


@lean
def forward_log(a, a_rows, x, carries, cut, reverse, form, plan, work, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    """As `forward_real`, from log a. A kernel of its own: the plain one took four times as long on narrow rows."""
    T, D, W = plan.T, plan.D, plan.W
    past_cache = streams(h, D, d0, d1, 1)
    for r in range(r0, r1):
        b, first, stop, _ = span(plan, r)
        carry = row(carries, r, W, d0, d1)
        a_t, x_t = row(work, 2 * r, W, d0, d1), row(work, 2 * r + 1, W, d0, d1)
        for k in range(first, stop):
            t = T - 1 - k if reverse else k
            if cut.size > 0 and cut[b * T + t]:
                carry[:] = 0
            log_a = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            plain(form, log_a, row(x, b * T + t, D, d0, d1), a_t, x_t)
            _advance((carry,), (row(h, b * T + t, D, d0, d1),), (x_t, a_t), (0,), (), 1, past_cache)
    settle()


@lean
def forward_complex(a, a_rows, x, carries, cut, reverse, form, plan, work, h, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    T, D, W = plan.T, plan.D, plan.W
    past_cache, along, most = streams(h, D, d0, d1, 2), -1 if reverse else 1, tile(D)
    s, s_a = 2 * along * D, 2 * along * a_rows[1] * D
    strides = (s, s, s, s, s_a, s_a)
    for r in range(r0, r1):
        b, first, stop, ahead = span(plan, r)
        far = (ahead * s, ahead * s, ahead * s_a, ahead * s_a)
        re, im = row(carries, 2 * r, W, d0, d1), row(carries, 2 * r + 1, W, d0, d1)
        t, left = T - 1 - first if reverse else first, stop - first
        while left > 0:
            n = uncut(cut, b * T + t, along, min(most, left))
            if n == 0:
                re[:] = 0
                im[:] = 0
                n = 1
            i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
            a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
            x_re, x_im = row(x, j, D, d0, d1), row(x, j + 1, D, d0, d1)
            h_re, h_im = row(h, j, D, d0, d1), row(h, j + 1, D, d0, d1)
            _advance_complex((re, im), (h_re, h_im), (x_re, x_im, a_re, a_im), strides, far, n, past_cache)
            t += n * along
            left -= n
    settle()


@lean
def backward_real(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, plan, work, dh, carries, da, sums, dx, dh0, r0, r1, d0, d1
):
    """ĝ_t = dh_t + a_{t+1} ĝ_{t+1};  dx_t = ĝ_t;  da_t = ĝ_t h_{t-1};  dh0 = a_1 ĝ_1."""
    T, D, W = plan.T, plan.D, plan.W
    constant = sums.size > 0
    past_cache, back, most = streams(dx, D, d0, d1, 1), 1 if reverse else -1, tile(D)
    # The summaries of the pieces to come read dh and a, but not h.
    s, near = back * D, NEAR * back * D
    for r in range(r0, r1):
        b, first, stop, ahead = span(plan, r)
        far = ahead * s
        carry, zeros = row(carries, r, W, d0, d1), row(work, 3 * r, W, d0, d1)
        total = row(work, 3 * r + 1, W, d0, d1)
        zeros[:] = 0
        total[:] = 0
        k = stop - 1
        while k >= first:
            t = T - 1 - k if reverse else k
            n = uncut(cut, b * T + t, back, min(most, k % PARTIAL + 1, k - max(first, 1) + 1))
            is_cut = cut.size > 0 and cut[b * T + t]
            if is_cut:  # the state before is taken as zero, and no gradient goes to it
                before = zeros
            elif k == 0:
                before = row(h0, b, D, d0, d1)
            else:
                before = row(h, b * T + t + back, D, d0, d1)
            n = max(n, 1)
            a_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1)
            dh_t, dx_t = row(dh, b * T + t, D, d0, d1), row(dx, b * T + t, D, d0, d1)
            if constant:
                _retreat_adding((carry, total), (dx_t,), (dh_t, before, a_t), (s, s, s, 0), (far, near), n, past_cache)
            else:
                da_t, given = row(da, b * T + t, D, d0, d1), (dh_t, before, a_t)
                _retreat((carry,), (dx_t, da_t), given, (s, s, s, s, s), (far, near, far), n, past_cache)
            k -= n
            if constant and (k % PARTIAL == PARTIAL - 1 or k < first):
                move(total, row(sums, r, D, d0, d1))
            if is_cut:
                carry[:] = 0
        if first == 0:
            _copy((row(dh0, b, D, d0, d1),), (carry,), False)
    settle()


@lean
def backward_log(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, plan, work, dh, carries, da, sums, dx, dh0, r0, r1, d0, d1
):
    """As `backward_real`, from log a and to it: d log a = a da. Where x enters as s x with s = sqrt(1 - a²), also
    dx = s ĝ and d log a = a da - ĝ x a² / s."""
    T, D, W = plan.T, plan.D, plan.W
    least = h.dtype.type(_LEAST)
    n = d1 - d0
    for r in range(r0, r1):
        b, first, stop, _ = span(plan, r)
        carry, zeros = row(carries, r, W, d0, d1), row(work, 3 * r, W, d0, d1)
        a_t, v = row(work, 3 * r + 1, W, d0, d1), row(work, 3 * r + 2, W, d0, d1)
        zeros[:] = 0
        for k in range(stop - 1, first - 1, -1):
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
    a, a_rows, x, h, h0, cut, reverse, form, plan, work, dh, carries, da, sums, dx, dh0, r0, r1, d0, d1
):
    """As `backward_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    T, D, W = plan.T, plan.D, plan.W
    constant = sums.size > 0
    past_cache, back, most = streams(dx, D, d0, d1, 2), 1 if reverse else -1, tile(D)
    s, near = 2 * back * D, 2 * NEAR * back * D
    for r in range(r0, r1):
        b, first, stop, ahead = span(plan, r)
        far = ahead * s
        re, im = row(carries, 2 * r, W, d0, d1), row(carries, 2 * r + 1, W, d0, d1)
        total_re, total_im = row(work, 3 * r, W, d0, d1), row(work, 3 * r + 1, W, d0, d1)
        zeros = row(work, 3 * r + 2, W, d0, d1)
        zeros[:] = 0
        total_re[:] = 0
        total_im[:] = 0
        k = stop - 1
        while k >= first:
            t = T - 1 - k if reverse else k
            n = uncut(cut, b * T + t, back, min(most, k % PARTIAL + 1, k - max(first, 1) + 1))
            is_cut = cut.size > 0 and cut[b * T + t]
            i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
            if is_cut:
                h_re, h_im = zeros, zeros
            elif k == 0:
                h_re, h_im = row(h0, 2 * b, D, d0, d1), row(h0, 2 * b + 1, D, d0, d1)
            else:
                h_re, h_im = row(h, j + 2 * back, D, d0, d1), row(h, j + 2 * back + 1, D, d0, d1)
            n = max(n, 1)
            a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
            dh_re, dh_im = row(dh, j, D, d0, d1), row(dh, j + 1, D, d0, d1)
            dx_re, dx_im = row(dx, j, D, d0, d1), row(dx, j + 1, D, d0, d1)
            given = (dh_re, dh_im, h_re, h_im, a_re, a_im)
            if constant:
                sums_too = (re, im, total_re, total_im)
                strides, fetched = (s, s, s, s, s, s, 0, 0), (far, far, near, near)  # a is read once
                _retreat_adding_complex(sums_too, (dx_re, dx_im), given, strides, fetched, n, past_cache)
            else:
                da_re, da_im = row(da, j, D, d0, d1), row(da, j + 1, D, d0, d1)
                gradients, all_fetched = (dx_re, dx_im, da_re, da_im), (far, far, near, near, far, far)
                _retreat_complex((re, im), gradients, given, (s, s, s, s, s, s, s, s, s, s), all_fetched, n, past_cache)
            k -= n
            if constant and (k % PARTIAL == PARTIAL - 1 or k < first):
                move(total_re, row(sums, 2 * r, D, d0, d1))
                move(total_im, row(sums, 2 * r + 1, D, d0, d1))
            if is_cut:
                re[:] = 0
                im[:] = 0
        if first == 0:
            _copy((row(dh0, 2 * b, D, d0, d1),), (re,), False)
            _copy((row(dh0, 2 * b + 1, D, d0, d1),), (im,), False)
    settle()
