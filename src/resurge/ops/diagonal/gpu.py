"""Triton kernels of the diagonal scan.

A program owns BLOCK_D channels of one row of the batch, over one piece of the steps, and walks through them with the
state in registers; UNROLL loads are under way before the first is used. Where batch and channels are too few to fill
the device, time is cut into pieces: `diagonal_summary` finds each piece's affine map of the state, a scan over the
pieces (the same kernel) carries the state across, and every piece then starts from its own.

Steps are counted along the scan: step k is at t = k, or at T - 1 - k in reverse. A complex row is D real parts, then
D imaginary parts. Sums run in the type of the carried state; offsets have 64 bits. D is compiled in: a block of steps
then shares one address, where computing one for each step was most of the instructions.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resurge.ops.diagonal import form as forms
from resurge.ops.diagonal.form import cut_pieces
from resurge.ops.launch import chunks, launch

PLAIN, NORMALIZED = tl.constexpr(forms.PLAIN), tl.constexpr(forms.NORMALIZED)
LEAST = tl.constexpr(2.5e-7)  # the derivative of sqrt(v) is bounded by 1000, as in the published code of RG-LRU


@triton.constexpr_function
def _way(reverse: bool, backward: bool) -> int:
    """How many steps of time one goes on at each step along the scan, or backward against it."""
    return -1 if reverse != backward else 1


@triton.jit
def _place(D: tl.constexpr, pieces, BLOCK_D: tl.constexpr):
    """(row of the batch, piece, channels, which of them there are) of this program."""
    blocks: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    program = tl.program_id(0)
    d = (program % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < D
    if D % BLOCK_D == 0:
        inside = tl.full([BLOCK_D], True, tl.int1)  # which the compiler leaves out
    return (program // blocks // pieces).to(tl.int64), (program // blocks) % pieces, d, inside


@triton.jit
def _begin(piece, T, length, REVERSE: tl.constexpr, BACKWARD: tl.constexpr):
    """(time of the first step of a walk through a piece, number of steps); BACKWARD: from the piece's last step."""
    start = piece * length
    n = tl.minimum(length, T - start)
    step = start
    if BACKWARD:
        step = start + n - 1
    if REVERSE:
        step = T - 1 - step
    return step.to(tl.int64), n


@triton.jit
def _load(pointer, row, d, mask, dtype: tl.constexpr, D: tl.constexpr, COMPLEX: tl.constexpr):
    R: tl.constexpr = 2 if COMPLEX else 1
    re = tl.load(pointer + row * (R * D) + d, mask, 0.0).to(dtype)
    im = re
    if COMPLEX:
        im = tl.load(pointer + row * (R * D) + d + D, mask, 0.0).to(dtype)
    return re, im


@triton.jit
def _store(pointer, row, d, mask, re, im, D: tl.constexpr, COMPLEX: tl.constexpr):
    R: tl.constexpr = 2 if COMPLEX else 1
    tl.store(pointer + row * (R * D) + d, re.to(pointer.dtype.element_ty), mask)
    if COMPLEX:
        tl.store(pointer + row * (R * D) + d + D, im.to(pointer.dtype.element_ty), mask)


@triton.jit
def _linked(cut, row, there, CUT: tl.constexpr):
    """Whether the state passes between this step and the one before it along the scan."""
    linked = there
    if CUT:
        linked = tl.load(cut + row, there, 0) == 0
    return linked


@triton.jit
def _times(a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    re, im = a_re * b_re, b_im
    if COMPLEX:
        re = a_re * b_re - a_im * b_im
        im = a_re * b_im + a_im * b_re
    return re, im


@triton.jit
def _variance(log_a):
    """1 - a²: near a = 1 by the series of 1 - e^z, elsewhere as it stands."""
    z = 2 * log_a
    series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5 * (1 + z / 6 * (1 + z / 7 * (1 + z / 8 * (1 + z / 9)))))))
    return tl.where(z > -0.1, -z * series, 1 - tl.exp(z))


