"""Triton kernels of the selective scan.

A program owns some channels of one row of the batch with all their states, over one piece of the steps, and takes
these in chunks of STEPS at once: tiles (STEPS, BLOCK_D, STATES), scanned along their first axis, with the state carried
from chunk to chunk in registers. The forward pass writes down the state before each chunk;
the backward pass, from the last chunk to the first, finds the chunk's states anew. Where batch and channels are too few
to fill the device, time is cut into pieces: `selective_summary` finds each piece's affine map of the state, and the
diagonal scan carries the state across.

States lie as (N, D) in memory, so that channels are side by side. Sums run in the type of the carried state; sums over
channels are finished outside, in a fixed order; offsets have 64 bits. Outside of a row Δ is 0: such a step changes
nothing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resurge.ops.diagonal import gpu as diagonal
from resurge.ops.launch import chunks, launch, table
from resurge.ops.selective_scan.chunk import edges


@triton.constexpr_function
def _channels(pairs: int, D: int, N: int) -> int:
    """Channels a program, so that it has about `pairs` states."""
    most = triton.next_power_of_2(D)
    wanted = max(1, pairs // triton.next_power_of_2(N))
    return most if most < wanted else wanted


@triton.jit
def _place(D: tl.constexpr, N: tl.constexpr, length, pieces, PAIRS: tl.constexpr):
    """(row of the batch, piece, block of channels, its channels, all components of the state) of this program."""
    BLOCK_D: tl.constexpr = _channels(PAIRS, D, N)
    blocks = tl.cdiv(D, BLOCK_D)
    program = tl.program_id(0)
    block = program % blocks
    d = block * BLOCK_D + tl.arange(0, BLOCK_D)
    return (program // blocks // pieces).to(tl.int64), (program // blocks) % pieces, block, d


@triton.jit
def _rows(pointer, b, t, T, i, count, dtype: tl.constexpr):
    """Rows t of a (B, T, count) tensor, columns i: a tile (STEPS, ...), zeros outside."""
    inside = ((t >= 0) & (t < T))[:, None] & (i < count)[None, :]
    return tl.load(pointer + (b * T + t)[:, None] * count + i[None, :], inside, 0.0).to(dtype)


@triton.jit
def _put_rows(pointer, value, b, t, T, i, count):
    inside = (t < T)[:, None] & (i < count)[None, :]
    tl.store(pointer + (b * T + t)[:, None] * count + i[None, :], value.to(pointer.dtype.element_ty), inside)


@triton.jit
def _softplus(p):
    """log(1 + e^p) with all its digits: for y = e^-|p|, log(1 + y) = 2 artanh(s), a short series in s² <= 1/9."""
    TERMS: tl.constexpr = 18 if p.dtype == tl.float64 else 8
    y = tl.exp(-tl.abs(p))
    s = y / (2 + y)
    series = tl.full(p.shape, 0.0, p.dtype)
    for k in tl.static_range(TERMS):
        series = series * (s * s) + 1 / (2 * (TERMS - 1 - k) + 1)
    return tl.maximum(p, 0.0) + 2 * s * series


@triton.jit
def _sigmoid(z):
    y = tl.exp(-tl.abs(z))
    return tl.where(z > 0, 1.0, y) / (1 + y)


@triton.jit
def _times(dt, b, t, T, dtype: tl.constexpr, TIMED: tl.constexpr):
    """dt of steps t, 0 outside of the row: a tile (STEPS, 1)."""
    times = ((t >= 0) & (t < T)).to(dtype)
    if TIMED:
        times = tl.load(dt + b * T + t, (t >= 0) & (t < T), 0.0)
    return times[:, None]


@triton.jit
def _step_size(delta, bias, dt, b, t, T, d, D: tl.constexpr, dtype: tl.constexpr, TIMED: tl.constexpr):
    """Δ of steps t: a tile (STEPS, BLOCK_D)."""
    p = _rows(delta, b, t, T, d, D, dtype) + tl.load(bias + d, d < D, 0.0)[None, :]
    return _softplus(p) * _times(dt, b, t, T, dtype, TIMED)


@triton.jit
def _decay(step, A_, cut, b, t, T, CUT: tl.constexpr):
    """exp(Δ A), 0 where the row starts anew: a tile (STEPS, BLOCK_D, STATES)."""
    a = tl.exp(step[:, :, None] * A_[None, :, :])
    if CUT:
        begins = tl.load(cut + b * T + t, (t >= 0) & (t < T), 0) != 0
        a = tl.where(begins[:, None, None], 0.0, a)
    return a


@triton.jit
def _scaled(a, x):
    """a x; 0 for a = 0 whatever x is."""
    return a * tl.where(a == 0, 0.0, x)


@triton.jit
def _then(a1, x1, a2, x2):
    """One affine map after another; what is forgotten may be infinite."""
    return a1 * a2, _scaled(a2, x1) + x2


@triton.jit
def _state(pointer, d, n, D: tl.constexpr, N: tl.constexpr, wanted):
    """A state (BLOCK_D, STATES) from memory (N, D)."""
    inside = (d < D)[:, None] & (n < N)[None, :] & wanted
    return tl.load(pointer + n[None, :] * D + d[:, None], inside, 0.0)


@triton.jit
def _put_state(pointer, value, d, n, D: tl.constexpr, N: tl.constexpr, wanted):
    tl.store(pointer + n[None, :] * D + d[:, None], value, (d < D)[:, None] & (n < N)[None, :] & wanted)


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def selective_summary(
    u, delta, A, B, C, z, bias, dt, cut, dy, gain, end, T, length, pieces,
    D: tl.constexpr, N: tl.constexpr, STEPS: tl.constexpr, BACKWARD: tl.constexpr,
    GATED: tl.constexpr, TIMED: tl.constexpr, CUT: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """A piece as the map state -> gain state + end. BACKWARD: of the gradient that leaves the piece's first step."""
    b, piece, _block, d = _place(D, N, length, pieces, PAIRS)
    n = tl.arange(0, triton.next_power_of_2(N))
    dtype: tl.constexpr = end.dtype.element_ty
    A_ = _state(A, d, n, D, N, True)
    value, total = tl.full(A_.shape, 0.0, dtype), tl.full(d.shape, 0.0, dtype)
    begun = 0
    line = tl.arange(0, STEPS)
    first, stop = piece * length, tl.minimum(piece * length + length, T)
    for i in range(0, stop - first, STEPS):
        start = (first + tl.cdiv(stop - first, STEPS) * STEPS - STEPS - i) if BACKWARD else first + i
        t = start + line
        step = _step_size(delta, bias, dt, b, t, T, d, D, dtype, TIMED)
        a = _decay(step, A_, cut, b, t, T, CUT)
        if BACKWARD:
            to_y = _rows(dy, b, t, T, d, D, dtype)
            if GATED:
                z_ = _rows(z, b, t, T, d, D, dtype)
                to_y *= z_ * _sigmoid(z_)
            x = to_y[:, :, None] * _rows(C, b, t, T, n, N, dtype)[:, None, :]
            x = _scaled(a, x + tl.where((line == STEPS - 1)[:, None, None], value[None, :, :], 0.0))
            _, value = tl.associative_scan((a, x), 0, _then, reverse=True)
            value = tl.sum(tl.where((line == 0)[:, None, None], value, 0.0), 0)
        else:
            x = (step * _rows(u, b, t, T, d, D, dtype))[:, :, None] * _rows(B, b, t, T, n, N, dtype)[:, None, :]
            x += tl.where((line == 0)[:, None, None], _scaled(a, value[None, :, :]), 0.0)
            _, value = tl.associative_scan((a, x), 0, _then)
            value = tl.sum(tl.where((line == STEPS - 1)[:, None, None], value, 0.0), 0)
        total += tl.sum(step, 0)
        if CUT:
            begun += tl.sum(tl.load(cut + b * T + t, t < T, 0).to(tl.int32), 0)
    at = (b * pieces + piece) * N * D
    _put_state(gain + at, tl.where(begun > 0, 0.0, tl.exp(total[:, None] * A_)), d, n, D, N, True)
    _put_state(end + at, value, d, n, D, N, True)


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def selective_forward(
    u, delta, A, B, C, skip, z, bias, dt, cut, starts, y, borders, T, length, pieces,
    D: tl.constexpr, N: tl.constexpr, STEPS: tl.constexpr,
    GATED: tl.constexpr, TIMED: tl.constexpr, CUT: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Outputs and borders, the last state among them, from the states `starts` (B, pieces, N, D) before each piece."""
    b, piece, _block, d = _place(D, N, length, pieces, PAIRS)
    n = tl.arange(0, triton.next_power_of_2(N))
    dtype: tl.constexpr = borders.dtype.element_ty
    A_, skip_ = _state(A, d, n, D, N, True), tl.load(skip + d, d < D, 0.0)
    h = _state(starts + (b * pieces + piece) * N * D, d, n, D, N, True)
    line = tl.arange(0, STEPS)
    chunks = tl.cdiv(T, STEPS)
    for start in range(piece * length, tl.minimum(piece * length + length, T), STEPS):
        t = start + line
        _put_state(borders + (b * (chunks + 1) + start // STEPS) * N * D, h, d, n, D, N, True)
        step = _step_size(delta, bias, dt, b, t, T, d, D, dtype, TIMED)
        u_ = _rows(u, b, t, T, d, D, dtype)
        a = _decay(step, A_, cut, b, t, T, CUT)
        x = (step * u_)[:, :, None] * _rows(B, b, t, T, n, N, dtype)[:, None, :]
        x += tl.where((line == 0)[:, None, None], _scaled(a, h[None, :, :]), 0.0)
        _, states = tl.associative_scan((a, x), 0, _then)
        out = tl.sum(states * _rows(C, b, t, T, n, N, dtype)[:, None, :], 2) + skip_[None, :] * u_
        if GATED:
            z_ = _rows(z, b, t, T, d, D, dtype)
            out *= z_ * _sigmoid(z_)
        _put_rows(y, out, b, t, T, d, D)
        h = tl.sum(tl.where((line == STEPS - 1)[:, None, None], states, 0.0), 0)
    _put_state(borders + (b * (chunks + 1) + chunks) * N * D, h, d, n, D, N, piece == pieces - 1)


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def selective_backward(
    u, delta, A, B, C, skip, z, bias, dt, cut, borders, dy, carry,
    du, ddelta, dA, dB, dC, dskip, dz, dbias, dh0, ddt, T, length, pieces, rows,
    D: tl.constexpr, N: tl.constexpr, STEPS: tl.constexpr,
    GATED: tl.constexpr, TIMED: tl.constexpr, CUT: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """g_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1}, and from it all gradients.

    `carry` (B, pieces, N, D) is what comes from behind each piece. Sums over time are by piece, those over channels
    (dB, dC, ddt) by block.
    """
    b, piece, block, d = _place(D, N, length, pieces, PAIRS)
    n = tl.arange(0, triton.next_power_of_2(N))
    dtype: tl.constexpr = borders.dtype.element_ty
    A_, skip_ = _state(A, d, n, D, N, True), tl.load(skip + d, d < D, 0.0)[None, :]
    bias_ = tl.load(bias + d, d < D, 0.0)[None, :]
    behind = _state(carry + (b * pieces + piece) * N * D, d, n, D, N, True)
    sum_A = tl.full(A_.shape, 0.0, dtype)
    sum_skip, sum_bias = tl.full(d.shape, 0.0, dtype), tl.full(d.shape, 0.0, dtype)
    line = tl.arange(0, STEPS)
    is_first, is_last = (line == 0)[:, None, None], (line == STEPS - 1)[:, None, None]
    chunks = tl.cdiv(T, STEPS)
    first, stop = piece * length // STEPS, tl.cdiv(tl.minimum(piece * length + length, T), STEPS)
    for chunk in range(stop - 1, first - 1, -1):
        t = chunk * STEPS + line
        p = _rows(delta, b, t, T, d, D, dtype) + bias_
        soft, times = _softplus(p), _times(dt, b, t, T, dtype, TIMED)
        step, u_ = soft * times, _rows(u, b, t, T, d, D, dtype)
        B_, C_ = _rows(B, b, t, T, n, N, dtype)[:, None, :], _rows(C, b, t, T, n, N, dtype)[:, None, :]
        # what arrives at each step from the one before: m_t = a_t h_{t-1} = a_t (m_{t-1} + x_{t-1})
        a = _decay(step, A_, cut, b, t, T, CUT)
        x = _step_size(delta, bias, dt, b, t - 1, T, d, D, dtype, TIMED) * _rows(u, b, t - 1, T, d, D, dtype)
        h = _state(borders + (b * (chunks + 1) + chunk) * N * D, d, n, D, N, True)
        before = x[:, :, None] * _rows(B, b, t - 1, T, n, N, dtype)[:, None, :]
        before = tl.where(is_first, h[None, :, :], before)
        first_decay = tl.sum(tl.where(is_first, a, 0.0), 0)
        _, arriving = tl.associative_scan((a, _scaled(a, before)), 0, _then)
        x = step * u_
        states = arriving + x[:, :, None] * B_
        to_y = _rows(dy, b, t, T, d, D, dtype)
        if GATED:
            z_ = _rows(z, b, t, T, d, D, dtype)
            s = _sigmoid(z_)
            out = tl.sum(states * C_, 2) + skip_ * u_
            _put_rows(dz, to_y * out * s * (1 + z_ * (1 - s)), b, t, T, d, D)
            to_y *= z_ * s
        _put_rows(dC, tl.sum(states * to_y[:, :, None], 1), block.to(tl.int64) * rows + b, t, T, n, N)
        g = to_y[:, :, None] * C_ + tl.where(is_last, behind[None, :, :], 0.0)
        after = _decay(_step_size(delta, bias, dt, b, t + 1, T, d, D, dtype, TIMED), A_, cut, b, t + 1, T, CUT)
        _, g = tl.associative_scan((after, g), 0, _then, reverse=True)
        _put_rows(dB, tl.sum(g * x[:, :, None], 1), block.to(tl.int64) * rows + b, t, T, n, N)
        to_x = tl.sum(g * B_, 2)
        behind = _scaled(first_decay, tl.sum(tl.where(is_first, g, 0.0), 0))
        g *= tl.where((t < T)[:, None, None], arriving, 0.0)  # behind the row, A may be too large for the rest
        to_step = tl.sum(g * A_[None, :, :], 2) + to_x * u_
        sum_A += tl.sum(g * step[:, :, None], 0)
        _put_rows(du, to_x * step + to_y * skip_, b, t, T, d, D)
        sum_skip += tl.sum(to_y * u_, 0)
        if TIMED:
            tl.store(ddt + (block.to(tl.int64) * rows + b) * T + t, tl.sum(to_step * soft, 1), t < T)
        to_step *= times * _sigmoid(p)
        _put_rows(ddelta, to_step, b, t, T, d, D)
        sum_bias += tl.sum(to_step, 0)
    at = b * pieces + piece
    _put_state(dA + at * N * D, sum_A, d, n, D, N, True)
    tl.store(dskip + at * D + d, sum_skip, d < D)
    tl.store(dbias + at * D + d, sum_bias, d < D)
    _put_state(dh0 + b * N * D, behind, d, n, D, N, piece == 0)


class _Plan:
    """The sizes that every kernel of one call shares."""

    def __init__(
        self, u: Tensor, A: Tensor, z: Tensor | None, dt: Tensor | None, cut: Tensor | None, every: int
    ) -> None:
        self.rows, self.T, self.D = u.shape
        self.N = A.shape[1]
        wanted = chunks(self.rows * self.blocks("selective_forward"), self.T, u.device)
        self.length = -(-self.T // wanted // every) * every
        self.pieces = -(-self.T // self.length)
        self.sizes = (self.T, self.length, self.pieces)
        self.constants = {
            "D": self.D, "N": self.N, "STEPS": every, "GATED": z is not None, "TIMED": dt is not None,
            "CUT": cut is not None,
        }  # fmt: skip

    def blocks(self, kernel: str) -> int:
        return int(triton.cdiv(self.D, _channels(table()[kernel]["PAIRS"], self.D, self.N)))

    def launch(self, kernel: object, *arguments: object, **constants: object) -> None:
        launch(kernel, self._grid, *arguments, **self.constants, **constants)

    def _grid(self, parameters: dict[str, int]) -> int:
        return self.rows * self.pieces * int(triton.cdiv(self.D, _channels(parameters["PAIRS"], self.D, self.N)))


def _dense(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if v is None else v.contiguous() for v in tensors)


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor, h0: Tensor,
    dt: Tensor | None, cut: Tensor | None, every: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(y, last state), as `reference.scan`; and the states before all chunks and after the last one."""
    plan = _Plan(u, A, z, dt, cut, every)
    u, delta, A, B, C, skip, z, bias, h0, dt, cut = _dense(u, delta, A.t(), B, C, skip, z, bias, h0.mT, dt, cut)
    starts = h0
    if plan.pieces > 1:
        starts = _carried(plan, h0, (u, delta, A, B, C, z, bias, dt, cut, None), backward=False)
    y, borders = torch.empty_like(u), h0.new_empty(plan.rows, (plan.T - 1) // every + 2, plan.N, plan.D)
    tensors = (u, delta, A, B, C, skip, z, bias, dt, cut, starts, y, borders)
    plan.launch(selective_forward, *tensors, *plan.sizes)
    return y, borders[:, -1].mT.contiguous(), borders


def _carried(plan: _Plan, edge: Tensor, tensors: tuple[Tensor | None, ...], *, backward: bool) -> Tensor:
    """What each piece starts from (B, pieces, N, D): the state before it, or `backward` the gradient from behind it."""
    gain = edge.new_empty(plan.rows, plan.pieces, plan.N, plan.D)
    end = torch.empty_like(gain)
    plan.launch(selective_summary, *tensors, gain, end, *plan.sizes, BACKWARD=backward)
    return edges(diagonal, gain, end, edge, backward=backward)


def backward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, skip: Tensor, z: Tensor | None, bias: Tensor, h0: Tensor,
    dt: Tensor | None, cut: Tensor | None, every: int, borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients to u, delta, A, B, C, skip, z, bias, h0 and dt; empty ones to what is None."""
    plan = _Plan(u, A, z, dt, cut, every)
    u, delta, A, B, C, skip, z, bias, h0, dt, cut = _dense(u, delta, A.t(), B, C, skip, z, bias, h0.mT, dt, cut)
    dy, carry = _dense(dy, dlast.mT)
    if plan.pieces > 1:
        carry = _carried(plan, carry, (u, delta, A, B, C, z, bias, dt, cut, dy), backward=True)
    blocks, rows, T = plan.blocks("selective_backward"), plan.rows, plan.T
    du, ddelta, dz = torch.empty_like(u), torch.empty_like(delta), u.new_empty(0) if z is None else torch.empty_like(z)
    dA, dskip, dbias = (h0.new_empty(rows * plan.pieces, *v.shape) for v in (A, skip, bias))
    dB, dC = h0.new_empty(blocks, rows, T, plan.N), h0.new_empty(blocks, rows, T, plan.N)
    dh0, ddt = torch.empty_like(h0), h0.new_empty(blocks, *(0,) if dt is None else (rows, T))
    inputs = (u, delta, A, B, C, skip, z, bias, dt, cut, borders, dy, carry)
    gradients = (du, ddelta, dA, dB, dC, dskip, dz, dbias, dh0, ddt)
    plan.launch(selective_backward, *inputs, *gradients, *plan.sizes, rows)
    dA, dskip, dbias, ddt = (v.sum(0) for v in (dA, dskip, dbias, ddt))
    dB, dC = dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype)
    return du, ddelta, dA.t().contiguous(), dB, dC, dskip, dz, dbias, dh0.mT.contiguous(), ddt
