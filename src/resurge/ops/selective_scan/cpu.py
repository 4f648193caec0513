"""numba kernels of the selective scan.

A task is a block of channels of one row of the batch, over one piece of the steps. Its state lies in rows of channels,
one a component n, so that the loops run over channels side by side in memory, with B_t[n] and C_t[n] as plain numbers;
arrays come flat, and the loops over slices of one axis become vector instructions. The width of a block depends on D
alone. There is one piece, and the number of threads changes no bit, unless rows are too few for the threads and long:
what each piece comes to on its own is then found first, and joined by the kernel of the diagonal scan.

Time goes in chunks of `every` steps. The forward pass keeps the state before each and the last one, in `borders`
(B, chunks + 1, N, D); the backward pass computes the states of a chunk anew, in memory that stays in the cache, and
walks back through them.
"""

import numpy as np
import torch
from torch import Tensor

from resurge.jit import jit, summing
from resurge.ops.diagonal import cpu as diagonal
from resurge.ops.elementary import exp, sigmoid, softplus
from resurge.ops.selective_scan.chunk import edges
from resurge.ops.threads import flat, flushing, run

# Fewer steps a piece, or fewer pieces, are not worth a pass of their own.
_SHORTEST = 512
_FEWEST_FORWARD, _FEWEST_BACKWARD = 3, 2


@jit
def _take(source, rows, D, c0, n):  # type: ignore[no-untyped-def]
    """Channels c0 ... of all rows, packed."""
    target = np.empty(rows * n, source.dtype)
    for k in range(rows):
        target[k * n : (k + 1) * n] = source[k * D + c0 :][:n]
    return target


@jit
def _put(packed, n, target, rows, D, c0):  # type: ignore[no-untyped-def]
    for k in range(rows):
        target[k * D + c0 :][:n] = packed[k * n : (k + 1) * n]


@summing
def _dot(v, w, total):  # type: ignore[no-untyped-def]
    for d in range(v.size):
        total += v[d] * w[d]
    return total


@jit
def _open(delta, u, bias, step, x):  # type: ignore[no-untyped-def]
    """Δ without dt, and its product with u."""
    for d in range(step.size):
        step[d] = softplus(delta[d] + bias[d])
    for d in range(step.size):
        x[d] = step[d] * u[d]


@jit
def _scale(row, factor):  # type: ignore[no-untyped-def]
    for d in range(row.size):
        row[d] *= factor


@jit
def _gate(z, gate):  # type: ignore[no-untyped-def]
    for d in range(gate.size):
        gate[d] = z[d] * sigmoid(z[d])


