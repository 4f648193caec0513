"""Triton kernels of the LEM scan. Backward, the sums s of each step are known beforehand."""

import triton
import triton.language as tl
from torch import Tensor

from resurge.ops.dense.gpu import _add_product, _kept, _row, _sigmoid, _tanh
from resurge.ops.launch import launch


@triton.jit(do_not_specialize=["T"])
def lem_forward(p, R, C, dt, y0, z0, cut, y, z, T, D, CUT: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    y_before, z_before = y0 + b * D, z0 + b * D
    for t in range(T):
        at, kept = _row(b, t, T, D), _kept(cut, b, t, T, CUT)
        step = tl.load(dt + b * T + t)
        p_t = p + 4 * at
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            p_2, p_z = tl.load(p_t + D + o, o < D, 0.0), tl.load(p_t + 2 * D + o, o < D, 0.0)
            s_2 = _add_product(p_2, R + D * D, y_before, o, D, False, BLOCK)
            s_z = _add_product(p_z, R + 2 * D * D, y_before, o, D, False, BLOCK)
            rate = tl.minimum(step * _sigmoid(tl.where(kept, s_2, p_2)), 1.0)
            kept_z = tl.where(kept, tl.load(z_before + o, o < D, 0.0), 0.0)
            tl.store(z + at + o, (1 - rate) * kept_z + rate * _tanh(tl.where(kept, s_z, p_z)), o < D)
        tl.debug_barrier()
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            p_1, p_y = tl.load(p_t + o, o < D, 0.0), tl.load(p_t + 3 * D + o, o < D, 0.0)
            s_1 = _add_product(p_1, R, y_before, o, D, False, BLOCK)
            s_y = _add_product(p_y, C, z + at, o, D, False, BLOCK)
            rate = tl.minimum(step * _sigmoid(tl.where(kept, s_1, p_1)), 1.0)
            kept_y = tl.where(kept, tl.load(y_before + o, o < D, 0.0), 0.0)
            tl.store(y + at + o, (1 - rate) * kept_y + rate * _tanh(s_y), o < D)
        tl.debug_barrier()
        y_before, z_before = y + at, z + at


@triton.jit
def _to_sums(s, target, before, step, g):
    """Back through h = (1 - r) before + r tanh(target), r = min(1, step σ(s)), from the gradient g to h.

    The gradients to s, to target, to before, and to step, a term for each number.
    """
    gate, u = _sigmoid(s), _tanh(target)
    free = step * gate <= 1
    rate = tl.where(free, step * gate, 1.0)
    to_gate = tl.where(free, g * (u - before), 0.0)
    return to_gate * step * gate * (1 - gate), g * rate * (1 - u * u), g * (1 - rate), to_gate * gate


@triton.jit(do_not_specialize=["T"])
def lem_backward(
    s, R, C, dt, y_before, z_before, cut, dy, dz, ds, ddt, dy0, dz0, T, D, CUT: tl.constexpr, BLOCK: tl.constexpr
):
    """`dy0` and `dz0` (B, D) come in as zeros, and hold what is carried from behind."""
    b = tl.program_id(0).to(tl.int64)
    to_y, to_z = dy0 + b * D, dz0 + b * D
    for k in range(T):
        t = T - 1 - k
        at, kept = _row(b, t, T, D), _kept(cut, b, t, T, CUT)
        step = tl.load(dt + b * T + t)
        s_t, ds_t = s + 4 * at, ds + 4 * at
        to_step = tl.zeros([BLOCK], s.dtype.element_ty)
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            g = tl.load(dy + at + o, o < D, 0.0) + tl.load(to_y + o, o < D, 0.0)
            s_1, s_y = tl.load(s_t + o, o < D, 0.0), tl.load(s_t + 3 * D + o, o < D, 0.0)
            ds_1, ds_y, carried, part = _to_sums(s_1, s_y, tl.load(y_before + at + o, o < D, 0.0), step, g)
            tl.store(ds_t + o, ds_1, o < D)
            tl.store(ds_t + 3 * D + o, ds_y, o < D)
            tl.store(to_y + o, carried, o < D)
            to_step += part
        tl.debug_barrier()
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            g = tl.load(dz + at + o, o < D, 0.0) + tl.load(to_z + o, o < D, 0.0)
            g = _add_product(g, C, ds_t + 3 * D, o, D, True, BLOCK)
            s_2, s_z = tl.load(s_t + D + o, o < D, 0.0), tl.load(s_t + 2 * D + o, o < D, 0.0)
            ds_2, ds_z, carried, part = _to_sums(s_2, s_z, tl.load(z_before + at + o, o < D, 0.0), step, g)
            tl.store(ds_t + D + o, ds_2, o < D)
            tl.store(ds_t + 2 * D + o, ds_z, o < D)
            tl.store(to_z + o, tl.where(kept, carried, 0.0), o < D)
            to_step += part
        tl.store(ddt + b * T + t, tl.sum(to_step, 0))
        tl.debug_barrier()
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            g = tl.load(to_y + o, o < D, 0.0)
            for gate in range(3):
                g = _add_product(g, R + gate * D * D, ds_t + gate * D, o, D, True, BLOCK)
            tl.store(to_y + o, tl.where(kept, g, 0.0), o < D)
        tl.debug_barrier()


def forward(
    p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All states y and z, as `reference.scan`."""
    (B, T), D = dt.shape, y0.shape[1]
    y, z = p.new_empty(B, T, D), p.new_empty(B, T, D)
    given = (v if v is None else v.contiguous() for v in (p, R, C, dt, y0, z0, cut))
    launch(lem_forward, lambda _: B, *given, y, z, T, D, CUT=cut is not None)
    return y, z


def backward(
    s: Tensor, R: Tensor, C: Tensor, dt: Tensor, y_before: Tensor, z_before: Tensor, cut: Tensor | None, dy: Tensor,
    dz: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients to the sums s (B, T, 4 D), to dt, and to the states before the first step."""
    (B, T), D = dt.shape, R.shape[1]
    ds, ddt, dy0, dz0 = s.new_empty(s.shape), s.new_empty(B, T), s.new_zeros(B, D), s.new_zeros(B, D)
    given = (v if v is None else v.contiguous() for v in (s, R, C, dt, y_before, z_before, cut, dy, dz))
    launch(lem_backward, lambda _: B, *given, ds, ddt, dy0, dz0, T, D, CUT=cut is not None)
    return ds, ddt, dy0, dz0