@triton.jit
def _plain(a_re, x_re, FORM: tl.constexpr):
    """Coefficient and input of the plain form."""
    if FORM == NORMALIZED:
        x_re = tl.sqrt(_variance(a_re)) * x_re
    if FORM != PLAIN:
        a_re = tl.exp(a_re)
    return a_re, x_re


@triton.jit
def _summary(
    a, x, cut, b, t, n, d, inside, T, a_b, dtype: tl.constexpr,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, WAY: tl.constexpr, FORM: tl.constexpr,
    BACKWARD: tl.constexpr, CUT: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """(gain, end) of the n steps from t on."""
    row, row_a = b * T + t, b * a_b + (t if VARIES else 0)
    p_re, p_im = tl.full(d.shape, 1.0, dtype), tl.full(d.shape, 0.0, dtype)
    e_re, e_im = tl.full(d.shape, 0.0, dtype), tl.full(d.shape, 0.0, dtype)
    for k in range(0, n, UNROLL):
        loaded = ()
        for u in tl.static_range(UNROLL):
            there = k + u < n
            loaded = loaded + (
                _load(a, row_a + (WAY * u if VARIES else 0), d, inside & there, dtype, D, COMPLEX),
                _load(x, row + WAY * u, d, inside & there, dtype, D, COMPLEX),
                _linked(cut, row + WAY * u, there, CUT),
            )
        for u in tl.static_range(UNROLL):
            there = k + u < n
            a_re, a_im = loaded[3 * u]
            x_re, x_im = loaded[3 * u + 1]
            n_re, n_im = e_re, e_im
            if BACKWARD:
                a_re, _ = _plain(a_re, x_re, FORM)
                a_im = -a_im
                n_re, n_im = e_re + x_re, e_im + x_im
            else:
                a_re, x_re = _plain(a_re, x_re, FORM)
            n_re, n_im = _times(a_re, a_im, n_re, n_im, COMPLEX)
            q_re, q_im = _times(a_re, a_im, p_re, p_im, COMPLEX)
            if CUT:
                linked = loaded[3 * u + 2]
                n_re, n_im = tl.where(linked, n_re, 0.0), tl.where(linked, n_im, 0.0)
                q_re, q_im = tl.where(linked, q_re, 0.0), tl.where(linked, q_im, 0.0)
            if not BACKWARD:
                n_re, n_im = n_re + x_re, n_im + x_im
            e_re, e_im = tl.where(there, n_re, e_re), tl.where(there, n_im, e_im)
            p_re, p_im = tl.where(there, q_re, p_re), tl.where(there, q_im, p_im)
        row += WAY * UNROLL
        row_a += WAY * UNROLL if VARIES else 0
    return p_re, p_im, e_re, e_im


@triton.jit
def _forward(
    a, x, cut, h, re, im, b, t, n, d, inside, T, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, WAY: tl.constexpr, FORM: tl.constexpr,
    CUT: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The state after the n steps from t on, whose states are stored, from the state (re, im) before them."""
    row, row_a = b * T + t, b * a_b + (t if VARIES else 0)
    for k in range(0, n, UNROLL):
        loaded = ()
        for u in tl.static_range(UNROLL):
            there = k + u < n
            loaded = loaded + (
                _load(a, row_a + (WAY * u if VARIES else 0), d, inside & there, re.dtype, D, COMPLEX),
                _load(x, row + WAY * u, d, inside & there, re.dtype, D, COMPLEX),
                _linked(cut, row + WAY * u, there, CUT),
            )
        for u in tl.static_range(UNROLL):
            there = k + u < n
            if CUT:
                re, im = tl.where(loaded[3 * u + 2], re, 0.0), tl.where(loaded[3 * u + 2], im, 0.0)
            a_re, x_re = _plain(loaded[3 * u][0], loaded[3 * u + 1][0], FORM)
            n_re, n_im = _times(a_re, loaded[3 * u][1], re, im, COMPLEX)
            re = tl.where(there, n_re + x_re, re)
            im = tl.where(there, n_im + loaded[3 * u + 1][1], im)
            _store(h, row + WAY * u, d, inside & there, re, im, D, COMPLEX)
        row += WAY * UNROLL
        row_a += WAY * UNROLL if VARIES else 0
    return re, im


@triton.jit
def _backward(
    a, x, h, h0, cut, dh, da, dx, g_re, g_im, s_re, s_im, b, t, n, first, d, inside, T, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, WAY: tl.constexpr, FORM: tl.constexpr,
    CUT: tl.constexpr, ADD: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """What the n steps back from t on hand on to the one before, and s plus the sum of their da, from g handed to them.

    Before the `first` piece there is h0. ADD: da and dx are added to what is there.
    """
    dtype: tl.constexpr = g_re.dtype
    row, row_a = b * T + t, b * a_b + (t if VARIES else 0)
    first_re, first_im = _load(h0, b, d, inside, dtype, D, COMPLEX)
    for k in range(0, n, UNROLL):
        loaded = ()
        for u in tl.static_range(UNROLL):
            there, origin = k + u < n, first & (k + u == n - 1)
            mask = inside & there
            x_t, dx_t, da_t = 0.0, (0.0, 0.0), (0.0, 0.0)
            if FORM == NORMALIZED:
                x_t, _ = _load(x, row + WAY * u, d, mask, dtype, D, COMPLEX)
            if ADD:
                dx_t = _load(dx, row + WAY * u, d, mask, dtype, D, COMPLEX)
                if VARIES:
                    da_t = _load(da, row + WAY * u, d, mask, dtype, D, COMPLEX)
            loaded = loaded + (
                _load(a, row_a + (WAY * u if VARIES else 0), d, mask, dtype, D, COMPLEX),
                _load(dh, row + WAY * u, d, mask, dtype, D, COMPLEX),
                _load(h, row + WAY * (u + 1), d, mask & ~origin, dtype, D, COMPLEX),
                _linked(cut, row + WAY * u, there, CUT),
                x_t,
                dx_t,
                da_t,
            )
        for u in tl.static_range(UNROLL):
            there, origin = k + u < n, first & (k + u == n - 1)
            log_a, a_im = loaded[7 * u]
            a_re, _ = _plain(log_a, log_a, FORM)
            h_re = tl.where(origin, first_re, loaded[7 * u + 2][0])
            h_im = tl.where(origin, first_im, loaded[7 * u + 2][1])
            if CUT:
                h_re, h_im = tl.where(loaded[7 * u + 3], h_re, 0.0), tl.where(loaded[7 * u + 3], h_im, 0.0)
            n_re, n_im = loaded[7 * u + 1][0] + g_re, loaded[7 * u + 1][1] + g_im
            w_re, w_im = _times(h_re, -h_im, n_re, n_im, COMPLEX)
            i_re, i_im = n_re, n_im  # the gradient to the input
            if FORM != PLAIN:  # d log a = a da
                w_re = a_re * w_re
            if FORM == NORMALIZED:  # s = sqrt(1 - a²) before x; ds / d log a = -a² / s
                variance = _variance(log_a)
                w_re -= n_re * loaded[7 * u + 4] * a_re * a_re / tl.sqrt(tl.maximum(variance, LEAST))
                i_re = n_re * tl.sqrt(variance)
            if ADD:
                i_re, i_im = i_re + loaded[7 * u + 5][0], i_im + loaded[7 * u + 5][1]
            _store(dx, row + WAY * u, d, inside & there, i_re, i_im, D, COMPLEX)
            if VARIES:
                if ADD:
                    w_re, w_im = w_re + loaded[7 * u + 6][0], w_im + loaded[7 * u + 6][1]
                _store(da, row + WAY * u, d, inside & there, w_re, w_im, D, COMPLEX)
            else:
                s_re, s_im = s_re + tl.where(there, w_re, 0.0), s_im + tl.where(there, w_im, 0.0)
            n_re, n_im = _times(a_re, -a_im, n_re, n_im, COMPLEX)
            if CUT:
                n_re, n_im = tl.where(loaded[7 * u + 3], n_re, 0.0), tl.where(loaded[7 * u + 3], n_im, 0.0)
            g_re, g_im = tl.where(there, n_re, g_re), tl.where(there, n_im, g_im)
        row += WAY * UNROLL
        row_a += WAY * UNROLL if VARIES else 0
    return g_re, g_im, s_re, s_im


@triton.jit(do_not_specialize=["T", "length", "pieces", "a_b"])
def diagonal_summary(
    a, x, cut, gain, end, T, length, pieces, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr,
    BACKWARD: tl.constexpr, CUT: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A piece as the map state -> gain * state + end. BACKWARD: of the gradient carried from behind."""
    b, piece, d, inside = _place(D, pieces, BLOCK_D)
    t, n = _begin(piece, T, length, REVERSE, BACKWARD)
    p_re, p_im, e_re, e_im = _summary(
        a, x, cut, b, t, n, d, inside, T, a_b, end.dtype.element_ty,
        D, COMPLEX, VARIES, _way(REVERSE, BACKWARD), FORM, BACKWARD, CUT, UNROLL,
    )  # fmt: skip
    _store(gain, b * pieces + piece, d, inside, p_re, p_im, D, COMPLEX)
    _store(end, b * pieces + piece, d, inside, e_re, e_im, D, COMPLEX)


@triton.jit(do_not_specialize=["T", "length", "pieces", "a_b"])
def diagonal_forward(
    a, x, h0, cut, h, last, T, length, pieces, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr,
    CUT: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """h_t = a_t h_{t-1} + x_t from the state h0 (B, pieces, ...) before each piece."""
    b, piece, d, inside = _place(D, pieces, BLOCK_D)
    t, n = _begin(piece, T, length, REVERSE, False)
    re, im = _load(h0, b * pieces + piece, d, inside, h0.dtype.element_ty, D, COMPLEX)
    re, im = _forward(
        a, x, cut, h, re, im, b, t, n, d, inside, T, a_b, D, COMPLEX, VARIES, _way(REVERSE, False), FORM, CUT, UNROLL
    )
    _store(last, b, d, inside & (piece == pieces - 1), re, im, D, COMPLEX)


@triton.jit(do_not_specialize=["T", "length", "pieces", "a_b"])
def diagonal_backward(
    a, x, h, h0, cut, dh, carry, da, dx, dh0, T, length, pieces, a_b,
    D: tl.constexpr, COMPLEX: tl.constexpr, VARIES: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr,
    CUT: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """g_t = dh_t + conj(a_{t+1}) g_{t+1};  dx_t = g_t;  da_t = g_t conj(h_{t-1}), summed over a piece if a is constant.

    `carry` (B, pieces, ...) is conj(a) g from behind each piece; `dh0` the same in front of the first.
    """
    b, piece, d, inside = _place(D, pieces, BLOCK_D)
    g_re, g_im = _load(carry, b * pieces + piece, d, inside, h0.dtype.element_ty, D, COMPLEX)
    none = tl.zeros_like(g_re)
    t, n = _begin(piece, T, length, REVERSE, True)
    g_re, g_im, s_re, s_im = _backward(
        a, x, h, h0, cut, dh, da, dx, g_re, g_im, none, none, b, t, n, piece == 0, d, inside, T, a_b,
        D, COMPLEX, VARIES, _way(REVERSE, True), FORM, CUT, False, UNROLL,
    )  # fmt: skip
    if not VARIES:
        _store(da, b * pieces + piece, d, inside, s_re, s_im, D, COMPLEX)
    _store(dh0, b, d, inside & (piece == 0), g_re, g_im, D, COMPLEX)


class _Plan:
    """The sizes that every kernel of one call shares."""

    def __init__(
        self, a: Tensor, x: Tensor, cut: Tensor | None, reverse: bool, form: int, pieces: int | None = None
    ) -> None:
        self.B, self.T, self.D = x.shape[0], x.shape[1], x.shape[-1]
        programs = self.B * -(-self.D // 128)
        wanted = chunks(programs, self.T, x.device) if pieces is None else pieces
        self.length = -(-self.T // wanted)
        self.pieces = -(-self.T // self.length)
        self.sizes = (self.T, self.length, self.pieces, a.shape[1] if a.shape[0] > 1 else 0)
        self.flags = {
            "D": self.D, "COMPLEX": x.dim() == 4, "VARIES": a.shape[1] > 1, "REVERSE": reverse, "FORM": form,
            "CUT": cut is not None,
        }  # fmt: skip

    def grid(self, parameters: dict[str, int]) -> int:
        return self.B * self.pieces * triton.cdiv(self.D, parameters["BLOCK_D"])


def forward(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int) -> tuple[Tensor, Tensor]:
    """All states h, shaped as x: (B, T, D), or (B, T, 2, D) for real and imaginary parts; and the last one."""
    a, x, h0 = a.contiguous(), x.contiguous(), h0.contiguous()
    cut = None if cut is None else cut.contiguous()
    plan = _Plan(a, x, cut, reverse, form)
    h, last = torch.empty_like(x), torch.empty_like(h0)
    starts = _carried(plan, a, x, h0, cut, backward=False) if plan.pieces > 1 else h0
    launch(diagonal_forward, plan.grid, a, x, starts, cut, h, last, *plan.sizes, **plan.flags)
    return h, last


def _carried(plan: _Plan, a: Tensor, x: Tensor, first: Tensor, cut: Tensor | None, *, backward: bool) -> Tensor:
    """The state with which each piece starts, (B, pieces, ...)."""
    gain = first.new_empty(plan.B, plan.pieces, *first.shape[1:])
    end = torch.empty_like(gain)
    launch(diagonal_summary, plan.grid, a, x, cut, gain, end, *plan.sizes, **plan.flags, BACKWARD=backward)
    cuts = None if cut is None else cut_pieces(cut, plan.length, plan.pieces, plan.flags["REVERSE"])
    return _across(gain, end, first, cuts, backward)


def _across(gain: Tensor, end: Tensor, first: Tensor, cuts: Tensor | None, reverse: bool) -> Tensor:
    """What each piece starts from, (B, pieces, ...), given the pieces' maps and what the first starts from."""
    across = _Plan(gain, end, cuts, reverse, forms.PLAIN, pieces=1)
    states = torch.empty_like(end)
    launch(
        diagonal_forward,
        across.grid,
        gain,
        end,
        first,
        cuts,
        states,
        torch.empty_like(first),
        *across.sizes,
        **across.flags,
    )
    if reverse:
        return torch.cat([states[:, 1:], first[:, None]], 1)
    return torch.cat([first[:, None], states[:, :-1]], 1)


def backward(
    a: Tensor,
    x: Tensor,
    h: Tensor,
    h0: Tensor,
    cut: Tensor | None,
    reverse: bool,
    form: int,
    dh: Tensor,
    dh_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(da shaped as a, dx shaped as h, dh0 shaped as h0) from the gradients of all states and of the last."""
    a, x, h, h0, dh, dh_last = (v.contiguous() for v in (a, x, h, h0, dh, dh_last))
    cut = None if cut is None else cut.contiguous()
    plan = _Plan(a, h, cut, reverse, form)
    carry = _carried(plan, a, dh, dh_last, cut, backward=True) if plan.pieces > 1 else dh_last
    dx, dh0 = torch.empty_like(h), torch.empty_like(h0)
    varies, shared = a.shape[1] > 1, a.shape[0] == 1 < plan.B
    da = h0.new_empty(
        plan.B, plan.T if varies else plan.pieces, *h0.shape[1:], dtype=a.dtype if varies and not shared else h0.dtype
    )
    launch(diagonal_backward, plan.grid, a, x, h, h0, cut, dh, carry, da, dx, dh0, *plan.sizes, **plan.flags)
    if not varies:
        da = da.sum(1, keepdim=True)
    if shared:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx, dh0
