"""The loops of the softmax scan's numba kernels.

Arrays come flat; a state is a row of D + 2 H numbers, [num, m, den], of H heads with G = D / H channels each. The
weights of a step are computed once a head and then repeated for its channels, so that all loops run over slices of one
axis, which is the form that LLVM turns into vector instructions.

Backward, the states between two that were kept are computed anew into memory that stays in the cache.
"""

import numpy as np

from resurge.jit import jit, summing
from resurge.ops.elementary import exp
from resurge.ops.softmax_scan.state import EMPTY, EVERY, LARGEST_ERROR

# Channels for which the backward pass keeps the states of EVERY steps at once.
_WIDTH = 1024


@jit
def _row(array, index, n, d0, d1):  # type: ignore[no-untyped-def]
    """Numbers d0..d1 of row `index` of a flat array with rows of n numbers."""
    return array[index * n + d0 : index * n + d1]


@jit
def _weights(k, w, m, past, rest, present):  # type: ignore[no-untyped-def]
    """Advance m, with the weights of the sums so far, past + rest, and of this step.

    `rest` is what rounding takes from a weight next to 1: always the same where m stands, it would be another decay.
    """
    zero, half, one, most = m.dtype.type(0), m.dtype.type(0.5), m.dtype.type(1), m.dtype.type(LARGEST_ERROR)
    for h in range(k.size):
        decayed = m[h] - w[h]
        fresh = k[h] >= decayed
        after = k[h] if fresh else decayed
        error = (m[h] - after) - w[h]
        smaller = exp(error if fresh else k[h] - after)
        error = error if error > -most else -most
        error = error if error < most else most
        change = zero if fresh else error * (one + half * error)
        past[h] = smaller if fresh else one + change
        rest[h] = zero if fresh else change - (past[h] - one)
        present[h] = one if fresh else smaller
        m[h] = after


@jit
def _shares(k, u, m, den, past, present):  # type: ignore[no-untyped-def]
    """y = past num + present v, with the sums before this step and its logit k + u."""
    one = m.dtype.type(1)
    for h in range(k.size):
        apart = m[h] - (k[h] + u[h])
        smaller = exp(-abs(apart))
        of_past = one if apart > 0 else smaller
        of_present = smaller if apart > 0 else one
        scale = one / (of_past * den[h] + of_present)
        past[h] = of_past * scale
        present[h] = of_present * scale


@jit
def _plain_shares(a, b, den, past, present):  # type: ignore[no-untyped-def]
    """The same without u: the weights of the sums over the sum of the weights."""
    one = den.dtype.type(1)
    for h in range(a.size):
        scale = one / (a[h] * den[h] + b[h])
        past[h] = a[h] * scale
        present[h] = b[h] * scale


@jit
def _advance(k, w, u, m, den, a, e, b, r, c):  # type: ignore[no-untyped-def]
    """One step of m and den; the weights of the sums (a + e past, b present) and of the output (r, c)."""
    if u.size:
        _shares(k, u, m, den, r, c)
        _weights(k, w, m, a, e, b)
    else:
        _weights(k, w, m, a, e, b)
        _plain_shares(a, b, den, r, c)
    for h in range(k.size):
        den[h] = a[h] * den[h] + (e[h] * den[h] + b[h])


@jit
def _mixed(a, b, x, v, G, target):  # type: ignore[no-untyped-def]
    """target = a x + b v, with a and b for G channels each."""
    if G == 1:
        for d in range(target.size):
            target[d] = a[d] * x[d] + b[d] * v[d]
    else:
        for h in range(a.size):
            _mixed_head(a[h], b[h], x[h * G : (h + 1) * G], v[h * G : (h + 1) * G], target[h * G : (h + 1) * G])


@jit
def _mixed_head(a, b, x, v, target):  # type: ignore[no-untyped-def]
    for d in range(target.size):
        target[d] = a * x[d] + b * v[d]


@jit
def _carried(a, e, b, x, v, G):  # type: ignore[no-untyped-def]
    """x = (a + e) x + b v; apart from `_mixed`, where LLVM would see x and target overlap, and not use vectors."""
    if G == 1:
        for d in range(x.size):
            x[d] = a[d] * x[d] + (e[d] * x[d] + b[d] * v[d])
    else:
        for h in range(a.size):
            _carried_head(a[h], e[h], b[h], x[h * G : (h + 1) * G], v[h * G : (h + 1) * G])


@jit
def _carried_head(a, e, b, x, v):  # type: ignore[no-untyped-def]
    for d in range(x.size):
        x[d] = a * x[d] + (e * x[d] + b * v[d])


@jit
def _load(states, row, H, D, h0, h1, num, m, den):  # type: ignore[no-untyped-def]
    G, W = D // H, D + 2 * H
    num[:] = _row(states, row, W, h0 * G, h1 * G)
    m[:] = _row(states, row, W, D + h0, D + h1)
    den[:] = _row(states, row, W, D + H + h0, D + H + h1)


