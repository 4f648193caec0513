"""The short causal convolution of each channel: public function, checks, registration, backward rule."""

import torch
from torch import Tensor

from resurge.dispatch import kernels, select
from resurge.errors import ResurgeError
from resurge.ops.gradient import again
from resurge.ops.registration import operator
from resurge.ops.short_conv import composable, reference

WIDTHS = range(2, 9)


def short_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, state: Tensor | None = None, *, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Causal convolution of each channel over the last K steps (depthwise).

        y_t = bias + Σ_{k=0}^{K-1} weight[:, K-1-k] ⊙ x_{t-k}        t = 1 ... T,  elementwise over D

    Args:
        x: inputs `(B, T, D)`, T >= 1; T may be less than K.
        weight: `(D, K)`, K from 2 to 8; the last column multiplies the current step.
        bias: `(D,)`; None is zero.
        state: the K-1 inputs before the first step, the latest last, `(B, K-1, D)`; None is zeros.
        reset: `(B, T)` bool. Where true, the row starts anew: nothing from before t enters at t or later.

    Returns:
        `(y, new_state)`: outputs `(B, T, D)` in the dtype of x, and the last K-1 inputs `(B, K-1, D)` in float32
        (float64 if x or weight is), zeros in the place of those before the last reset. It is the state for the next
        piece of the sequence.

    Gradients flow to x, weight, bias and state, and from both y and new_state. Half precision is computed in float32.

    Cost: one pass over memory forward, one backward. State: (K-1) D numbers a row.

    Raises:
        ResurgeError: shapes that do not fit, a width out of range, integer tensors, mixed devices.

    Source: the temporal convolution of H3, "Hungry Hungry Hippos", arXiv 2212.14052; taps ordered as in
    `torch.nn.Conv1d`.
    """
    _check(x, weight, bias, state, reset)
    dtype = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    D, K = weight.shape
    weight = weight.to(dtype)
    bias = weight.new_zeros(D) if bias is None else bias.to(dtype)
    state = weight.new_zeros(x.shape[0], K - 1, D) if state is None else state.to(dtype)
    serving = select(x)
    if serving == "triton" and dtype == torch.float32:  # its kernels read and write half precision themselves
        y, last = _short_conv(x, weight, bias, state, reset)
    elif serving in ("triton", "numba"):
        y, last = _short_conv(x.to(dtype), weight, bias, state, reset)
    else:
        convolve = reference.convolve if serving == "reference" else composable.convolve
        y, last = convolve(x.to(dtype), weight, bias, state, reset)
    return y.to(x.dtype), last


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, reset: Tensor | None) -> None:
    if x.dim() != 3 or 0 in x.shape:
        raise ResurgeError(f"x must have shape (B, T, D) with B, T, D >= 1, and has {tuple(x.shape)}")
    B, T, D = x.shape
    if weight.dim() != 2 or weight.shape[0] != D or not WIDTHS[0] <= weight.shape[1] <= WIDTHS[-1]:
        raise ResurgeError(
            f"weight must have shape (D, K) with D = {D} and K from {WIDTHS[0]} to {WIDTHS[-1]}, "
            f"and has {tuple(weight.shape)}"
        )
    K = weight.shape[1]
    if bias is not None and tuple(bias.shape) != (D,):
        raise ResurgeError(f"bias must have shape (D,) = ({D},), and has {tuple(bias.shape)}")
    if state is not None and tuple(state.shape) != (B, K - 1, D):
        raise ResurgeError(f"state must have shape (B, K-1, D) = {(B, K - 1, D)}, and has {tuple(state.shape)}")
    if reset is not None and (reset.dtype != torch.bool or tuple(reset.shape) != (B, T)):
        raise ResurgeError(
            f"reset must be bool of shape (B, T) = ({B}, {T}), and is {reset.dtype} of {tuple(reset.shape)}"
        )
    for name, value in (("x", x), ("weight", weight), ("bias", bias), ("state", state)):
        if value is not None and not value.is_floating_point():
            raise ResurgeError(f"{name} must be floating point, and is {value.dtype}")
    for name, value in (("weight", weight), ("bias", bias), ("state", state), ("reset", reset)):
        if value is not None and value.device != x.device:
            raise ResurgeError(f"{name} is on {value.device}, and x is on {x.device}: both must be on one device")


@operator("short_conv")
def _short_conv(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor] = kernels("short_conv", x).forward(x, weight, bias, state, reset)
    return outputs


@_short_conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), state.new_empty(state.shape)


@operator("short_conv_backward")
def _short_conv_backward(
    x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor, Tensor] = kernels("short_conv", x).backward(
        x, weight, state, reset, dy, dlast
    )
    return gradients


@_short_conv_backward.register_fake
def _(
    x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    D, K = weight.shape
    return x.new_empty(x.shape), weight.new_empty(D, K), weight.new_empty(D), state.new_empty(state.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, dy: Tensor, dlast: Tensor):  # type: ignore[no-untyped-def]
    x, weight, bias, state, reset = ctx.saved_tensors
    if torch.is_grad_enabled():

        def convolve(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            y, last = composable.convolve(x.to(weight.dtype), weight, bias, state, reset)
            return y.to(x.dtype), last

        gradients = again(convolve, (x, weight, bias, state), (dy, dlast))
    else:
        gradients = _short_conv_backward(x, weight, state, reset, dy, dlast)
    return *gradients, None


_short_conv.register_autograd(_backward, setup_context=_setup_context)
