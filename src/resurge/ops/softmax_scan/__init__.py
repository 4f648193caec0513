"""The running softmax-weighted average of RWKV-4 and Aaren: public functions, checks, registration, backward rule.

Inside, a state is one row of D + 2 H numbers, [num, m, den], and `borders` are the states before the steps 0, 8, ...
and after the last: the backward pass computes those between anew.
"""

import torch
from torch import Tensor

from resurge.dispatch import kernels, select
from resurge.errors import ResurgeError
from resurge.ops.gradient import again
from resurge.ops.registration import operator
from resurge.ops.softmax_scan import composable, reference
from resurge.ops.softmax_scan.state import EVERY, SoftmaxState, empty, pack, unpack

__all__ = ["SoftmaxState", "softmax_scan", "softmax_step"]


def softmax_scan(
    k: Tensor,
    v: Tensor,
    w: Tensor | None = None,
    u: Tensor | None = None,
    state: tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    reset: Tensor | None = None,
) -> tuple[Tensor, SoftmaxState]:
    r"""Average of all values so far, with softmax weights that decay with time.

        num_t = e^-w num_{t-1} + e^{k_t} v_t
        den_t = e^-w den_{t-1} + e^{k_t}                           t = 1 ... T
        y_t = num_t / den_t                                        without u
        y_t = (num_{t-1} + e^{u + k_t} v_t) / (den_{t-1} + e^{u + k_t})    with u

    without underflow or overflow: the sums are kept divided by e^m, m the largest logit so far, itself decayed.
    Logits of ±1e4 are exact with any decay; larger ones are safe, with decays as exact as float32 has them. Without w
    and u this is causal attention with one logit a step; no u is the same as u = w.

    Args:
        k: logits `(B, T, H)`, T >= 1, finite.
        v: values `(B, T, D)`, D a multiple of H: a logit weighs D / H neighbouring channels.
        w: decay of the logits a step, `(H,)`; None is 0.
        u: what the present step's logit has more than it will have in the next steps, `(H,)`.
        state: `(m, num, den)` before the first step, `(B, H)`, `(B, D)`, `(B, H)`: sums divided by e^m, and m;
            None is no step so far, (-1e38, 0, 0).
        reset: `(B, T)` bool. Where true, the row starts anew at t, from no step so far.

    Returns:
        `(y, state)`: the averages `(B, T, D)` in the dtype of v, and the state after the last step in float32 (float64
        for float64 inputs), which continues the scan as the state of another call.

    Gradients flow to k, v, w, u and the state, from both y and the state. A state can be split into m, num and den in
    many ways; here m is the maximum of its definition, and its derivative goes to the step that the maximum is at (the
    later one of equals). So the gradients are those of the function as it stands, and a sequence in pieces has the
    gradients of the whole; for a loss that depends on e^m num and e^m den alone, such as any loss of later outputs, m
    acts as a constant. Half precision is computed and carried in float32.

    Cost: one pass over memory forward, with every 8th state kept, and one backward, which computes the states
    between anew. State: D + 2 H numbers a row.

    Raises:
        ResurgeError: shapes that do not fit, integer tensors, mixed devices.

    Source: section 3 and appendix D of "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048 (D = H);
    section 3 of "Attention as an RNN", arXiv 2405.13956 (no w, no u).
    """
    _check(k, v, w, u, state, reset)
    (B, _, H), D = k.shape, v.shape[-1]
    dtype = torch.float64 if torch.float64 in (k.dtype, v.dtype) else torch.float32
    w, u = (None if z is None else z.to(dtype) for z in (w, u))
    if state is None:
        state = empty(B, H, D, device=v.device, dtype=dtype)
    start = SoftmaxState(*(part.to(dtype) for part in state))
    serving = select(v)
    if serving in ("torch", "reference"):
        scan = reference.scan if serving == "reference" else composable.scan
        y, last = scan(k.to(dtype), v.to(dtype), w, u, start, reset)
        return y.to(v.dtype), last
    values = v
    if serving == "numba" or dtype == torch.float64:  # Triton's kernels read and write half precision themselves
        k, values = k.to(dtype), v.to(dtype)
    parts = _parts(D // H) if serving == "triton" else 1
    if parts > 1:  # a head as several with the same logits
        k, m, den = (z.repeat_interleave(parts, -1) for z in (k, start.m, start.den))
        w, u = (None if z is None else z.repeat_interleave(parts) for z in (w, u))
        start = SoftmaxState(m, start.num, den)
    y, packed, _ = _softmax_scan(k, values, w, u, pack(start), reset)
    m, num, den = unpack(packed, H * parts)
    return y.to(v.dtype), SoftmaxState(m[:, ::parts], num, den[:, ::parts])


def _parts(channels: int) -> int:
    """Into how many equal parts of 128 channels at most, as many as the registers hold, a head of `channels` falls."""
    return next(parts for parts in range(1, channels + 1) if channels % parts == 0 and channels <= 128 * parts)


def softmax_step(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, state: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, SoftmaxState]:
    """One step of `softmax_scan` in plain PyTorch: k `(B, H)`, v `(B, D)`, a state, to y `(B, D)` and the next state.

    It needs no kernel and exports anywhere.

    Raises:
        ResurgeError: as `softmax_scan`.
    """
    _check(k, v, w, u, state, None, axes=("B",))
    dtype = state[1].dtype
    w, u = (None if z is None else z.to(dtype) for z in (w, u))
    y, after = reference.step(k.to(dtype), v.to(dtype), w, u, SoftmaxState(*state))
    return y.to(v.dtype), after


def _check(
    k: Tensor,
    v: Tensor,
    w: Tensor | None,
    u: Tensor | None,
    state: tuple[Tensor, Tensor, Tensor] | None,
    reset: Tensor | None,
    axes: tuple[str, ...] = ("B", "T"),
) -> None:
    """Refuse arguments that do not fit; `axes` names those that k and v share: a step has no T."""
    shared = ", ".join(axes)
    if k.dim() != len(axes) + 1 or 0 in k.shape:
        raise ResurgeError(f"k must have shape ({shared}, H) with {shared}, H >= 1, and has {tuple(k.shape)}")
    *rows, H = k.shape
    B = rows[0]
    if v.dim() != k.dim() or v.shape[:-1] != k.shape[:-1] or v.shape[-1] % H or v.shape[-1] == 0:
        sizes = ", ".join(f"{axis}={size}" for axis, size in zip(axes, rows, strict=True))
        raise ResurgeError(
            f"v must have shape ({shared}, D) with {sizes} and D a multiple of H={H}, and has {tuple(v.shape)}"
        )
    if state is not None and len(state) != 3:
        raise ResurgeError(f"state must be three tensors (m, num, den), and has {len(state)}")
    m, num, den = (None, None, None) if state is None else state
    shapes = {"state.m": (m, (B, H)), "state.num": (num, (B, v.shape[-1])), "state.den": (den, (B, H))}
    for name, (given, shape) in {"w": (w, (H,)), "u": (u, (H,)), **shapes}.items():
        if given is not None and tuple(given.shape) != shape:
            raise ResurgeError(f"{name} must have shape {shape} for k {tuple(k.shape)}, and has {tuple(given.shape)}")
    if reset is not None and (reset.dtype != torch.bool or list(reset.shape) != rows):
        raise ResurgeError(
            f"reset must be bool of shape (B, T) = {tuple(rows)}, and is {reset.dtype} of {tuple(reset.shape)}"
        )
    numbers = {"k": k, "v": v, "w": w, "u": u, "state.m": m, "state.num": num, "state.den": den}
    for name, value in numbers.items():
        if value is not None and not value.is_floating_point():
            raise ResurgeError(f"{name} must be floating point, and is {value.dtype}")
    for name, value in {**numbers, "reset": reset}.items():
        if value is not None and value.device != v.device:
            raise ResurgeError(f"{name} is on {value.device}, and v is on {v.device}: both must be on one device")


@operator("softmax_scan")
def _softmax_scan(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    outputs: tuple[Tensor, Tensor, Tensor] = kernels("softmax_scan", v).forward(k, v, w, u, start, cut)
    return outputs


@_softmax_scan.register_fake
def _(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    borders = start.new_empty(v.shape[0], (v.shape[1] - 1) // EVERY + 2, start.shape[1])
    return v.new_empty(v.shape), start.new_empty(start.shape), borders


@operator("softmax_scan_backward")
def _softmax_scan_backward(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None, last: Tensor,
    borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = kernels("softmax_scan", v).backward(
        k, v, w, u, start, cut, last, borders, dy, dlast
    )
    return gradients


@_softmax_scan_backward.register_fake
def _(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None, last: Tensor,
    borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dw, du = (start.new_empty(0 if z is None else z.shape) for z in (w, u))
    return k.new_empty(k.shape), v.new_empty(v.shape), dw, du, start.new_empty(start.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, last, borders = output
    ctx.save_for_backward(*inputs, last, borders)


def _backward(ctx, dy: Tensor, dlast: Tensor, _):  # type: ignore[no-untyped-def]
    k, v, w, u, start, cut, last, borders = ctx.saved_tensors
    if not torch.is_grad_enabled():
        dk, dv, dw, du, dstart = _softmax_scan_backward(k, v, w, u, start, cut, last, borders, dy, dlast)
        return dk, dv, None if w is None else dw, None if u is None else du, dstart, None
    wanted = [z for z in (k, v, w, u, start) if z is not None]

    def scan(k: Tensor, v: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        given = iter(rest)
        decay, bonus = (None if z is None else next(given) for z in (w, u))
        state = next(given)
        y, after = composable.scan(k.to(state.dtype), v.to(state.dtype), decay, bonus, unpack(state, k.shape[2]), cut)
        return y.to(v.dtype), pack(after)

    gradients = iter(again(scan, wanted, (dy, dlast)))
    return *(None if z is None else next(gradients) for z in (k, v, w, u, start)), None


_softmax_scan.register_autograd(_backward, setup_context=_setup_context)
