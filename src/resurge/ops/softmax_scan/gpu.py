"""Triton kernels of the softmax scan.

A program owns some heads of one row of the batch, a tile (BLOCK_H, BLOCK_G) of heads and their channels, over one piece
of the steps, and walks through them with the state in registers; what belongs to a head is the same all along its row
of the tile. Backward, it computes the EVERY states from one that was kept to the next anew, in registers.

Where batch and channels are too few to fill the device, time is cut into pieces. A first pass runs each from the empty
state; the same kernel, with pieces in the place of steps, joins what they come to; and every piece then starts from its
own state. Backward, the gradients from behind the pieces are joined by the kernel of the diagonal scan. Sums run in the
type of the carried state; offsets have 64 bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resurge.ops.diagonal import gpu as diagonal
from resurge.ops.diagonal.form import PLAIN
from resurge.ops.launch import chunks, launch
from resurge.ops.softmax_scan.state import EMPTY, EVERY, LARGEST_ERROR, beyond_a_shift, empty, pack

NOTHING, MOST = tl.constexpr(EMPTY), tl.constexpr(LARGEST_ERROR)


@triton.jit
def _place(T, H: tl.constexpr, G: tl.constexpr, length, pieces, BLOCK_D: tl.constexpr, BLOCK_G: tl.constexpr):
    """(row of the batch, piece, first and last step, heads, channels, which of them exist) of this program."""
    BLOCK_H: tl.constexpr = (BLOCK_D + BLOCK_G - 1) // BLOCK_G
    blocks = tl.cdiv(H, BLOCK_H)
    program = tl.program_id(0)
    g = tl.arange(0, BLOCK_G)[None, :]
    rows = tl.arange(0, BLOCK_H)[:, None]
    if BLOCK_G > 1:  # falling, the heads do not look like neighbours in memory, and all loads have the channels' layout
        rows = BLOCK_H - 1 - rows
    h = (program % blocks) * BLOCK_H + rows + 0 * g
    piece = (program // blocks) % pieces
    b = (program // blocks // pieces).to(tl.int64)
    start = piece * length
    return b, piece, start, tl.minimum(start + length, T), h, h * G + g, (h < H) & (g < G), (h < H) & (g == 0)


@triton.jit
def _load(states, row, H: tl.constexpr, D: tl.constexpr, h, d, inside):
    at = states + row * (D + 2 * H)
    num = tl.load(at + d, inside, 0.0)
    return num, tl.load(at + D + h, inside, 0.0), tl.load(at + D + H + h, inside, 0.0)


@triton.jit
def _store(states, row, H: tl.constexpr, D: tl.constexpr, h, d, inside, lead, num, m, den):
    at = states + row * (D + 2 * H)
    tl.store(at + d, num, inside)
    tl.store(at + D + h, m, lead)
    tl.store(at + D + H + h, den, lead)


@triton.jit
def _emptied(at, within, cut, num, m, den, CUT: tl.constexpr):
    if CUT:
        linked = tl.load(cut + at, within, 0) == 0
        num, m, den = tl.where(linked, num, 0.0), tl.where(linked, m, NOTHING), tl.where(linked, den, 0.0)
    return num, m, den


@triton.jit
def _weights(k, w, u, m, den, BONUS: tl.constexpr):
    """(weight of the sums so far, its rounding error, that of this step, those of both in the output, m after it).

    Left out, the rounding of a weight next to 1 would be another decay: it is always the same where m stands.
    """
    after = tl.maximum(k, m - w)
    apart = (m - after) - w
    fresh = k == after
    error = tl.minimum(tl.maximum(apart, -MOST), MOST)
    change = error * (1 + 0.5 * error)
    a = tl.where(fresh, tl.exp(apart), 1 + change)
    e = tl.where(fresh, 0.0, change - (a - 1))
    b = tl.exp(k - after)
    of_past, of_present = a, b
    if BONUS:
        largest = tl.maximum(m, k + u)
        of_past, of_present = tl.exp(m - largest), tl.exp(k + u - largest)
    scale = 1 / (of_past * den + of_present)
    return a, e, b, of_past * scale, of_present * scale, after


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def softmax_forward(
    k, v, w, u, starts, cut, present, y, borders, lasts, T, length, pieces,
    H: tl.constexpr, G: tl.constexpr, DECAY: tl.constexpr, BONUS: tl.constexpr, CUT: tl.constexpr,
    JOIN: tl.constexpr, EACH: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """y and the last state of each piece; the borders, the last one left out.

    JOIN: the steps are pieces, whose sums of weights are `present` in the place of 1; no y.
    """
    b, piece, start, stop, h, d, inside, lead = _place(T, H, G, length, pieces, BLOCK_D, BLOCK_G)
    D: tl.constexpr = H * G
    dtype: tl.constexpr = starts.dtype.element_ty
    num, m, den = _load(starts, b * pieces + piece, H, D, h, d, inside)
    decay, bonus = tl.zeros_like(m), tl.zeros_like(m)
    if DECAY:
        decay = tl.load(w + h, inside, 0.0)
    if BONUS:
        bonus = tl.load(u + h, inside, 0.0)
    for first in range(start, stop, UNROLL):
        loaded = ()
        for s in tl.static_range(UNROLL):
            mask = inside & (first + s < stop)
            at = b * T + first + s
            weight = tl.full([1, 1], 1.0, dtype)
            if JOIN:
                weight = tl.load(present + at * H + h, mask, 0.0)
            loaded = loaded + (
                tl.load(k + at * H + h, mask, 0.0).to(dtype), tl.load(v + at * D + d, mask, 0.0).to(dtype), weight,
            )  # fmt: skip
        for s in tl.static_range(UNROLL):
            t = first + s
            within = t < stop
            if s % EACH == 0 and t % EACH == 0:  # both are powers of two
                i = b * ((T - 1) // EACH + 2) + t // EACH
                _store(borders, i, H, D, h, d, inside & within, lead & within, num, m, den)
            num, m, den = _emptied(b * T + t, within, cut, num, m, den, CUT)
            k_t, v_t, weight = loaded[3 * s], loaded[3 * s + 1], loaded[3 * s + 2]
            a, e, now, r, c, after = _weights(k_t, decay, bonus, m, den, BONUS)
            if not JOIN:
                tl.store(y + (b * T + t) * D + d, (r * num + c * v_t).to(y.dtype.element_ty), inside & within)
            num = tl.where(within, a * num + (e * num + now * v_t), num)
            den = tl.where(within, a * den + (e * den + now * weight), den)
            m = tl.where(within, after, m)
    _store(lasts, b * pieces + piece, H, D, h, d, inside, lead, num, m, den)


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def softmax_backward(
    k, v, w, u, cut, borders, dy, carries, dk, dv, dw, du, fronts, gains, T, length, pieces,
    H: tl.constexpr, G: tl.constexpr, DECAY: tl.constexpr, BONUS: tl.constexpr, CUT: tl.constexpr,
    FIRST: tl.constexpr, EACH: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients, from `carries` from behind each piece to `fronts` in front of it, as [num, rest of m, den].

    The rest of m is its gradient beyond that of a constant shift, and goes where the maximum is. FIRST: nothing but
    `fronts`, and the factors `gains` with which what is behind reaches the front.
    """
    b, piece, start, stop, h, d, inside, lead = _place(T, H, G, length, pieces, BLOCK_D, BLOCK_G)
    D: tl.constexpr = H * G
    dtype: tl.constexpr = borders.dtype.element_ty
    g_num, rest, g_den = _load(carries, b * pieces + piece, H, D, h, d, inside)
    decay, bonus = tl.zeros_like(rest), tl.zeros_like(rest)
    if DECAY:
        decay = tl.load(w + h, inside, 0.0)
    if BONUS:
        bonus = tl.load(u + h, inside, 0.0)
    dw_sum, du_sum = tl.zeros_like(rest), tl.zeros_like(rest)
    # in float32 a product of factors next to 1 would not change
    gain, largest = tl.zeros_like(rest).to(tl.float64) + 1, tl.zeros_like(rest) + 1
    blocks = tl.cdiv(stop - start, EACH)
    for block in range(blocks):
        t0 = start + (blocks - 1 - block) * EACH
        num, m, den = _load(borders, b * ((T - 1) // EACH + 2) + t0 // EACH, H, D, h, d, inside)
        states, loaded = (), ()
        for j in tl.static_range(EACH):
            mask = inside & (t0 + j < stop)
            at = b * T + t0 + j
            k_t, v_t = tl.load(k + at * H + h, mask, 0.0).to(dtype), tl.load(v + at * D + d, mask, 0.0).to(dtype)
            loaded = loaded + (k_t, v_t, tl.load(dy + at * D + d, mask, 0.0).to(dtype))
        for j in tl.static_range(EACH):
            num, m, den = _emptied(b * T + t0 + j, t0 + j < stop, cut, num, m, den, CUT)
            states = states + (num, m, den)
            a, e, now, r, c, m = _weights(loaded[3 * j], decay, bonus, m, den, False)
            num, den = a * num + (e * num + now * loaded[3 * j + 1]), a * den + (e * den + now)
        # the next piece begins with the sums that this one ends with, divided by another e^m
        other = inside & (block == 0) & (stop < T)
        at = borders + (b * ((T - 1) // EACH + 2) + stop // EACH) * (D + 2 * H) + D + H
        ratio = tl.where(other, tl.load(at + h, other, 0.0) / den, 1.0)
        g_num, g_den = ratio * g_num, ratio * g_den
        if FIRST:
            gain = ratio.to(tl.float64) * gain
        dw_part, du_part = tl.zeros_like(rest), tl.zeros_like(rest)
        for j in tl.static_range(EACH - 1, -1, -1):
            t = t0 + j
            within = t < stop
            at = b * T + t
            k_t = tl.load(k + at * H + h, inside & within, 0.0).to(dtype)  # again: cheaper than to keep
            v_t = tl.load(v + at * D + d, inside & within, 0.0).to(dtype)
            g = loaded[3 * j + 2]
            num, m, den = states[3 * j], states[3 * j + 1], states[3 * j + 2]
            a, e, now, r, c, m = _weights(k_t, decay, bonus, m, den, BONUS)
            a, e = tl.where(within, a, 1.0), tl.where(within, e, 0.0)
            now, r, c = tl.where(within, now, 0.0), tl.where(within, r, 0.0), tl.where(within, c, 0.0)
            y = r * num + c * v_t
            to_u = c * tl.sum(g * (v_t - y), 1, keep_dims=True)
            held = tl.sum(g * y, 1, keep_dims=True)
            present = tl.sum(g_num * v_t, 1, keep_dims=True)
            here = tl.where(within & (k_t == m), rest, 0.0)
            rest = rest - here
            if not FIRST:
                dk_t = to_u + now * (present + g_den) + here
                tl.store(dk + (b * T + t) * H + h, dk_t.to(dk.dtype.element_ty), lead & within)
                dv_t = c * g + now * g_num
                tl.store(dv + (b * T + t) * D + d, dv_t.to(dv.dtype.element_ty), inside & within)
                if DECAY:
                    past = tl.sum(g_num * num, 1, keep_dims=True)
                    dw_part -= tl.where(within, a * (past + den * g_den) + rest, 0.0)
                    if not BONUS:  # no u is the same as u = w
                        dw_part += to_u
                if BONUS:
                    du_part += to_u
            g_den = a * g_den + (e * g_den - r * held)
            g_num = a * g_num + (e * g_num + r * g)
            if FIRST:
                gain = (a.to(tl.float64) + e.to(tl.float64)) * gain
                largest = tl.where(within & (k_t == m), 0.0, largest)
            if CUT:  # the state before is taken as empty, and no gradient goes to it
                linked = tl.load(cut + b * T + t, within, 0) == 0
                g_num, g_den = tl.where(linked, g_num, 0.0), tl.where(linked, g_den, 0.0)
                rest = tl.where(linked, rest, 0.0)
                gain, largest = tl.where(linked, gain, 0.0), tl.where(linked, largest, 0.0)
        dw_sum += dw_part
        du_sum += du_part
    row = b * pieces + piece
    _store(fronts, row, H, D, h, d, inside, lead, g_num, rest, g_den)
    if FIRST:
        tl.store(gains + row * 2 * H + h, gain, lead)
        tl.store(gains + (row * 2 + 1) * H + h, largest, lead)
    else:
        tl.store(dw + row * H + h, dw_sum, lead)
        tl.store(du + row * H + h, du_sum, lead)


class _Plan:
    """The sizes that every kernel of one call shares."""

    def __init__(
        self, k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, cut: Tensor | None, *, whole: bool = False
    ) -> None:
        (self.B, self.T, self.H), self.D = k.shape, v.shape[2]
        G = self.D // self.H
        wanted = 1 if whole else chunks(self.B * -(-self.D // 128), self.T, v.device)
        self.length = -(-self.T // wanted // EVERY) * EVERY
        self.pieces = -(-self.T // self.length)
        self.block = triton.next_power_of_2(G)
        self.sizes = (self.T, self.length, self.pieces)
        self.flags = {
            "H": self.H, "G": G, "DECAY": w is not None, "BONUS": u is not None, "CUT": cut is not None,
            "BLOCK_G": self.block,
        }  # fmt: skip

    def grid(self, parameters: dict[str, int]) -> int:
        heads = -(-parameters["BLOCK_D"] // self.block)
        return self.B * self.pieces * triton.cdiv(self.H, heads)


def forward(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, D), the last state (B, D + 2 H), and the borders (B, ..., D + 2 H)."""
    k, v, start = k.contiguous(), v.contiguous(), start.contiguous()
    w, u, cut = (None if z is None else z.contiguous() for z in (w, u, cut))
    plan = _Plan(k, v, w, u, cut)
    y = torch.empty_like(v)
    borders = start.new_empty(plan.B, (plan.T - 1) // EVERY + 2, start.shape[1])
    lasts = start.new_empty(plan.B, plan.pieces, start.shape[1])
    starts = start
    for first in (True, False) if plan.pieces > 1 else (False,):
        if first:
            starts = pack(empty(plan.B, plan.H, plan.D, device=start.device, dtype=start.dtype))
            starts = starts[:, None].expand(-1, plan.pieces, -1).contiguous()
        launch(
            softmax_forward, plan.grid, k, v, w, u, starts, cut, None, y, borders, lasts, *plan.sizes, **plan.flags,
            JOIN=False, EACH=EVERY,
        )  # fmt: skip
        if first:
            starts = _starts(plan, start, lasts, w, cut)
    borders[:, -1] = lasts[:, -1]
    return y, lasts[:, -1].clone(), borders


def _starts(plan: _Plan, start: Tensor, lasts: Tensor, w: Tensor | None, cut: Tensor | None) -> Tensor:
    """The states before the pieces, (B, pieces, D + 2 H), from what each comes to on its own."""
    num, m, den = (part.contiguous() for part in lasts.split([plan.D, plan.H, plan.H], 2))
    decay = None if w is None else plan.length * w
    if cut is not None:
        padded = torch.nn.functional.pad(cut, (0, plan.pieces * plan.length - plan.T))
        cut = padded.unflatten(1, (plan.pieces, plan.length)).any(2)
    across = _Plan(m, num, decay, None, cut, whole=True)
    states = start.new_empty(plan.B, plan.pieces + 1, start.shape[1])
    launch(
        softmax_forward, across.grid, m, num, decay, None, start, cut, den, None, states, torch.empty_like(start),
        *across.sizes, **across.flags, JOIN=True, EACH=1,
    )  # fmt: skip
    return states[:, :-1].contiguous()


def backward(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None, last: Tensor,
    borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(dk, dv, dw, du, dstart) from the gradients of y and of the last state; dw and du are empty without w and u."""
    k, v, start, borders, dy = (z.contiguous() for z in (k, v, start, borders, dy))
    w, u, cut = (None if z is None else z.contiguous() for z in (w, u, cut))
    plan = _Plan(k, v, w, u, cut)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    dw, du = (start.new_empty(plan.B * plan.pieces, plan.H) for _ in range(2))  # halves of one: aligned for some T only
    fronts = start.new_empty(plan.B, plan.pieces, start.shape[1])
    gains = start.new_empty(plan.B, plan.pieces, 2, plan.H)
    behind = beyond_a_shift(dlast, last, plan.H, -1).contiguous()
    carries = behind
    for first in (True, False) if plan.pieces > 1 else (False,):
        carries = torch.zeros_like(fronts) if first else carries
        launch(
            softmax_backward, plan.grid, k, v, w, u, cut, borders, dy, carries, dk, dv, dw, du, fronts, gains,
            *plan.sizes, **plan.flags, FIRST=first, EACH=EVERY,
        )  # fmt: skip
        if first:
            gain, largest = gains.unbind(2)
            factors = torch.cat([gain.repeat_interleave(plan.D // plan.H, 2), largest, gain], 2)
            joined, _ = diagonal.forward(factors, fronts, behind, None, True, PLAIN)
            carries = torch.cat([joined[:, 1:], behind[:, None]], 1)
    dstart = beyond_a_shift(fronts[:, 0], start, plan.H, 1)
    dw, du = (start.new_empty(0) if z is None else d.sum(0) for z, d in ((w, dw), (u, du)))
    return dk, dv, dw, du, dstart
