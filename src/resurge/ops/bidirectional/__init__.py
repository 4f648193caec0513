"""The diagonal linear recurrence in both directions of time: public functions, registration, backward rule."""

import torch
from torch import Tensor

from resurge.dispatch import kernels, select
from resurge.ops.diagonal import _check, _complex, _pairs, behind, composed, with_axes
from resurge.ops.diagonal.form import PLAIN
from resurge.ops.gradient import again
from resurge.ops.registration import operator


def bidirectional_scan(a: Tensor, x: Tensor, *, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Diagonal linear recurrence in both directions of time over the same inputs, real or complex.

        ahead_t = a_t ahead_{t-1} + x_t        t = 1 ... T,  elementwise over D
        back_t  = a_t back_{t+1}  + x_t        t = T ... 1

    Args:
        a: coefficients of both ways, `(D,)` constant in time, `(T, D)`, `(B, T, D)`, or `(B, 1, D)`.
        x: inputs `(B, T, D)`, T >= 1. If `a` or `x` is complex, both are taken as complex.
        reset: `(B, T)` bool. True cuts the link between t-1 and t for both ways: a sequence starts at t, and another
            one ends at t-1.

    Returns:
        `(ahead, back)`, each `(B, T, D)` in the dtype of x (complex64 at least if a or x is complex). Both ways start
        from zero, and there is no state to go on from: each output has seen the whole sequence.

    Equal to two calls of `resurge.ops.diagonal_scan`, one of them in reverse, without their sums: the gradients to x
    and to a are made as sums of both ways. Half precision is computed and carried in float32.

    Cost: forward x is read and both results are written, backward the gradients and the results are read and the
    gradient of x is written. In memory, x is read a second time where a row of the batch does not fit in the cache;
    the backward pass keeps x and both results.

    Raises:
        ResurgeError: shapes that do not fit, integer tensors, mixed devices.

    Source: the bidirectional layers of "Simplified State Space Layers for Sequence Modeling", arXiv 2208.04933.
    """
    if not (a.is_complex() or x.is_complex()):
        _check(a, x, None, reset, pairs=False)
        return _scan(a, x, reset)
    a, x = _pairs(a), _pairs(x)
    _check(a, x, None, reset, pairs=True)
    ahead, back = (v if v.dtype == torch.float64 else v.float() for v in _scan(a, x, reset))
    return _complex(ahead), _complex(back)


def bidirectional_scan_pairs(a: Tensor, x: Tensor, *, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The complex `bidirectional_scan` for numbers kept as pairs of reals: a row of real parts, one of imaginary ones.

    a `(2, D)`, `(T, 2, D)`, `(B, T, 2, D)` or `(B, 1, 2, D)`; x, ahead and back `(B, T, 2, D)`. Everything else is as
    there; half precision is allowed here.
    """
    _check(a, x, None, reset, pairs=True)
    return _scan(a, x, reset)


def _scan(a: Tensor, x: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Bring the arguments into the operator's form: real, (1 or B, 1 or T, ...), float32 or float64; and dispatch."""
    dtype = torch.float64 if torch.float64 in (x.dtype, a.dtype) else torch.float32
    a, cut_back = with_axes(a, x), None if reset is None else behind(reset)
    serving = select(x)
    if serving == "triton" and dtype == torch.float32:  # its kernels read and write half precision themselves
        ahead, back = _bidirectional_scan(a, x, reset, cut_back)
    elif serving in ("triton", "numba"):
        ahead, back = _bidirectional_scan(a.to(dtype), x.to(dtype), reset, cut_back)
    else:
        ahead, back = _composable(serving, a.to(dtype), x.to(dtype), reset, cut_back)
    return ahead.to(x.dtype), back.to(x.dtype)


def _composable(
    serving: str, a: Tensor, x: Tensor, cut: Tensor | None, cut_back: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The two ways one after the other, in plain PyTorch."""
    start = torch.zeros_like(x[:, 0])
    ahead, _ = composed(serving, a, x, start, cut, False, PLAIN)
    back, _ = composed(serving, a, x, start, cut_back, True, PLAIN)
    return ahead, back


@operator("bidirectional_scan")
def _bidirectional_scan(a: Tensor, x: Tensor, cut: Tensor | None, cut_back: Tensor | None) -> tuple[Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor] = kernels("bidirectional", x).forward(a, x, cut, cut_back)
    return outputs


@_bidirectional_scan.register_fake
def _(a: Tensor, x: Tensor, cut: Tensor | None, cut_back: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@operator("bidirectional_scan_backward")
def _bidirectional_scan_backward(
    a: Tensor, ahead: Tensor, back: Tensor, cut: Tensor | None, cut_back: Tensor | None, d_ahead: Tensor, d_back: Tensor
) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = kernels("bidirectional", ahead).backward(
        a, ahead, back, cut, cut_back, d_ahead, d_back
    )
    return gradients


@_bidirectional_scan_backward.register_fake
def _(
    a: Tensor, ahead: Tensor, back: Tensor, cut: Tensor | None, cut_back: Tensor | None, d_ahead: Tensor, d_back: Tensor
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), ahead.new_empty(ahead.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx, d_ahead: Tensor, d_back: Tensor):  # type: ignore[no-untyped-def]
    a, x, cut, cut_back, ahead, back = ctx.saved_tensors
    if torch.is_grad_enabled():
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32

        def scan(a: Tensor, x: Tensor) -> tuple[Tensor, ...]:
            both = _composable("torch", a.to(dtype), x.to(dtype), cut, cut_back)
            return tuple(h.to(x.dtype) for h in both)

        da, dx = again(scan, (a, x), (d_ahead, d_back))
    else:
        da, dx = _bidirectional_scan_backward(a, ahead, back, cut, cut_back, d_ahead, d_back)
    return da, dx, None, None


_bidirectional_scan.register_autograd(_backward, setup_context=_setup_context)
