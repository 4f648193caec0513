"""numba kernels of the short convolution.

Arrays come flat, in rows of D numbers, one a step; the taps of the weights are rows too, each repeated `many` times, so
that `many` steps at once are one long row: with few channels the loops would be too short to pay for their own start.
The loops run from 0 over slices of one axis, which LLVM turns into vector instructions. Time is counted from the first
input: the state holds those of steps -(K-1) ... -1.

No output depends on another one, so time is cut into blocks of a fixed length, and any thread takes any of them: the
number of threads changes no bit.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from resurge.jit import jit
from resurge.ops.threads import flat, run

# Steps a block. So many float32 products are summed before they go to a float64 sum: over a million steps a float32 sum
# would lose half its digits.
_BLOCK = 128

# Numbers a loop: the rows that one output needs stay in the first cache.
_LOOP = 1024


@jit
def _add_products(total, u, i, p, v, j, q, count):  # type: ignore[no-untyped-def]
    """total += Σ_{k < count} u[i + k p + ...] ⊙ v[j + k q + ...], four at a time while there are four."""
    n = total.size
    while count >= 4:
        u0, u1, u2, u3 = u[i:][:n], u[i + p :][:n], u[i + 2 * p :][:n], u[i + 3 * p :][:n]
        v0, v1, v2, v3 = v[j:][:n], v[j + q :][:n], v[j + 2 * q :][:n], v[j + 3 * q :][:n]
        for d in range(n):
            total[d] += u0[d] * v0[d] + u1[d] * v1[d] + u2[d] * v2[d] + u3[d] * v3[d]
        i, j, count = i + 4 * p, j + 4 * q, count - 4
    for k in range(count):
        u0, v0 = u[i + k * p :][:n], v[j + k * q :][:n]
        for d in range(n):
            total[d] += u0[d] * v0[d]


@jit
def _linked(cut, first, stop):  # type: ignore[no-untyped-def]
    """Whether no step of first ... stop-1 starts anew."""
    if cut.size > 0:
        for i in range(first, stop):
            if cut[i]:
                return False
    return True


@jit
def _behind(cut, b, t, K, T):  # type: ignore[no-untyped-def]
    """How many of the K-1 inputs before step t enter there: none from before a reset."""
    reach = 0
    while reach < K - 1 and (cut.size == 0 or t < reach or not cut[b * T + t - reach]):
        reach += 1
    return reach


@jit
def _ahead(cut, b, t, K, T):  # type: ignore[no-untyped-def]
    """For how many steps after it the input of step t enters."""
    reach = 0
    while reach < K - 1 and t + reach + 1 < T:
        if cut.size > 0 and t + reach + 1 >= 0 and cut[b * T + t + reach + 1]:
            break
        reach += 1
    return reach


@jit
def _forward(x, weights, many, state, cut, T, K, D, blocks, y, last, r0, r1, _0, _1):  # type: ignore[no-untyped-def]
    width = many * D
    for r in range(r0, r1):
        b, first = r // blocks, (r % blocks) * _BLOCK
        stop = min(first + _BLOCK, T)
        for c0 in range(0, D, _LOOP):
            t = first
            while t < stop:
                at = b * T + t
                if many > 1 and t >= K - 1 and t + many <= stop and _linked(cut, at - K + 2, at + many):
                    steps, n, reach = many, width, K - 1
                else:
                    steps, n, reach = 1, min(_LOOP, D - c0), _behind(cut, b, t, K, T)
                y_t = y[at * D + c0 :][:n]
                y_t[:] = weights[K * width + c0 :][:n]  # the bias
                before = max(reach - t, 0)  # how many of them are in the state
                if before > 0:
                    i, j = (K - 1 - reach) * width + c0, (b * (K - 1) + K - 1 - before) * D + c0
                    _add_products(y_t, weights, i, width, state, j, D, before)
                reach -= before
                i, j = (K - 1 - reach) * width + c0, (at - reach) * D + c0
                _add_products(y_t, weights, i, width, x, j, D, reach + 1)
                t += steps
        if stop == T:
            reach = _behind(cut, b, T - 1, K, T)
            for k in range(K - 1):  # the input of step T - 1 - k
                target = last[(b * (K - 1) + K - 2 - k) * D :][:D]
                if k > reach:
                    target[:] = 0
                elif k >= T:
                    target[:] = state[(b * (K - 1) + K - 2 - k + T) * D :][:D]
                else:
                    target[:] = x[(b * T + T - 1 - k) * D :][:D]


@jit
def _to_input(weights, width, cut, dy, dlast, b, t, T, K, D, c0, target):  # type: ignore[no-untyped-def]
    """The gradient to the input of step t, or of as many steps as `target` has room for; the taps are reversed."""
    n = target.size
    reach = K - 1 if n > D else _ahead(cut, b, t, K, T)
    place = t - (T - (K - 1))  # in the last state
    if place >= 0 and t + reach == T - 1:
        target[:] = dlast[(b * (K - 1) + place) * D + c0 :][:n]
    else:
        target[:] = 0
    k = max(-t, 0)
    if reach >= k:
        _add_products(target, weights, k * width + c0, width, dy, (b * T + t + k) * D + c0, D, reach - k + 1)


@jit
def _to_inputs(weights, many, cut, T, K, D, blocks, dy, dlast, dx, dstate, r0, r1, _0, _1):  # type: ignore[no-untyped-def]
    width = many * D
    for r in range(r0, r1):
        b, first = r // blocks, (r % blocks) * _BLOCK
        stop = min(first + _BLOCK, T)
        for c0 in range(0, D, _LOOP):
            n = min(_LOOP, D - c0)
            if first == 0:
                for t in range(-(K - 1), 0):
                    target = dstate[(b * (K - 1) + K - 1 + t) * D + c0 :][:n]
                    _to_input(weights, width, cut, dy, dlast, b, t, T, K, D, c0, target)
            t = first
            while t < stop:
                at, end = b * T + t, t + many
                inside = many > 1 and end <= stop and end + K - 1 <= T
                steps = many if inside and _linked(cut, at + 1, at + many + K - 1) else 1
                target = dx[at * D + c0 :][: width if steps > 1 else n]
                _to_input(weights, width, cut, dy, dlast, b, t, T, K, D, c0, target)
                t += steps


@jit
def _to_weights(x, many, state, cut, T, K, D, blocks, dy, sums, r0, r1, _0, _1):  # type: ignore[no-untyped-def]
    """In `sums`, for each block, the gradients to the taps, and to the bias behind them."""
    width = many * D
    totals = np.empty((K + 1) * width, x.dtype)
    ones = np.ones(width, x.dtype)
    for r in range(r0, r1):
        b, first = r // blocks, (r % blocks) * _BLOCK
        stop = min(first + _BLOCK, T)
        for c0 in range(0, D, _LOOP):
            n = min(_LOOP, D - c0)
            wide = width if many > 1 else n
            totals[:] = 0
            t = first
            while t < stop:
                start = (b * T + t) * D + c0
                if t >= K - 1 and _linked(cut, b * T + t - K + 2, b * T + stop):
                    steps, reach = stop - t, K - 1
                else:
                    steps, reach = 1, _behind(cut, b, t, K, T)
                for k in range(reach + 1):
                    total = totals[(K - 1 - k) * width + c0 :]
                    if t < k:
                        before = (b * (K - 1) + K - 1 + t - k) * D + c0
                        _add_products(total[:n], dy, start, D, state, before, D, 1)
                    else:
                        _add_steps(total, n, wide, dy, start, D, x, start - k * D, D, steps, many)
                _add_steps(totals[K * width + c0 :], n, wide, ones, 0, 0, dy, start, D, steps, many)
                t += steps
            for k in range(K + 1):
                target = sums[(r * (K + 1) + k) * D + c0 :][:n]
                for m in range(many):
                    total = totals[k * width + m * D + c0 :][:n]
                    for d in range(n):
                        target[d] += total[d]


@jit
def _add_steps(total, n, wide, u, i, p, v, j, q, steps, many):  # type: ignore[no-untyped-def]
    """`_add_products` over steps, `many` of them a row as long as there are so many; p and q are those of one step."""
    rows = steps // many
    _add_products(total[:wide], u, i, p * many, v, j, q * many, rows)
    done = rows * many
    _add_products(total[:n], u, i + done * p, p, v, j + done * q, q, steps - done)


def _arguments(x: Tensor, rows: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Any, ...]:
    """What both kernels take: `rows` are the taps, (number, D)."""
    T, D = x.shape[1:]
    many = max(1, _LOOP // D)
    cut = flat(reset)
    return flat(x), flat(rows.repeat(1, many)), many, flat(state), cut, T, state.shape[1] + 1, D, -(-T // _BLOCK)


def forward(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """(y, last K-1 inputs), as `reference.convolve`."""
    y, last = x.new_empty(x.shape), state.new_empty(state.shape)
    *arguments, blocks = _arguments(x, torch.cat([weight.t(), bias[None]]), state, reset)
    run(_forward, (*arguments, blocks, flat(y), flat(last)), len(x) * blocks, 1, x.numel())
    return y, last


def backward(
    x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dweight, dbias, dstate) from the gradients of both outputs."""
    D, K = weight.shape
    dx, dstate = x.new_empty(x.shape), state.new_empty(state.shape)
    x_, rows, many, state_, *sizes, blocks = _arguments(x, weight.t().flip(0), state, reset)
    dy_ = flat(dy)
    to_inputs = (rows, many, *sizes, blocks, dy_, flat(dlast), flat(dx), flat(dstate))
    run(_to_inputs, to_inputs, len(x) * blocks, 1, x.numel())
    sums = weight.new_zeros(len(x) * blocks, K + 1, D)
    run(_to_weights, (x_, many, state_, *sizes, blocks, dy_, flat(sums)), len(x) * blocks, 1, x.numel())
    total = sums.sum(0, dtype=torch.float64).to(weight.dtype)
    return dx, total[:K].t().contiguous(), total[K].clone(), dstate