@jit
def _store(states, row, H, D, h0, h1, num, m, den):  # type: ignore[no-untyped-def]
    G, W = D // H, D + 2 * H
    _row(states, row, W, h0 * G, h1 * G)[:] = num
    _row(states, row, W, D + h0, D + h1)[:] = m
    _row(states, row, W, D + H + h0, D + H + h1)[:] = den


@jit
def forward(k, v, w, u, starts, cut, T, length, pieces, H, D, y, borders, lasts, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    G, kept = D // H, (T - 1) // EVERY + 2
    h0, h1 = -(-d0 // G), -(-d1 // G)  # whole heads: those that begin in the box
    n = h1 - h0
    num, m, den = np.empty(n * G, v.dtype), np.empty(n, v.dtype), np.empty(n, v.dtype)
    a, e, b = np.empty(n, v.dtype), np.empty(n, v.dtype), np.empty(n, v.dtype)
    r, c = np.empty(n, v.dtype), np.empty(n, v.dtype)
    w, u = w[h0:h1], u[h0:h1]
    for row in range(r0, r1):
        batch, first = row // pieces, (row % pieces) * length
        _load(starts, row, H, D, h0, h1, num, m, den)
        for t in range(first, min(first + length, T)):
            if t % EVERY == 0:
                _store(borders, batch * kept + t // EVERY, H, D, h0, h1, num, m, den)
            i = batch * T + t
            if cut.size > 0 and cut[i]:
                num[:] = 0
                m[:] = EMPTY
                den[:] = 0
            v_t = _row(v, i, D, h0 * G, h1 * G)
            _advance(_row(k, i, H, h0, h1), w, u, m, den, a, e, b, r, c)
            _mixed(r, c, num, v_t, G, _row(y, i, D, h0 * G, h1 * G))
            _carried(a, e, b, num, v_t, G)
        _store(lasts, row, H, D, h0, h1, num, m, den)


@jit
def _dots(r, c, a, e, b, num, v, g, g_num, G, dv, spread, held, past, present, y):  # type: ignore[no-untyped-def]
    """Per head, with y = r num + c v: Σ g (v - y), Σ g y, Σ g_num num, Σ g_num v; dv; and g_num one step back."""
    _mixed(r, c, num, v, G, y)
    if G == 1:
        for d in range(v.size):
            spread[d] = g[d] * (v[d] - y[d])
            held[d] = g[d] * y[d]
        for d in range(v.size):
            past[d] = g_num[d] * num[d]
            present[d] = g_num[d] * v[d]
    else:
        for h in range(a.size):
            held[h] = _dot(g[h * G : (h + 1) * G], y[h * G : (h + 1) * G])
            past[h] = _dot(g_num[h * G : (h + 1) * G], num[h * G : (h + 1) * G])
            present[h] = _dot(g_num[h * G : (h + 1) * G], v[h * G : (h + 1) * G])
        for d in range(v.size):
            y[d] = v[d] - y[d]
        for h in range(a.size):
            spread[h] = _dot(g[h * G : (h + 1) * G], y[h * G : (h + 1) * G])
    _mixed(c, b, g, g_num, G, dv)
    _carried(a, e, r, g_num, g, G)


@summing
def _dot(x, y):  # type: ignore[no-untyped-def]
    total = x.dtype.type(0)
    for d in range(x.size):
        total += x[d] * y[d]
    return total


@jit
def _step_back(r, c, a, e, b, den, spread, held, past, present, plain, g_den, g_m, dk, du, dw):  # type: ignore[no-untyped-def]
    """The gradients of the logits; those of den and m one step back.

    g_m is what is left of m's gradient beyond that of a constant shift; it goes where the maximum is, which is at this
    step if b is 1.
    """
    one, nothing = den.dtype.type(1), den.dtype.type(0)
    for h in range(dk.size):
        to_u = c[h] * spread[h]
        dk[h] = to_u + b[h] * (present[h] + g_den[h]) + (g_m[h] if b[h] == one else nothing)
        du[h] += to_u
    for h in range(dk.size):
        g_m[h] = nothing if b[h] == one else g_m[h]
        dw[h] -= a[h] * (past[h] + den[h] * g_den[h]) + g_m[h]
        g_den[h] = a[h] * g_den[h] + (e[h] * g_den[h] - r[h] * held[h])
    if plain:  # no u is the same as u = w
        for h in range(dk.size):
            dw[h] += c[h] * spread[h]


@jit
def backward(  # type: ignore[no-untyped-def]
    k, v, w, u, cut, borders, T, length, pieces, H, D, dy, carries, dk, dv, dw, du, fronts, gains,
    r0, r1, d0, d1,
):  # fmt: skip
    """`carries` are the gradients from behind each piece, [num, m's rest, den]; `fronts` those in front of it."""
    G = D // H
    h1 = -(-d1 // G)
    step = max(1, _WIDTH // G)
    for row in range(r0, r1):
        for h in range(-(-d0 // G), h1, step):
            _block_backward(
                k, v, w, u, cut, borders, T, length, pieces, H, D, dy, carries, dk, dv, dw, du, fronts, gains,
                row, h, min(h + step, h1),
            )  # fmt: skip


@jit
def _block_backward(  # type: ignore[no-untyped-def]
    k, v, w, u, cut, borders, T, length, pieces, H, D, dy, carries, dk, dv, dw, du, fronts, gains,
    row, h0, h1,
):  # fmt: skip
    G, n, kept = D // H, h1 - h0, (T - 1) // EVERY + 2
    d0, N, kind = h0 * G, (h1 - h0) * G, v.dtype
    w, u = w[h0:h1], u[h0:h1]
    nums, weights = np.empty((EVERY + 1) * N, kind), np.empty((EVERY + 1) * 6 * n, kind)
    m, y, sums = np.empty(n, kind), np.empty(N, kind), np.empty(6 * n, kind)
    spread, held, past, present = sums[:n], sums[n : 2 * n], sums[2 * n : 3 * n], sums[3 * n : 4 * n]
    du_part, dw_part = sums[4 * n : 5 * n], sums[5 * n :]
    gain, largest = np.ones(n), np.ones(n, kind)  # float64: in float32, factors next to 1 would not change it
    g_num, g_m, g_den = np.empty(N, kind), np.empty(n, kind), np.empty(n, kind)
    _load(carries, row, H, D, h0, h1, g_num, g_m, g_den)
    batch, first = row // pieces, (row % pieces) * length
    last = min(first + length, T) - 1
    for start in range(last - last % EVERY, first - 1, -EVERY):
        steps = min(start + EVERY, last + 1) - start
        num, den = _row(nums, 0, N, 0, N), _row(weights, 5, n, 0, n)
        _load(borders, batch * kept + start // EVERY, H, D, h0, h1, num, m, den)
        for j in range(steps):
            i = batch * T + start + j
            num, den = _row(nums, j, N, 0, N), _row(weights, 6 * j + 5, n, 0, n)
            if cut.size > 0 and cut[i]:
                num[:] = 0
                m[:] = EMPTY
                den[:] = 0
            a, e = _row(weights, 6 * j, n, 0, n), _row(weights, 6 * j + 1, n, 0, n)
            b = _row(weights, 6 * j + 2, n, 0, n)
            r, c = _row(weights, 6 * j + 3, n, 0, n), _row(weights, 6 * j + 4, n, 0, n)
            after = _row(weights, 6 * j + 11, n, 0, n)
            after[:] = den
            _advance(_row(k, i, H, h0, h1), w, u, m, after, a, e, b, r, c)
            target = _row(nums, j + 1, N, 0, N)
            target[:] = num
            _carried(a, e, b, target, _row(v, i, D, d0, d0 + N), G)
        if last < start + EVERY and last + 1 < T:
            # The next piece begins with the sums that this one ends with, divided by another e^m: one was rounded at
            # each step, the other comes from joining the pieces.
            weight = _row(borders, batch * kept + (last + 1) // EVERY, D + 2 * H, D + H + h0, D + H + h1)
            for h in range(n):
                gain[h] = weight[h] / after[h]
                g_den[h] *= gain[h]
                for d in range(h * G, (h + 1) * G):
                    g_num[d] *= gain[h]
        du_part[:] = 0
        dw_part[:] = 0
        for j in range(steps - 1, -1, -1):
            i = batch * T + start + j
            a, e = _row(weights, 6 * j, n, 0, n), _row(weights, 6 * j + 1, n, 0, n)
            b = _row(weights, 6 * j + 2, n, 0, n)
            r, c = _row(weights, 6 * j + 3, n, 0, n), _row(weights, 6 * j + 4, n, 0, n)
            den = _row(weights, 6 * j + 5, n, 0, n)
            _dots(
                r, c, a, e, b, _row(nums, j, N, 0, N), _row(v, i, D, d0, d0 + N), _row(dy, i, D, d0, d0 + N), g_num, G,
                _row(dv, i, D, d0, d0 + N), spread, held, past, present, y,
            )  # fmt: skip
            _step_back(
                r, c, a, e, b, den, spread, held, past, present, u.size == 0, g_den, g_m, _row(dk, i, H, h0, h1),
                du_part, dw_part,
            )  # fmt: skip
            if pieces > 1:
                for h in range(n):
                    gain[h] *= np.float64(a[h]) + np.float64(e[h])
                    largest[h] = largest[h] if b[h] < 1 else 0
            if cut.size > 0 and cut[i]:  # the state before is taken as empty, and no gradient goes to it
                g_num[:] = 0
                g_m[:] = 0
                g_den[:] = 0
                gain[:] = 0
                largest[:] = 0
        # in float64: a plain float32 sum over a million steps would lose half its digits
        for h in range(n):
            du[row * H + h0 + h] += du_part[h]
            dw[row * H + h0 + h] += dw_part[h]
    _store(fronts, row, H, D, h0, h1, g_num, g_m, g_den)
    _row(gains, row, 2 * H, h0, h1)[:] = gain
    _row(gains, row, 2 * H, H + h0, H + h1)[:] = largest
