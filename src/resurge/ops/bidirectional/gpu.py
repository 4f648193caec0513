"""Triton kernels of the scan in both directions, made of the parts of `resurge.ops.diagonal.gpu`.

A program owns BLOCK_D channels of one row of the batch over one piece of the steps, and goes through it ahead and then
back. Where time is cut, a piece is short, and the way back finds in the cache what the way ahead has read: x forward,
the sums da and dx backward. Pieces are those of time for both ways: the way back goes through the last one first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resurge.ops.diagonal import form as forms
from resurge.ops.diagonal.form import cut_pieces
from resurge.ops.diagonal.gpu import (
    _across,
    _backward,
    _begin,
    _forward,
    _load,
    _place,
    _Plan,
    _store,
    _summary,
    _way,
)
from resurge.ops.launch import launch

PLAIN = tl.constexpr(forms.PLAIN)


@triton.jit(do_not_specialize=["T", "length", "pieces", "a_b"])
def bidirectional_summary(
    a, ahead, back, cut, cut_back, gain, end, gain_back, end_back, T, length, pieces, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, CUT: tl.constexpr, BACKWARD: tl.constexpr,
    BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A piece as the maps state -> gain * state + end of both ways, from their inputs; BACKWARD: of the gradients."""
    b, piece, d, inside = _place(D, pieces, BLOCK_D)
    dtype: tl.constexpr = end.dtype.element_ty
    at = b * pieces + piece
    t, n = _begin(piece, T, length, False, BACKWARD)
    p_re, p_im, e_re, e_im = _summary(
        a, ahead, cut, b, t, n, d, inside, T, a_b, dtype,
        D, COMPLEX, VARIES, _way(False, BACKWARD), PLAIN, BACKWARD, CUT, UNROLL,
    )  # fmt: skip
    _store(gain, at, d, inside, p_re, p_im, D, COMPLEX)
    _store(end, at, d, inside, e_re, e_im, D, COMPLEX)
    t, n = _begin(piece, T, length, False, not BACKWARD)
    p_re, p_im, e_re, e_im = _summary(
        a, back, cut_back, b, t, n, d, inside, T, a_b, dtype,
        D, COMPLEX, VARIES, _way(True, BACKWARD), PLAIN, BACKWARD, CUT, UNROLL,
    )  # fmt: skip
    _store(gain_back, at, d, inside, p_re, p_im, D, COMPLEX)
    _store(end_back, at, d, inside, e_re, e_im, D, COMPLEX)