@jit
def _forward(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, skip, z, bias, dt, cut, every, T, length, pieces, N, D, width, blocks,
    starts, y, borders, r0, r1, _0, _1,
):  # fmt: skip
    chunks = (T - 1) // every + 1
    for r in range(r0, r1):
        row, c0 = r // blocks, (r % blocks) * width
        b, first = row // pieces, row % pieces * length
        n = min(width, D - c0)
        A_, skip_, bias_ = _take(A, N, D, c0, n), skip[c0:][:n], bias[c0:][:n]
        h = _take(starts[row * N * D :], N, D, c0, n)
        step, x, gate = np.empty(n, u.dtype), np.empty(n, u.dtype), np.empty(n, u.dtype)
        for t in range(first, min(first + length, T)):
            at = b * T + t
            if t % every == 0:
                _put(h, n, borders[(b * (chunks + 1) + t // every) * N * D :], N, D, c0)
            if cut.size > 0 and cut[at]:
                h[:] = 0
            u_t, y_t, B_t, C_t = u[at * D + c0 :][:n], y[at * D + c0 :][:n], B[at * N :][:N], C[at * N :][:N]
            _open(delta[at * D + c0 :][:n], u_t, bias_, step, x)
            if dt.size > 0:
                _scale(step, dt[at])
                _scale(x, dt[at])
            for d in range(n):
                y_t[d] = skip_[d] * u_t[d]
            for k in range(N):
                A_k, h_k, B_tk, C_tk = A_[k * n :][:n], h[k * n :][:n], B_t[k], C_t[k]
                for d in range(n):
                    h_k[d] = exp(step[d] * A_k[d]) * h_k[d] + B_tk * x[d]
                    y_t[d] += C_tk * h_k[d]
            if z.size > 0:
                _gate(z[at * D + c0 :][:n], gate)
                for d in range(n):
                    y_t[d] *= gate[d]
        if first + length >= T:
            _put(h, n, borders[(b * (chunks + 1) + chunks) * N * D :], N, D, c0)


@jit
def _summary(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, skip, z, bias, dt, cut, every, T, length, pieces, N, D, width, blocks, dy, backward, gain, end,
    r0, r1, _0, _1,
):  # fmt: skip
    """What a piece ends with if it starts from zero, and how much of what it starts from is left then.

    `backward`: the gradient in front of it if there is none behind, and how much is left of one behind.
    """
    zero = u.dtype.type(0)
    for r in range(r0, r1):
        row, c0 = r // blocks, (r % blocks) * width
        b, first = row // pieces, row % pieces * length
        n, steps = min(width, D - c0), min(length, T - first)
        A_, bias_ = _take(A, N, D, c0, n), bias[c0:][:n]
        h, step, x, to_y = np.zeros(N * n, u.dtype), np.empty(n, u.dtype), np.empty(n, u.dtype), np.empty(n, u.dtype)
        elapsed, linked = np.zeros(n), True
        for i in range(steps):
            at = b * T + first + (steps - 1 - i if backward else i)
            is_cut = cut.size > 0 and cut[at]
            linked = linked and not is_cut
            _open(delta[at * D + c0 :][:n], u[at * D + c0 :][:n], bias_, step, x)
            if dt.size > 0:
                _scale(step, dt[at])
                _scale(x, dt[at])
            for d in range(n):
                elapsed[d] += step[d]
            if backward:
                to_y[:] = dy[at * D + c0 :][:n]
                if z.size > 0:
                    _gate(z[at * D + c0 :][:n], x)
                    for d in range(n):
                        to_y[d] *= x[d]
                for k in range(N):
                    A_k, h_k, C_k = A_[k * n :][:n], h[k * n :][:n], C[at * N + k]
                    for d in range(n):
                        h_k[d] = exp(step[d] * A_k[d]) * (h_k[d] + C_k * to_y[d])
            if is_cut:
                h[:] = 0
            if not backward:
                for k in range(N):
                    A_k, h_k, B_k = A_[k * n :][:n], h[k * n :][:n], B[at * N + k]
                    for d in range(n):
                        h_k[d] = exp(step[d] * A_k[d]) * h_k[d] + B_k * x[d]
        for d in range(n):
            step[d] = elapsed[d]
        for k in range(N):
            A_k = A_[k * n :][:n]
            for d in range(n):
                A_k[d] = exp(step[d] * A_k[d]) if linked else zero
        _put(A_, n, gain[row * N * D :], N, D, c0)
        _put(h, n, end[row * N * D :], N, D, c0)


@jit
def _again(A, B, step, x, skip, u, cut, C, decays, states, y, at, steps, N, D, c0, n, gated):  # type: ignore[no-untyped-def]
    """The chunk once more from `states[0]`: its decays, its states, and, if they are gated, its outputs."""
    size = N * n
    for s in range(steps):
        before, after, decay = states[s * size :][:size], states[(s + 1) * size :][:size], decays[s * size :][:size]
        step_s, x_s, y_s = step[s * n :][:n], x[s * n :][:n], y[s * n :][:n]
        is_cut = cut.size > 0 and cut[at + s]
        for k in range(N):
            A_k, h, v, e = A[k * n :][:n], before[k * n :][:n], after[k * n :][:n], decay[k * n :][:n]
            B_k = B[(at + s) * N + k]
            if is_cut:
                for d in range(n):
                    v[d] = B_k * x_s[d]
            else:
                for d in range(n):
                    e[d] = exp(step_s[d] * A_k[d])
                    v[d] = e[d] * h[d] + B_k * x_s[d]
        if gated:
            u_s = u[(at + s) * D + c0 :][:n]
            for d in range(n):
                y_s[d] = skip[d] * u_s[d]
            for k in range(N):
                v, C_k = after[k * n :][:n], C[(at + s) * N + k]
                for d in range(n):
                    y_s[d] += C_k * v[d]


@jit
def _behind(g, decay, before, A, step, w, to_step, dA, is_cut, N, n):  # type: ignore[no-untyped-def]
    """From the gradient g of a state: w = g ⊙ decay ⊙ before, what is due to the decay; g becomes that of `before`."""
    if is_cut:
        g[:] = 0
        return
    for i in range(N * n):
        g[i] *= decay[i]
        w[i] = g[i] * before[i]
    for k in range(N):
        w_k, A_k, dA_k = w[k * n :][:n], A[k * n :][:n], dA[k * n :][:n]
        for d in range(n):
            to_step[d] += A_k[d] * w_k[d]
            dA_k[d] += step[d] * w_k[d]


@jit
def _backward(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, skip, z, bias, dt, cut, every, T, length, pieces, N, D, width, blocks, borders, dy, carries,
    du, ddelta, dA, dB, dC, dskip, dz, dbias, fronts, ddt, r0, r1, _0, _1,
):  # fmt: skip
    """g_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1}, and from it all gradients; sums over time in float64, by chunks."""
    chunks = (T - 1) // every + 1
    kind, zero = u.dtype, u.dtype.type(0)
    for r in range(r0, r1):
        row, block = r // blocks, r % blocks
        b, begin = row // pieces, row % pieces * length
        end = min(begin + length, T)
        c0 = block * width
        n = min(width, D - c0)
        size = N * n
        A_, skip_, bias_ = _take(A, N, D, c0, n), skip[c0:][:n], bias[c0:][:n]
        g = _take(carries[row * N * D :], N, D, c0, n)
        most = min(every, T)
        decays, states, w = np.empty(most * size, kind), np.empty((most + 1) * size, kind), np.empty(size, kind)
        step, x, y = np.empty(most * n, kind), np.empty(most * n, kind), np.empty(most * n, kind)
        other, to_y, to_x, to_step = np.empty(n, kind), np.empty(n, kind), np.empty(n, kind), np.empty(n, kind)
        sum_A, sum_skip, sum_bias = np.zeros(size, kind), np.zeros(n, kind), np.zeros(n, kind)
        for chunk in range((end - 1) // every, begin // every - 1, -1):
            first = chunk * every
            steps, at = min(every, end - first), b * T + first
            states[:size] = _take(borders[(b * (chunks + 1) + chunk) * N * D :], N, D, c0, n)
            for s in range(steps):
                step_s, x_s, place = step[s * n :][:n], x[s * n :][:n], (at + s) * D + c0
                _open(delta[place:][:n], u[place:][:n], bias_, step_s, x_s)
                if dt.size > 0:
                    _scale(step_s, dt[at + s])
                    _scale(x_s, dt[at + s])
            _again(A_, B, step, x, skip_, u, cut, C, decays, states, y, at, steps, N, D, c0, n, z.size > 0)
            for s in range(steps - 1, -1, -1):
                t, place = at + s, (at + s) * D + c0
                u_t, dy_t, du_t = u[place:][:n], dy[place:][:n], du[place:][:n]
                delta_t, ddelta_t = delta[place:][:n], ddelta[place:][:n]
                step_s, x_s = step[s * n :][:n], x[s * n :][:n]
                if z.size > 0:
                    _ungate(z[place:][:n], dy_t, y[s * n :][:n], to_y, dz[place:][:n])
                else:
                    to_y[:] = dy_t
                to_x[:] = 0
                to_step[:] = 0
                for k in range(N):
                    g_k, B_k, C_k = g[k * n :][:n], B[t * N + k], C[t * N + k]
                    for d in range(n):
                        value = g_k[d] + C_k * to_y[d]
                        g_k[d] = value
                        to_x[d] += B_k * value
                    at_k = (block * B.size // N + t) * N + k
                    dB[at_k] = _dot(g_k, x_s, zero)
                    dC[at_k] = _dot(states[(s + 1) * size + k * n :][:n], to_y, zero)
                _behind(
                    g, decays[s * size :][:size], states[s * size :][:size], A_, step_s, w, to_step, sum_A,
                    cut.size > 0 and cut[t], N, n,
                )  # fmt: skip
                for d in range(n):
                    to_step[d] += to_x[d] * u_t[d]
                    du_t[d] = to_x[d] * step_s[d] + to_y[d] * skip_[d]
                    sum_skip[d] += to_y[d] * u_t[d]
                if dt.size > 0:
                    for d in range(n):
                        other[d] = softplus(delta_t[d] + bias_[d])
                    ddt[block * (B.size // N) + t] = _dot(to_step, other, zero)
                    _scale(to_step, dt[t])
                _close(delta_t, bias_, to_step, other, ddelta_t, sum_bias)
            _add(sum_A, n, dA[row * N * D :], N, D, c0)
            _add(sum_skip, n, dskip[row * D :], 1, D, c0)
            _add(sum_bias, n, dbias[row * D :], 1, D, c0)
        _put(g, n, fronts[row * N * D :], N, D, c0)


@jit
def _ungate(z, dy, y, to_y, dz):  # type: ignore[no-untyped-def]
    """y silu(z) backward: the gradients to y and z."""
    for d in range(z.size):
        s = sigmoid(z[d])
        to_y[d] = dy[d] * z[d] * s
        dz[d] = dy[d] * y[d] * s * (1 + z[d] * (1 - s))


@jit
def _close(delta, bias, to_step, slope, ddelta, dbias):  # type: ignore[no-untyped-def]
    """Through the softplus: the gradient to delta, added to that of the bias."""
    for d in range(slope.size):
        slope[d] = sigmoid(delta[d] + bias[d])
    for d in range(slope.size):
        ddelta[d] = to_step[d] * slope[d]
        dbias[d] += to_step[d] * slope[d]


@jit
def _add(packed, n, target, rows, D, c0):  # type: ignore[no-untyped-def]
    """Add packed channels to wider numbers, and start them anew."""
    for k in range(rows):
        source, wide = packed[k * n : (k + 1) * n], target[k * D + c0 :][:n]
        for d in range(n):
            wide[d] += source[d]
            source[d] = 0


def _width(D: int) -> int:
    """Channels a block: long enough for the loops, and blocks enough for some threads."""
    return min(128, max(64, -(-D // 4)))


def _plan(u, delta, A, B, C, skip, z, bias, dt, cut, every, fewest):  # type: ignore[no-untyped-def]
    """What all kernels take, with empty arrays for what is None; and the numbers of pieces and of tasks.

    Fewer than `fewest` pieces are one.
    """
    (rows, T, D), N = u.shape, A.shape[1]
    width = _width(D)
    blocks = -(-D // width)
    wanted = min(torch.get_num_threads() // (rows * blocks), T // _SHORTEST)
    length = -(-T // wanted // every) * every if wanted >= fewest else T
    pieces = -(-T // length)
    z, dt = (u[:0] if v is None else v for v in (z, dt))
    tensors = (*(flat(v) for v in (u, delta, A.t(), B, C, skip, z, bias, dt)), flat(cut))
    return (*tensors, every, T, length, pieces, N, D, width, blocks), pieces, rows * pieces * blocks


def _edges(arguments, edge, dy, pieces, tasks, elements):  # type: ignore[no-untyped-def]
    """What each piece starts from, (B, pieces, N, D): the state before it, or with dy the gradient from behind it."""
    if pieces == 1:
        return edge[:, None]
    backward = dy is not None
    gain, end = torch.empty(2, len(edge), pieces, *edge.shape[1:], dtype=edge.dtype)
    run(flushing(_summary), (*arguments, flat(dy), backward, flat(gain), flat(end)), tasks, 1, elements)
    return edges(diagonal, gain, end, edge, backward=backward)


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor, h0: Tensor,
    dt: Tensor | None, cut: Tensor | None, every: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(y, last state), as `reference.scan`; and the states before all chunks and after the last one."""
    (rows, T, D), N = u.shape, A.shape[1]
    arguments, pieces, tasks = _plan(u, delta, A, B, C, skip, z, bias, dt, cut, every, _FEWEST_FORWARD)
    starts = _edges(arguments, h0.mT, None, pieces, tasks, u.numel() * N)
    y, borders = u.new_empty(u.shape), h0.new_empty(rows, (T - 1) // every + 2, N, D)
    results = (flat(v) for v in (y, borders))
    run(flushing(_forward), (*arguments, flat(starts), *results), tasks, 1, u.numel() * N)
    return y, borders[:, -1].mT.contiguous(), borders


def backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor, h0: Tensor,
    dt: Tensor | None, cut: Tensor | None, every: int, borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients to u, delta, A, B, C, skip, z, bias, h0 and dt; empty ones to what is None."""
    (rows, T, D), N = u.shape, A.shape[1]
    arguments, pieces, tasks = _plan(u, delta, A, B, C, skip, z, bias, dt, cut, every, _FEWEST_BACKWARD)
    carries = _edges(arguments, dlast.mT, dy, pieces, tasks, u.numel() * N)
    blocks = tasks // (rows * pieces)
    du, ddelta, dz = u.new_empty(u.shape), u.new_empty(u.shape), u.new_empty(0 if z is None else u.shape)
    dA, dskip, dbias = (torch.zeros(rows * pieces, *shape, dtype=torch.float64) for shape in ((N, D), (D,), (D,)))
    dB, dC = u.new_empty(blocks, rows, T, N), u.new_empty(blocks, rows, T, N)
    fronts, ddt = h0.new_empty(rows, pieces, N, D), u.new_empty(blocks, *(0,) if dt is None else (rows, T))
    gradients = (du, ddelta, dA, dB, dC, dskip, dz, dbias, fronts, ddt)
    tensors = (flat(v) for v in (borders, dy, carries, *gradients))
    run(flushing(_backward), (*arguments, *tensors), tasks, 1, u.numel() * N)
    dA, dskip, dbias = (v.sum(0).to(A.dtype) for v in (dA, dskip, dbias))
    dB, dC, ddt = (v.sum(0) for v in (dB, dC, ddt))
    return du, ddelta, dA.t().contiguous(), dB, dC, dskip, dz, dbias, fronts[:, 0].mT.contiguous(), ddt
