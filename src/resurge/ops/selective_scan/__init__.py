"""The selective scan of Mamba (S6): public function, checks, registration, backward rule.

Beside its outputs the operator gives `borders`, the states before all chunks of `every` steps but the first, from which
the backward pass computes those between anew.
"""

from typing import Any

import torch
from torch import Tensor

from resurge.dispatch import kernels, select
from resurge.errors import ResurgeError
from resurge.ops.gradient import again
from resurge.ops.registration import operator
from resurge.ops.selective_scan import composable, reference
from resurge.ops.selective_scan.chunk import EVERY


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D_skip: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    dt: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Diagonal state-space model of each channel, whose step size, input and output maps depend on the input.

        Δ_t = dt_t softplus(delta_t + delta_bias)                    the softplus is always applied
        h_t = exp(Δ_t A) ⊙ h_{t-1} + (Δ_t u_t) B_tᵀ                  t = 1 ... T,  h (D, N)
        y_t = (h_t C_t + D_skip ⊙ u_t) ⊙ silu(z_t)

    Args:
        u: inputs `(B, T, D)`, T >= 1.
        delta: step sizes before the softplus `(B, T, D)`.
        A: `(D, N)`, real, negative for a memory that fades. (Checkpoints keep log(-A).)
        B, C: input and output maps `(B, T, N)`, the same for all channels.
        D_skip: weights `(D,)` of the direct path from u to y; None is none.
        z: gate before its SiLU `(B, T, D)`; None is no gate.
        delta_bias: `(D,)`; None is zero.
        h0: state before the first step `(B, D, N)`; None is zero.
        dt: `(B, T)`, the time that passes at each step, in units of the usual one; None is 1.
        reset: `(B, T)` bool. Where true, the row starts anew at t (from zero, not from h0).

    Returns:
        `(y, h_last)`: outputs `(B, T, D)` in the dtype of u, and the last state `(B, D, N)` in float32 (float64 if u,
        delta or A is float64), which continues the scan as the h0 of another call.

    Gradients flow to all floating-point arguments, from both y and h_last. Half precision is computed and carried in
    float32.

    Cost: B T D N exponentials forward, as many backward (twice on a GPU). The states (B, T, D, N) are never written to
    memory: one in 32 (16 on a GPU) is kept for the backward pass, which computes the others anew. The form in plain
    PyTorch, which serves where there is no kernel, does keep all. State: D N numbers a row.

    Raises:
        ResurgeError: shapes that do not fit, integer tensors, mixed devices.

    Source: algorithm 2 of "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, with
    B̄ = Δ B as in its published code (the text's eq. 4 has the zero-order hold).
    """
    _check(u, delta, A, B, C, D_skip, z, delta_bias, h0, dt, reset)
    dtype = torch.float64 if torch.float64 in (u.dtype, delta.dtype, A.dtype) else torch.float32
    A = A.to(dtype)
    skip = A.new_zeros(A.shape[0]) if D_skip is None else D_skip.to(dtype)
    bias = A.new_zeros(A.shape[0]) if delta_bias is None else delta_bias.to(dtype)
    h0 = A.new_zeros(u.shape[0], *A.shape) if h0 is None else h0.to(dtype)
    dt = None if dt is None else dt.to(dtype)
    serving = select(u)
    if serving == "triton" and dtype == torch.float32:  # its kernels read and write half precision themselves
        y, h_last, _ = _selective_scan(u, delta, A, B, C, skip, z, bias, h0, dt, reset, EVERY[serving])
        return y, h_last
    u_, delta, B, C = u.to(dtype), delta.to(dtype), B.to(dtype), C.to(dtype)
    z = None if z is None else z.to(dtype)
    if serving in ("triton", "numba"):
        y, h_last, _ = _selective_scan(u_, delta, A, B, C, skip, z, bias, h0, dt, reset, EVERY[serving])
    else:
        scan = reference.scan if serving == "reference" else composable.scan
        y, h_last = scan(u_, delta, A, B, C, skip, z, bias, h0, dt, reset)
    return y.to(u.dtype), h_last


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D_skip: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, h0: Tensor | None, dt: Tensor | None, reset: Tensor | None,
) -> None:  # fmt: skip
    if u.dim() != 3 or 0 in u.shape:
        raise ResurgeError(f"u must have shape (B, T, D) with B, T, D >= 1, and has {tuple(u.shape)}")
    rows, T, D = u.shape
    if A.dim() != 2 or A.shape[0] != D or A.shape[1] == 0:
        raise ResurgeError(f"A must have shape (D, N) with D = {D} and N >= 1, and has {tuple(A.shape)}")
    N = A.shape[1]
    sizes = {"B": rows, "T": T, "D": D, "N": N}
    given = {
        "delta": (delta, "BTD"), "B": (B, "BTN"), "C": (C, "BTN"), "D_skip": (D_skip, "D"), "z": (z, "BTD"),
        "delta_bias": (delta_bias, "D"), "h0": (h0, "BDN"), "dt": (dt, "BT"),
    }  # fmt: skip
    for name, (value, letters) in given.items():
        shape = tuple(sizes[letter] for letter in letters)
        if value is not None and tuple(value.shape) != shape:
            raise ResurgeError(f"{name} must have shape ({', '.join(letters)}) = {shape}, and has {tuple(value.shape)}")
    if reset is not None and (reset.dtype != torch.bool or tuple(reset.shape) != (rows, T)):
        raise ResurgeError(
            f"reset must be bool of shape (B, T) = ({rows}, {T}), and is {reset.dtype} of {tuple(reset.shape)}"
        )
    tensors = {"u": u, "A": A, **{name: value for name, (value, _) in given.items()}}
    for name, value in tensors.items():
        if value is not None and not value.is_floating_point():
            raise ResurgeError(f"{name} must be floating point, and is {value.dtype}")
    for name, value in {**tensors, "reset": reset}.items():
        if value is not None and value.device != u.device:
            raise ResurgeError(f"{name} is on {value.device}, and u is on {u.device}: both must be on one device")


@operator("selective_scan")
def _selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor,
    h0: Tensor, dt: Tensor | None, cut: Tensor | None, every: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    outputs: tuple[Tensor, Tensor, Tensor] = kernels("selective_scan", u).forward(
        u, delta, A, B, C, skip, z, bias, h0, dt, cut, every
    )
    return outputs


@_selective_scan.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor,
    h0: Tensor, dt: Tensor | None, cut: Tensor | None, every: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows, T, D = u.shape
    return u.new_empty(u.shape), h0.new_empty(h0.shape), h0.new_empty(rows, (T - 1) // every + 2, A.shape[1], D)


@operator("selective_scan_backward")
def _selective_scan_backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor,
    h0: Tensor, dt: Tensor | None, cut: Tensor | None, every: int, borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    gradients = kernels("selective_scan", u).backward(
        u, delta, A, B, C, skip, z, bias, h0, dt, cut, every, borders, dy, dlast
    )
    return gradients


@_selective_scan_backward.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor,
    h0: Tensor, dt: Tensor | None, cut: Tensor | None, every: int, borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    du, ddelta, dA, dB, dC, dskip, dbias, dh0 = (v.new_empty(v.shape) for v in (u, delta, A, B, C, skip, bias, h0))
    dz, ddt = (v.new_empty(v.shape) if v is not None else A.new_empty(0) for v in (z, dt))
    return du, ddelta, dA, dB, dC, dskip, dz, dbias, dh0, ddt


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.every = inputs
    ctx.save_for_backward(*tensors, output[2])


def _backward(ctx, dy: Tensor, dlast: Tensor, _):  # type: ignore[no-untyped-def]
    *inputs, cut, borders = ctx.saved_tensors
    given = [v is not None for v in inputs]
    if not torch.is_grad_enabled():
        found = _selective_scan_backward(*inputs, cut, ctx.every, borders, dy, dlast)
        return *(v if is_given else None for v, is_given in zip(found, given, strict=True)), None, None

    def scan(*wanted: Tensor) -> tuple[Tensor, Tensor]:
        rest = iter(wanted)
        whole: list[Any] = [*(next(rest).to(dlast.dtype) if is_given else None for is_given in given), cut]
        y, last = composable.scan(*whole)
        return y.to(dy.dtype), last

    gradients = iter(again(scan, [v for v in inputs if v is not None], (dy, dlast)))
    return *(next(gradients) if is_given else None for is_given in given), None, None


_selective_scan.register_autograd(_backward, setup_context=_setup_context)
