"""The simple recurrent network with the logistic function: public function, registration, backward rule."""

import torch
from torch import Tensor

from resurge.dispatch import kernels, select
from resurge.ops import dense
from resurge.ops.gradient import again
from resurge.ops.registration import operator
from resurge.ops.sigmoid_scan import reference


def sigmoid_scan(p: Tensor, R: Tensor, h0: Tensor | None = None, *, reset: Tensor | None = None) -> Tensor:
    """The simple recurrent network with logistic units.

        h_t = σ(p_t + R h_{t-1})        t = 1 ... T

    Args:
        p: what the inputs add, `(B, T, D)`, T >= 1.
        R: recurrent weights `(D, D)`.
        h0: state before the first step, `(B, D)`; None is zero.
        reset: `(B, T)` bool. Where true, the row starts anew from zero.

    Returns:
        All states `(B, T, D)`, in float32 (float64 if an argument is).

    Gradients flow to p, R and h0. Half precision is computed in float32.

    Cost: D² multiplications a step, one step after the other; backward 2 D², half of them over all steps at once.
    Training keeps h. State: D numbers a row.

    Raises:
        ResurgeError: shapes that do not fit, integer tensors, mixed devices.

    Source: "Finding Structure in Time", Elman, Cognitive Science 14(2), 1990, as in "Learning Longer Memory in
    Recurrent Neural Networks", arXiv 1412.7753, eq. 1.
    """
    D = dense.check(p, 1, {"R": (R, 1)}, {"h0": h0}, reset)
    dtype = dense.wide(p, R, h0)
    p, R = p.to(dtype), R.to(dtype)
    h0 = p.new_zeros(p.shape[0], D) if h0 is None else h0.to(dtype)
    if select(p) in ("triton", "numba"):
        h: Tensor = _sigmoid_scan(p, R, h0, reset)
        return h
    return reference.scan(p, R, h0, reset)


@operator("sigmoid_scan")
def _sigmoid_scan(p: Tensor, R: Tensor, h0: Tensor, cut: Tensor | None) -> Tensor:
    h: Tensor = kernels("sigmoid_scan", p).forward(p, R, h0, cut)
    return h


@_sigmoid_scan.register_fake
def _(p: Tensor, R: Tensor, h0: Tensor, cut: Tensor | None) -> Tensor:
    return p.new_empty(p.shape)


@operator("sigmoid_scan_backward")
def _sigmoid_scan_backward(
    R: Tensor, h0: Tensor, cut: Tensor | None, h: Tensor, dh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(h.device.type, enabled=False):
        dp, dh0 = kernels("sigmoid_scan", h).backward(R, cut, h, dh)
        return dp, dp.flatten(0, 1).T @ dense.before(h, h0, cut).flatten(0, 1), dh0


@_sigmoid_scan_backward.register_fake
def _(R: Tensor, h0: Tensor, cut: Tensor | None, h: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), R.new_empty(R.shape), h0.new_empty(h0.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs, output)


def _backward(ctx, dh: Tensor):  # type: ignore[no-untyped-def]
    p, R, h0, cut, h = ctx.saved_tensors
    if torch.is_grad_enabled():
        gradients = again(lambda p, R, h0: (reference.scan(p, R, h0, cut),), (p, R, h0), (dh,))
    else:
        gradients = _sigmoid_scan_backward(R, h0, cut, h, dh)
    return *gradients, None


_sigmoid_scan.register_autograd(_backward, setup_context=_setup_context)
