"""numba kernels of the LEM scan: rows of the batch in parallel, their steps one after the other.

Arrays come flat. Weights come in rows of what they multiply, so that a product is a sum of rows. Backward, the sums s
of each step are known beforehand, and the products that gave them need not be taken again.
"""

import numpy as np
from torch import Tensor

from resurge.jit import jit, summing
from resurge.ops.dense.cpu import add_product
from resurge.ops.elementary import sigmoid, tanh
from resurge.ops.threads import flat, run


@jit
def _forward(p, R, C, dt, y0, z0, cut, T, D, y, z, b0, b1, _0, _1):  # type: ignore[no-untyped-def]
    one = p.dtype.type(1)
    s = np.empty(4 * D, p.dtype)
    s_1, s_2, s_z, s_y = s[:D], s[D:][:D], s[2 * D :][:D], s[3 * D :]
    for b in range(b0, b1):
        y_t, z_t = y0[b * D :][:D].copy(), z0[b * D :][:D].copy()
        for i in range(b * T, (b + 1) * T):
            if cut.size > 0 and cut[i]:
                y_t[:] = 0
                z_t[:] = 0
            s[:] = p[i * 4 * D :][: 4 * D]
            add_product(s[: 3 * D], y_t, R)
            step = dt[i]
            for d in range(D):
                rate = min(step * sigmoid(s_2[d]), one)
                z_t[d] = (one - rate) * z_t[d] + rate * tanh(s_z[d])
            add_product(s_y, z_t, C)
            for d in range(D):
                rate = min(step * sigmoid(s_1[d]), one)
                y_t[d] = (one - rate) * y_t[d] + rate * tanh(s_y[d])
            y[i * D :][:D] = y_t
            z[i * D :][:D] = z_t


@jit
def _to_sums(s, target, before, step, gradient, to_rate, to_target, to_step, carry):  # type: ignore[no-untyped-def]
    """Back through h = (1 - r) h_before + r tanh(target), r = min(1, step σ(s)), from the gradient to h."""
    one, zero = s.dtype.type(1), s.dtype.type(0)
    for d in range(s.size):
        gate, u, g = sigmoid(s[d]), tanh(target[d]), gradient[d]
        free = step * gate <= one
        rate = step * gate if free else one
        to_gate = g * (u - before[d]) if free else zero
        to_step[d] = to_gate * gate
        to_rate[d] = to_gate * step * gate * (one - gate)
        to_target[d] = g * rate * (one - u * u)
        carry[d] = g * (one - rate)


@summing
def _sum(v):  # type: ignore[no-untyped-def]
    total = v[0]
    for d in range(1, v.size):
        total += v[d]
    return total


@jit
def _backward(  # type: ignore[no-untyped-def]
    s, R, C, dt, y_before, z_before, cut, T, D, dy, dz, ds, ddt, dy0, dz0, b0, b1, _0, _1
):
    g, to_step = np.empty(D, s.dtype), np.empty(2 * D, s.dtype)
    for b in range(b0, b1):
        to_y, to_z = dy0[b * D :][:D], dz0[b * D :][:D]  # carried from behind
        to_y[:] = 0
        to_z[:] = 0
        for i in range((b + 1) * T - 1, b * T - 1, -1):
            s_t, ds_t = s[i * 4 * D :], ds[i * 4 * D :]
            s_1, s_2, s_z, s_y = s_t[:D], s_t[D:][:D], s_t[2 * D :][:D], s_t[3 * D :][:D]
            ds_1, ds_2, ds_z, ds_y = ds_t[:D], ds_t[D:][:D], ds_t[2 * D :][:D], ds_t[3 * D :][:D]
            dy_t, dz_t = dy[i * D :][:D], dz[i * D :][:D]
            for d in range(D):
                g[d] = dy_t[d] + to_y[d]
            _to_sums(s_1, s_y, y_before[i * D :][:D], dt[i], g, ds_1, ds_y, to_step[:D], to_y)
            for d in range(D):
                g[d] = dz_t[d] + to_z[d]
            add_product(g, ds_y, C)
            _to_sums(s_2, s_z, z_before[i * D :][:D], dt[i], g, ds_2, ds_z, to_step[D:], to_z)
            add_product(to_y, ds_t[: 3 * D], R)
            ddt[i] = _sum(to_step)
            if cut.size > 0 and cut[i]:
                to_y[:] = 0
                to_z[:] = 0


def forward(
    p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All states y and z, as `reference.scan`."""
    (B, T), D = dt.shape, y0.shape[1]
    y, z = p.new_empty(B, T, D), p.new_empty(B, T, D)
    arguments = (*(flat(v) for v in (p, R.T, C.T, dt, y0, z0, cut)), T, D, flat(y), flat(z))
    run(_forward, arguments, B, 1, p.numel() * D)
    return y, z


def backward(
    s: Tensor, R: Tensor, C: Tensor, dt: Tensor, y_before: Tensor, z_before: Tensor, cut: Tensor | None, dy: Tensor,
    dz: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients to the sums s (B, T, 4 D), to dt, and to the states before the first step."""
    (B, T), D = dt.shape, R.shape[1]
    ds, ddt, dy0, dz0 = (s.new_empty(shape) for shape in (s.shape, (B, T), (B, D), (B, D)))
    given = (flat(v) for v in (s, R, C, dt, y_before, z_before, cut))
    arguments = (*given, T, D, *(flat(v) for v in (dy, dz, ds, ddt, dy0, dz0)))
    run(_backward, arguments, B, 1, s.numel() * D)
    return ds, ddt, dy0, dz0
