"""The diagonal linear recurrence h_t = a_t h_{t-1} + x_t: public function, checks, registration, backward rule.

Inside, complex numbers are pairs of reals, (2, D) in place of (D,), so that the registered operator sees real tensors
only: autocast, `torch.compile` and export have no complex kernels to speak of.
"""

import torch
from torch import Tensor

from resurge.dispatch import kernels, select
from resurge.errors import ResurgeError
from resurge.ops.diagonal import composable, reference
from resurge.ops.diagonal.form import LOG, NORMALIZED, PLAIN
from resurge.ops.gradient import again, bounded_sqrt
from resurge.ops.registration import operator


def diagonal_scan(
    a: Tensor, x: Tensor, h0: Tensor | None = None, *, reset: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Diagonal linear recurrence over time, real or complex.

        h_t = a_t h_{t-1} + x_t        t = 1 ... T,  elementwise over D

    Args:
        a: coefficients, `(D,)` constant in time, `(T, D)`, `(B, T, D)`, or `(B, 1, D)`, constant in each row.
        x: inputs `(B, T, D)`, T >= 1. If `a` or `x` is complex, both are taken as complex.
        h0: state before the first step, `(B, D)`; None is zero.
        reset: `(B, T)` bool. True cuts the link between t-1 and t, whichever way the scan runs: forward, the row
            starts anew at t (from zero, not from h0); in reverse, it starts anew at t-1.
        reverse: scan from t = T down to 1: h_t = a_t h_{t+1} + x_t, with h0 the state after the end.

    Returns:
        `(h, h_last)`: all states `(B, T, D)` in the dtype of x (complex64 at least if a or x is complex), and the last
        one scanned `(B, D)` in float32 (float64 for float64 inputs), which continues the recurrence as the h0 of
        another call.

    Gradients flow to a, x and h0, and from both h and h_last; for complex arguments they follow PyTorch's
    convention dL/dRe + i dL/dIm. Half precision is computed and carried in float32.

    Cost: one pass over memory forward, two backward; the backward pass keeps h. State: D numbers a row.

    Raises:
        ResurgeError: shapes that do not fit, integer tensors, mixed devices.

    Source: eqs. 1 and 5 of "Resurrecting Recurrent Neural Networks for Long Sequences", arXiv 2303.06349.
    """
    if not (a.is_complex() or x.is_complex()):
        _check(a, x, h0, reset, pairs=False)
        return _scan(a, x, h0, reset, reverse, PLAIN)
    a, x, h0 = _pairs(a), _pairs(x), None if h0 is None else _pairs(h0)
    _check(a, x, h0, reset, pairs=True)
    h, h_last = _scan(a, x, h0, reset, reverse, PLAIN)
    wide = h if h.dtype == torch.float64 else h.float()  # there are no complex numbers of bfloat16
    return _complex(wide), _complex(h_last)


def diagonal_scan_pairs(
    a: Tensor, x: Tensor, h0: Tensor | None = None, *, reset: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The complex `diagonal_scan` for numbers kept as pairs of reals: a row of real parts, a row of imaginary parts.

    a `(2, D)`, `(T, 2, D)`, `(B, T, 2, D)` or `(B, 1, 2, D)`; x and h `(B, T, 2, D)`; h0 and h_last `(B, 2, D)`.
    Everything else is as in `diagonal_scan`; half precision is allowed here.
    """
    _check(a, x, h0, reset, pairs=True)
    return _scan(a, x, h0, reset, reverse, PLAIN)


def decay_scan(
    log_a: Tensor, x: Tensor, h0: Tensor | None = None, *, reset: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The real `diagonal_scan` with its coefficients given as logarithms, which keep their digits near 1.

        h_t = exp(log_a_t) h_{t-1} + x_t

    log_a is at most 0, -inf included, of a shape as in `diagonal_scan`; its gradient is taken in log space. The
    exponential costs no memory. Everything else is as there.
    """
    _check(log_a, x, h0, reset, pairs=False, name="log_a")
    return _scan(log_a, x, h0, reset, reverse, LOG)


def normalized_decay_scan(
    log_a: Tensor, x: Tensor, h0: Tensor | None = None, *, reset: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """`decay_scan` with an input scaled so that white noise of variance 1 gives states of variance 1.

        h_t = a_t h_{t-1} + sqrt(1 - a_t²) x_t,    a_t = exp(log_a_t)

    In the gradient the derivative of the square root is bounded by 1000: at a_t = 1 it is infinite.

    Source: eq. 4 of arXiv 2402.19427 (RG-LRU), and its published code for the bound.
    """
    _check(log_a, x, h0, reset, pairs=False, name="log_a")
    return _scan(log_a, x, h0, reset, reverse, NORMALIZED)


def _pairs(z: Tensor) -> Tensor:
    return torch.stack([z.real, z.imag] if z.is_complex() else [z, torch.zeros_like(z)], -2)


def _complex(pairs: Tensor) -> Tensor:
    return torch.complex(*pairs.unbind(-2))


def _check(a: Tensor, x: Tensor, h0: Tensor | None, reset: Tensor | None, *, pairs: bool, name: str = "a") -> None:
    axes = "2, D" if pairs else "D"
    if x.dim() != 3 + pairs or (pairs and x.shape[2] != 2) or 0 in x.shape:
        raise ResurgeError(f"x must have shape (B, T, {axes}) with B, T, D >= 1, and has {tuple(x.shape)}")
    B, T, *row = x.shape
    D = row[-1]
    if not _fits(a, (*row,), (T, *row), (B, T, *row), (B, 1, *row)):
        raise ResurgeError(
            f"{name} must have shape ({axes}), (T, {axes}), (B, T, {axes}) or (B, 1, {axes}) for B={B}, T={T}, D={D}, "
            f"and has {tuple(a.shape)}"
        )
    if h0 is not None and tuple(h0.shape) != (B, *row):
        raise ResurgeError(f"h0 must have shape (B, {axes}) = {(B, *row)}, and has {tuple(h0.shape)}")
    if reset is not None and (reset.dtype != torch.bool or tuple(reset.shape) != (B, T)):
        raise ResurgeError(
            f"reset must be bool of shape (B, T) = ({B}, {T}), and is {reset.dtype} of {tuple(reset.shape)}"
        )
    for label, value in ((name, a), ("x", x), ("h0", h0)):
        if value is not None and not value.is_floating_point():
            raise ResurgeError(f"{label} must be floating point, and is {value.dtype}")
    for label, value in ((name, a), ("h0", h0), ("reset", reset)):
        if value is not None and value.device != x.device:
            raise ResurgeError(f"{label} is on {value.device}, and x is on {x.device}: both must be on one device")


def _scan(
    a: Tensor, x: Tensor, h0: Tensor | None, reset: Tensor | None, reverse: bool, form: int
) -> tuple[Tensor, Tensor]:
    """Bring the arguments into the operator's form: real, (1 or B, 1 or T, ...), float32 or float64; and dispatch."""
    dtype = torch.float64 if torch.float64 in (x.dtype, a.dtype) else torch.float32
    a = with_axes(a, x)
    if a.shape[1] == 1 and form != PLAIN:  # too few to be worth fusing
        a, x, form = *_plain(a, x, form), PLAIN
    h0 = x.new_zeros(x.shape[:1] + x.shape[2:], dtype=dtype) if h0 is None else h0.to(dtype)
    cut = behind(reset) if reverse and reset is not None else reset
    serving = select(x)
    if serving == "triton" and dtype == torch.float32:  # its kernels read and write half precision themselves
        h, h_last = _diagonal_scan(a, x, h0, cut, reverse, form)
    elif serving in ("triton", "numba"):
        h, h_last = _diagonal_scan(a.to(dtype), x.to(dtype), h0, cut, reverse, form)
    else:
        h, h_last = composed(serving, a.to(dtype), x.to(dtype), h0, cut, reverse, form)
    return h.to(x.dtype), h_last


def _fits(tensor: Tensor, *shapes: tuple[int, ...]) -> bool:
    """Whether it has one of the shapes. Those of other lengths are not looked into: a traced T would be tied to B."""
    return any(tensor.dim() == len(shape) and tuple(tensor.shape) == shape for shape in shapes)


def with_axes(a: Tensor, x: Tensor) -> Tensor:
    """Coefficients of any shape allowed as (1 or B, 1 or T, ...)."""
    return a[(None,) * (x.dim() - a.dim())]


def behind(reset: Tensor) -> Tensor:
    """The cuts for a scan in reverse: seen from the other side, the link between t-1 and t belongs to t-1."""
    return torch.cat([reset[:, 1:], torch.zeros_like(reset[:, :1])], 1)


def _plain(a: Tensor, x: Tensor, form: int) -> tuple[Tensor, Tensor]:
    """Coefficients and inputs of the plain form."""
    if form == NORMALIZED:
        x = bounded_sqrt(-torch.expm1(2 * a)).to(x.dtype) * x
    return (a if form == PLAIN else torch.exp(a)), x


def composed(
    serving: str, a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int
) -> tuple[Tensor, Tensor]:
    """The scan as plain PyTorch, differentiable any number of times and in any mode."""
    scan = reference.scan if serving == "reference" else composable.scan
    a, x = _plain(a, x, form)
    if x.dim() == 3:
        return scan(a, x, h0, cut, reverse)
    h, h_last = scan(_complex(a), _complex(x), _complex(h0), cut, reverse)
    return _pairs(h), _pairs(h_last)


@operator("diagonal_scan")
def _diagonal_scan(
    a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int
) -> tuple[Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor] = kernels("diagonal", x).forward(a, x, h0, cut, reverse, form)
    return outputs


@_diagonal_scan.register_fake
def _(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), h0.new_empty(h0.shape)


@operator("diagonal_scan_backward")
def _diagonal_scan_backward(
    a: Tensor, x: Tensor, h: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int, dh: Tensor,
    dh_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    gradients: tuple[Tensor, Tensor, Tensor] = kernels("diagonal", h).backward(
        a, x, h, h0, cut, reverse, form, dh, dh_last
    )
    return gradients


@_diagonal_scan_backward.register_fake
def _(
    a: Tensor, x: Tensor, h: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int, dh: Tensor,
    dh_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return a.new_empty(a.shape), h.new_empty(h.shape), h0.new_empty(h0.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    a, x, h0, cut, ctx.reverse, ctx.form = inputs
    ctx.save_for_backward(a, x, h0, cut, output[0])


def _backward(ctx, dh: Tensor, dh_last: Tensor):  # type: ignore[no-untyped-def]
    a, x, h0, cut, h = ctx.saved_tensors
    if torch.is_grad_enabled():

        def scan(a: Tensor, x: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
            h, h_last = composed("torch", a.to(h0.dtype), x.to(h0.dtype), h0, cut, ctx.reverse, ctx.form)
            return h.to(x.dtype), h_last

        da, dx, dh0 = again(scan, (a, x, h0), (dh, dh_last))
    else:
        da, dx, dh0 = _diagonal_scan_backward(a, x, h, h0, cut, ctx.reverse, ctx.form, dh, dh_last)
    return da, dx, dh0, None, None, None


_diagonal_scan.register_autograd(_backward, setup_context=_setup_context)