@triton.jit(do_not_specialize=["T", "length", "pieces", "a_b"])
def bidirectional_forward(
    a, x, start, start_back, cut, cut_back, ahead, back, T, length, pieces, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, CUT: tl.constexpr, BLOCK_D: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """The states of both ways, from those (B, pieces, ...) before each piece along its way."""
    b, piece, d, inside = _place(D, pieces, BLOCK_D)
    dtype: tl.constexpr = start.dtype.element_ty
    t, n = _begin(piece, T, length, False, False)
    re, im = _load(start, b * pieces + piece, d, inside, dtype, D, COMPLEX)
    _forward(
        a, x, cut, ahead, re, im, b, t, n, d, inside, T, a_b, D, COMPLEX, VARIES, _way(False, False), PLAIN, CUT, UNROLL
    )
    t, n = _begin(piece, T, length, False, True)
    re, im = _load(start_back, b * pieces + piece, d, inside, dtype, D, COMPLEX)
    _forward(
        a, x, cut_back, back, re, im, b, t, n, d, inside, T, a_b,
        D, COMPLEX, VARIES, _way(True, False), PLAIN, CUT, UNROLL,
    )  # fmt: skip


@triton.jit(do_not_specialize=["T", "length", "pieces", "a_b"])
def bidirectional_backward(
    a, ahead, back, zero, cut, cut_back, d_ahead, d_back, carry, carry_back, da, dx, T, length, pieces, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, CUT: tl.constexpr, BLOCK_D: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """As `diagonal_backward` for both ways, their da and dx summed; `zero` (B, ...) is the state both start from."""
    b, piece, d, inside = _place(D, pieces, BLOCK_D)
    dtype: tl.constexpr = zero.dtype.element_ty
    t, n = _begin(piece, T, length, False, True)
    g_re, g_im = _load(carry, b * pieces + piece, d, inside, dtype, D, COMPLEX)
    none = tl.zeros_like(g_re)
    g_re, g_im, s_re, s_im = _backward(
        a, ahead, ahead, zero, cut, d_ahead, da, dx, g_re, g_im, none, none, b, t, n, piece == 0, d, inside, T, a_b,
        D, COMPLEX, VARIES, _way(False, True), PLAIN, CUT, False, UNROLL,
    )  # fmt: skip
    tl.debug_barrier()  # what the way ahead has stored is read again, maybe by other threads
    t, n = _begin(piece, T, length, False, False)
    g_re, g_im = _load(carry_back, b * pieces + piece, d, inside, dtype, D, COMPLEX)
    g_re, g_im, s_re, s_im = _backward(
        a, back, back, zero, cut_back, d_back, da, dx, g_re, g_im, s_re, s_im, b, t, n, piece == pieces - 1, d, inside,
        T, a_b, D, COMPLEX, VARIES, _way(True, True), PLAIN, CUT, True, UNROLL,
    )  # fmt: skip
    if not VARIES:
        _store(da, b * pieces + piece, d, inside, s_re, s_im, D, COMPLEX)


class _Both:
    """One call: its arguments in memory, and the sizes that its kernels share."""

    def __init__(self, a: Tensor, x: Tensor, cut: Tensor | None, cut_back: Tensor | None) -> None:
        self.a = a.contiguous()
        self.cuts = [None if c is None else c.contiguous() for c in (cut, cut_back)]
        self.plan = _Plan(self.a, x, cut, False, forms.PLAIN)
        self.flags = {name: self.plan.flags[name] for name in ("D", "COMPLEX", "VARIES", "CUT")}
        dtype = torch.float64 if torch.float64 in (a.dtype, x.dtype) else torch.float32
        self.zero = x.new_zeros(x.shape[:1] + x.shape[2:], dtype=dtype)

    def carried(self, ahead: Tensor, back: Tensor, *, backward: bool) -> tuple[Tensor, Tensor]:
        """What each piece of either way starts from, (B, pieces, ...), given the inputs of both ways."""
        plan = self.plan
        if plan.pieces == 1:
            return self.zero, self.zero
        size = (plan.B, plan.pieces, *self.zero.shape[1:])  # parts of one tensor would be aligned for some T only
        gain, end, gain_back, end_back = (self.zero.new_empty(size) for _ in range(4))
        launch(
            bidirectional_summary, plan.grid, self.a, ahead, back, *self.cuts, gain, end, gain_back, end_back,
            *plan.sizes, **self.flags, BACKWARD=backward,
        )  # fmt: skip
        of_ahead, of_back = (None if c is None else cut_pieces(c, plan.length, plan.pieces, False) for c in self.cuts)
        return (
            _across(gain, end, self.zero, of_ahead, backward),
            _across(gain_back, end_back, self.zero, of_back, not backward),
        )


def forward(a: Tensor, x: Tensor, cut: Tensor | None, cut_back: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states of the way ahead and of the way back, each shaped as x: (B, T, D) or (B, T, 2, D)."""
    x = x.contiguous()
    both = _Both(a, x, cut, cut_back)
    ahead, back = torch.empty_like(x), torch.empty_like(x)
    starts = both.carried(x, x, backward=False)
    launch(
        bidirectional_forward, both.plan.grid, both.a, x, *starts, *both.cuts, ahead, back, *both.plan.sizes,
        **both.flags,
    )  # fmt: skip
    return ahead, back


def backward(
    a: Tensor,
    ahead: Tensor,
    back: Tensor,
    cut: Tensor | None,
    cut_back: Tensor | None,
    d_ahead: Tensor,
    d_back: Tensor,
) -> tuple[Tensor, Tensor]:
    """(da shaped as a, dx shaped as the states) from the gradients of both."""
    ahead, back, d_ahead, d_back = (v.contiguous() for v in (ahead, back, d_ahead, d_back))
    both, varies = _Both(a, ahead, cut, cut_back), a.shape[1] > 1
    plan, dx = both.plan, torch.empty_like(ahead)
    da = both.zero.new_empty(plan.B, plan.T if varies else plan.pieces, *both.zero.shape[1:])
    carries = both.carried(d_ahead, d_back, backward=True)
    launch(
        bidirectional_backward, plan.grid, both.a, ahead, back, both.zero, *both.cuts, d_ahead, d_back, *carries,
        da, dx, *plan.sizes, **both.flags,
    )  # fmt: skip
    if not varies:
        da = da.sum(1, keepdim=True)
    if a.shape[0] == 1 and plan.B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx
