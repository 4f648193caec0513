"""Triton kernels of the sigmoid scan."""

import triton
import triton.language as tl
from torch import Tensor

from resurge.ops.dense.gpu import _add_product, _kept, _row, _sigmoid
from resurge.ops.launch import launch


@triton.jit(do_not_specialize=["T"])
def sigmoid_forward(p, R, h0, cut, h, T, D, CUT: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    before = h0 + b * D
    for t in range(T):
        at, kept = _row(b, t, T, D), _kept(cut, b, t, T, CUT)
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            s = tl.load(p + at + o, o < D, 0.0)
            with_state = _add_product(s, R, before, o, D, False, BLOCK)
            tl.store(h + at + o, _sigmoid(tl.where(kept, with_state, s)), o < D)
        tl.debug_barrier()
        before = h + at


@triton.jit(do_not_specialize=["T"])
def sigmoid_backward(R, cut, h, dh, dp, dh0, T, D, CUT: tl.constexpr, BLOCK: tl.constexpr):
    """`dh0` (B, D) comes in as zeros, and holds what is carried from behind."""
    b = tl.program_id(0).to(tl.int64)
    carry = dh0 + b * D
    for k in range(T):
        t = T - 1 - k
        at, kept = _row(b, t, T, D), _kept(cut, b, t, T, CUT)
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            h_t = tl.load(h + at + o, o < D, 0.0)
            g = tl.load(dh + at + o, o < D, 0.0) + tl.load(carry + o, o < D, 0.0)
            tl.store(dp + at + o, g * h_t * (1 - h_t), o < D)
        tl.debug_barrier()
        for first in range(0, D, BLOCK):
            o = first + tl.arange(0, BLOCK)
            g = _add_product(tl.zeros([BLOCK], h.dtype.element_ty), R, dp + at, o, D, True, BLOCK)
            tl.store(carry + o, tl.where(kept, g, 0.0), o < D)
        tl.debug_barrier()


def forward(p: Tensor, R: Tensor, h0: Tensor, cut: Tensor | None) -> Tensor:
    """All states, as `reference.scan`."""
    B, T, D = p.shape
    h = p.new_empty(B, T, D)
    given = (v if v is None else v.contiguous() for v in (p, R, h0, cut))
    launch(sigmoid_forward, lambda _: B, *given, h, T, D, CUT=cut is not None)
    return h


def backward(R: Tensor, cut: Tensor | None, h: Tensor, dh: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients to p and to the state before the first step."""
    B, T, D = h.shape
    dp, dh0 = h.new_empty(B, T, D), h.new_zeros(B, D)
    given = (v if v is None else v.contiguous() for v in (R, cut, h, dh))
    launch(sigmoid_backward, lambda _: B, *given, dp, dh0, T, D, CUT=cut is not None)
    return dp, dh0
