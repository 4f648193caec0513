"""The recurrence of Long Expressive Memory: public function, registration, backward rule."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from resurge.dispatch import kernels, select
from resurge.ops import dense
from resurge.ops.gradient import again
from resurge.ops.lem_scan import reference
from resurge.ops.registration import operator


def lem_scan(
    p: Tensor,
    R: Tensor,
    C: Tensor,
    dt: Tensor,
    y0: Tensor | None = None,
    z0: Tensor | None = None,
    *,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Two coupled states, each of which moves towards a target at a rate that it sets itself.

        [s_1, s_2, s_z] = p_t[:3D] + R y_{t-1}
        z_t = (1 - β) ⊙ z_{t-1} + β ⊙ tanh(s_z)                     β = min(1, dt_t σ(s_2))
        y_t = (1 - α) ⊙ y_{t-1} + α ⊙ tanh(p_t[3D:] + C z_t)        α = min(1, dt_t σ(s_1))

    For dt <= 1 this is the paper's equation; with larger steps, a state would overshoot its target there, and arrives
    at it here. States that start within ±1 stay there.

    Args:
        p: what the inputs add, `(B, T, 4 D)`, T >= 1: to both rates, to the target of z, to the target of y.
        R: recurrent weights `(3 D, D)` from y to both rates and to the target of z.
        C: weights `(D, D)` from the new z to the target of y.
        dt: step sizes `(B, T)`, positive.
        y0, z0: states before the first step, `(B, D)`; None is zero.
        reset: `(B, T)` bool. Where true, the row starts anew from zero.

    Returns:
        `(y, z)`: all states, each `(B, T, D)`, in float32 (float64 if an argument is).

    Gradients flow to all arguments, and from both outputs; where a rate is held at 1, none flows to it. Half precision
    is computed in float32.

    Cost: 4 D² multiplications a step, one step after the other; backward 8 D² more, and 4 D² of each recomputed, of
    which half go over all steps at once. Training keeps p, y and z: 6 D numbers a step. State: 2 D numbers a row.

    Raises:
        ResurgeError: shapes that do not fit, integer tensors, mixed devices.

    Source: eq. 3 of "Long Expressive Memory for Sequence Modeling", arXiv 2110.04744.
    """
    D = dense.check(p, 4, {"R": (R, 3), "C": (C, 1)}, {"dt": dt, "y0": y0, "z0": z0}, reset)
    dtype = dense.wide(p, R, C, y0, z0)
    p, R, C, dt = (v.to(dtype) for v in (p, R, C, dt))
    y0, z0 = (p.new_zeros(p.shape[0], D) if h is None else h.to(dtype) for h in (y0, z0))
    if select(p) in ("triton", "numba"):
        states: tuple[Tensor, Tensor] = _lem_scan(p, R, C, dt, y0, z0, reset)
        return states
    return reference.scan(p, R, C, dt, y0, z0, reset)


@operator("lem_scan")
def _lem_scan(
    p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor]:
    states: tuple[Tensor, Tensor] = kernels("lem_scan", p).forward(p, R, C, dt, y0, z0, cut)
    return states


@_lem_scan.register_fake
def _(p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, cut: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = (*p.shape[:2], y0.shape[1])
    return p.new_empty(shape), p.new_empty(shape)


@operator("lem_scan_backward")
def _lem_scan_backward(
    p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, cut: Tensor | None, y: Tensor, z: Tensor,
    dy: Tensor, dz: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    with torch.autocast(p.device.type, enabled=False):
        y_before, z_before = dense.before(y, y0, cut), dense.before(z, z0, cut)
        s = p + torch.cat([linear(y_before, R), linear(z, C)], -1)
        ds, ddt, dy0, dz0 = kernels("lem_scan", p).backward(s, R, C, dt, y_before, z_before, cut, dy, dz)
        to_y, to_z = ds.flatten(0, 1).split([R.shape[0], C.shape[0]], 1)
        return ds, to_y.T @ y_before.flatten(0, 1), to_z.T @ z.flatten(0, 1), ddt, dy0, dz0


@_lem_scan_backward.register_fake
def _(
    p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, cut: Tensor | None, y: Tensor, z: Tensor,
    dy: Tensor, dz: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        p.new_empty(p.shape), R.new_empty(R.shape), C.new_empty(C.shape), dt.new_empty(dt.shape),
        y0.new_empty(y0.shape), z0.new_empty(z0.shape),
    )  # fmt: skip


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx, dy: Tensor, dz: Tensor):  # type: ignore[no-untyped-def]
    *inputs, cut, y, z = ctx.saved_tensors
    if torch.is_grad_enabled():

        def scan(p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor) -> tuple[Tensor, Tensor]:
            return reference.scan(p, R, C, dt, y0, z0, cut)

        gradients = again(scan, inputs, (dy, dz))
    else:
        gradients = _lem_scan_backward(*inputs, cut, y, z, dy, dz)
    return *gradients, None


_lem_scan.register_autograd(_backward, setup_context=_setup_context)
