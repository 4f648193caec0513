"""Triton kernels of the short convolution.

A program owns BLOCK_D channels of one row of the batch over STEPS steps and walks through them, the K-1 steps that
still matter in registers; UNROLL loads are under way before the first is used. A piece reads those before it (or
behind it, backward) once more, so that pieces need nothing of each other. Time is counted from the first input: the
state holds those of steps -(K-1) ... -1. Sums run in the type of the weights; offsets have 64 bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resurge.ops.launch import launch, table


@triton.jit
def _place(T, D: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """(row of the batch, number of the piece in the whole batch, first and last step, channels) of this program."""
    blocks, pieces = tl.cdiv(D, BLOCK_D), tl.cdiv(T, STEPS)
    program = tl.program_id(0)
    d = (program % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    piece = program // blocks
    start = (piece % pieces) * STEPS
    return (piece // pieces).to(tl.int64), piece.to(tl.int64), start, tl.minimum(start + STEPS, T), d


@triton.jit
def _begins(cut, b, t, T, CUT: tl.constexpr):
    """Whether the row starts anew at step t."""
    begins = t != t  # never
    if CUT:
        begins = tl.load(cut + b * T + t, (t >= 0) & (t < T), 0) != 0
    return begins


@triton.jit
def _input(x, state, b, t, T, D: tl.constexpr, d, wanted, K: tl.constexpr):
    """The input of step t, of the state where t < 0."""
    dtype: tl.constexpr = state.dtype.element_ty
    inside = (d < D) & wanted
    value = tl.load(x + (b * T + t) * D + d, inside & (t >= 0), 0.0).to(dtype)
    return value + tl.load(state + (b * (K - 1) + K - 1 + t) * D + d, inside & (t < 0), 0.0)


@triton.jit
def _taps(weight, D: tl.constexpr, d, K: tl.constexpr):
    """The taps as a tuple of rows; weight is (K, D)."""
    taps = ()
    for k in tl.static_range(K):
        taps = taps + (tl.load(weight + k * D + d, d < D, 0.0),)
    return taps


@triton.jit(do_not_specialize=["T"])
def short_conv_forward(
    x, weight, bias, state, cut, y, last, T,
    D: tl.constexpr, K: tl.constexpr, CUT: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    b, _, start, stop, d = _place(T, D, STEPS, BLOCK_D)
    taps = _taps(weight, D, d, K)
    offset = tl.load(bias + d, d < D, 0.0)
    window = ()  # inputs of the K-1 steps before, the earliest first
    linked = start <= T
    for k in tl.static_range(1, K):
        window = (_input(x, state, b, start - k, T, D, d, linked, K),) + window
        linked = linked & ~_begins(cut, b, start - k, T, CUT)
    for first in range(start, stop, UNROLL):
        loaded, begun = (), ()
        for u in tl.static_range(UNROLL):
            inside = (d < D) & (first + u < stop)
            loaded = loaded + (tl.load(x + (b * T + first + u) * D + d, inside, 0.0).to(offset.dtype),)
            begun = begun + (_begins(cut, b, first + u, T, CUT),)
        for u in tl.static_range(UNROLL):
            within = first + u < stop
            total = offset + taps[K - 1] * loaded[u]
            kept = ()
            for k in tl.static_range(K - 1):
                value = window[k]
                if CUT:
                    value = tl.where(begun[u], 0.0, value)
                total += taps[k] * value
                kept = kept + (value,)
            tl.store(y + (b * T + first + u) * D + d, total.to(y.dtype.element_ty), (d < D) & within)
            moved = ()
            for k in tl.static_range(K - 1):
                later = loaded[u]
                if k < K - 2:
                    later = kept[k + 1]
                moved = moved + (tl.where(within, later, window[k]),)
            window = moved
    for k in tl.static_range(K - 1):
        tl.store(last + (b * (K - 1) + k) * D + d, window[k], (d < D) & (stop == T))


@triton.jit(do_not_specialize=["T"])
def short_conv_backward(
    x, weight, state, cut, dy, dlast, dx, sums, dstate, T,
    D: tl.constexpr, K: tl.constexpr, CUT: tl.constexpr, STEPS: tl.constexpr, BLOCK_D: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """From the last step of the piece to its first; the first piece goes on through the state.

    `sums` (B * pieces, K + 1, D): the gradients of each piece to the taps, and to the bias behind them.
    """
    b, piece, start, stop, d = _place(T, D, STEPS, BLOCK_D)
    dtype: tl.constexpr = state.dtype.element_ty
    taps = _taps(weight, D, d, K)
    window = ()  # gradients of the K-1 steps after, the next first
    totals = ()  # of the taps, the current step's first
    linked = start <= T  # to the step at hand, and from there to the last one
    for k in tl.static_range(K - 1):
        linked = linked & ~_begins(cut, b, stop + k, T, CUT)
        inside = (d < D) & linked & (stop + k < T)
        window = window + (tl.load(dy + (b * T + stop + k) * D + d, inside, 0.0).to(dtype),)
    for _ in tl.static_range(K):
        totals = totals + (tl.full([BLOCK_D], 0.0, dtype),)
    sum_dy = tl.full([BLOCK_D], 0.0, dtype)
    low = tl.where(start == 0, -(K - 1), start)
    for done in range(0, stop - low, UNROLL):
        loaded, begun = (), ()
        for u in tl.static_range(UNROLL):
            t = stop - 1 - done - u
            place = t - (T - (K - 1))
            inside = (d < D) & (t >= low)
            loaded = loaded + (
                _input(x, state, b, t, T, D, d, t >= low, K),
                tl.load(dy + (b * T + t) * D + d, inside & (t >= 0), 0.0).to(dtype),
                tl.load(dlast + (b * (K - 1) + place) * D + d, inside & (place >= 0), 0.0),
            )
            begun = begun + (_begins(cut, b, t, T, CUT),)
        for u in tl.static_range(UNROLL):
            t = stop - 1 - done - u
            inside = (d < D) & (t >= low)
            x_t, dy_t = loaded[3 * u], loaded[3 * u + 1]
            g = taps[K - 1] * dy_t + tl.where(linked, loaded[3 * u + 2], 0.0)
            added = (totals[0] + x_t * dy_t,)
            for k in tl.static_range(1, K):
                g += taps[K - 1 - k] * window[k - 1]
                added = added + (totals[k] + x_t * window[k - 1],)
            totals = added
            sum_dy += dy_t
            tl.store(dx + (b * T + t) * D + d, g.to(dx.dtype.element_ty), inside & (t >= 0))
            tl.store(dstate + (b * (K - 1) + K - 1 + t) * D + d, g, inside & (t < 0))
            moved = ()
            for k in tl.static_range(K - 1):
                sooner = dy_t
                if k > 0:
                    sooner = window[k - 1]
                if CUT:
                    sooner = tl.where(begun[u], 0.0, sooner)
                moved = moved + (sooner,)
            window = moved
            linked = linked & ~begun[u]
    for k in tl.static_range(K):
        tl.store(sums + (piece * (K + 1) + K - 1 - k) * D + d, totals[k], d < D)
    tl.store(sums + (piece * (K + 1) + K) * D + d, sum_dy, d < D)


def forward(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """(y, last K-1 inputs), as `reference.convolve`."""
    (B, T, D), K = x.shape, weight.shape[1]
    y, last = x.new_empty(x.shape), state.new_empty(state.shape)

    def grid(parameters: dict[str, int]) -> int:
        return B * triton.cdiv(T, parameters["STEPS"]) * triton.cdiv(D, parameters["BLOCK_D"])

    launch(
        short_conv_forward, grid, x.contiguous(), weight.t().contiguous(), bias.contiguous(), state.contiguous(),
        None if reset is None else reset.contiguous(), y, last, T, D=D, K=K, CUT=reset is not None,
    )  # fmt: skip
    return y, last


def backward(
    x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(dx, dweight, dbias, dstate) from the gradients of both outputs."""
    (B, T, D), K = x.shape, weight.shape[1]
    dx, dstate = x.new_empty(x.shape), state.new_empty(state.shape)
    pieces = B * triton.cdiv(T, table()["short_conv_backward"]["STEPS"])
    sums = weight.new_empty(pieces, K + 1, D)

    def grid(parameters: dict[str, int]) -> int:
        return pieces * triton.cdiv(D, parameters["BLOCK_D"])

    launch(
        short_conv_backward, grid, x.contiguous(), weight.t().contiguous(), state.contiguous(),
        None if reset is None else reset.contiguous(), dy.contiguous(), dlast.contiguous(), dx, sums, dstate, T,
        D=D, K=K, CUT=reset is not None,
    )  # fmt: skip
    total = sums.sum(0, dtype=torch.float64).to(weight.dtype)
    return dx, total[:K].t().contiguous(), total[K].clone(), dstate
