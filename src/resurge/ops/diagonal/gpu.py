"""Triton kernels of the diagonal scan.

A program owns BLOCK_D channels of one row of the batch, over one piece of the steps, and walks through them with the
state in registers; UNROLL loads are under way before the first is used. Where batch and channels are too few to fill
the device, time is cut into pieces: `diagonal_summary` finds each piece's affine map of the state, a scan over the
pieces (the same kernel) carries the state across, and every piece then starts from its own.

Steps are counted along the scan: step k is at t = k, or at T - 1 - k in reverse. A complex row is D real parts, then
D imaginary parts. Sums run in the type of the carried state; offsets have 64 bits.
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


@triton.jit
def _load(pointer, offset, D, mask, dtype: tl.constexpr, COMPLEX: tl.constexpr):
    re = tl.load(pointer + offset, mask, 0.0).to(dtype)
    im = re
    if COMPLEX:
        im = tl.load(pointer + offset + D, mask, 0.0).to(dtype)
    return re, im


@triton.jit
def _linked(cut, at, mask, CUT: tl.constexpr):
    """Whether the state passes between this step and the one before it along the scan."""
    linked = mask
    if CUT:
        linked = tl.load(cut + at, mask, 0) == 0
    return linked


@triton.jit
def _store(pointer, offset, D, mask, re, im, COMPLEX: tl.constexpr):
    tl.store(pointer + offset, re.to(pointer.dtype.element_ty), mask)
    if COMPLEX:
        tl.store(pointer + offset + D, im.to(pointer.dtype.element_ty), mask)


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
def _place(D, length, pieces, BLOCK_D: tl.constexpr):
    """(row of the batch, piece, channels) of this program."""
    blocks = tl.cdiv(D, BLOCK_D)
    program = tl.program_id(0)
    d = (program % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    piece = (program // blocks) % pieces
    return (program // blocks // pieces).to(tl.int64), piece, d


@triton.jit
def _steps(T, length, piece, REVERSE: tl.constexpr):
    """(time of the first step, number of steps) of a piece of the scan."""
    start = piece * length
    return T - 1 - start if REVERSE else start, tl.minimum(length, T - start)


@triton.jit
def _summary(
    a, x, cut, b, t_0, n, T, D, d, a_b, a_t, dtype: tl.constexpr,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr, BACKWARD: tl.constexpr, CUT: tl.constexpr,
    BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """(gain, end) of n steps from t_0 on."""
    R: tl.constexpr = 2 if COMPLEX else 1
    inside = d < D
    p_re, p_im = tl.full([BLOCK_D], 1.0, dtype), tl.full([BLOCK_D], 0.0, dtype)
    e_re, e_im = tl.full([BLOCK_D], 0.0, dtype), tl.full([BLOCK_D], 0.0, dtype)
    for k in range(0, n, UNROLL):
        loaded = ()
        for u in tl.static_range(UNROLL):
            step = n - 1 - k - u if BACKWARD else k + u
            t = t_0 - step if REVERSE else t_0 + step
            mask = inside & (k + u < n)
            loaded = loaded + (
                _load(a, (b * a_b + t * a_t) * R * D + d, D, mask, dtype, COMPLEX),
                _load(x, (b * T + t) * R * D + d, D, mask, dtype, COMPLEX),
                _linked(cut, b * T + t, k + u < n, CUT),
            )
        for u in tl.static_range(UNROLL):
            within = k + u < n
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
            e_re, e_im = tl.where(within, n_re, e_re), tl.where(within, n_im, e_im)
            p_re, p_im = tl.where(within, q_re, p_re), tl.where(within, q_im, p_im)
    return p_re, p_im, e_re, e_im


@triton.jit
def _forward(
    a, x, cut, h, re, im, b, t_0, n, T, D, d, a_b, a_t,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr, CUT: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """n steps from t_0 on, and the state after them, from the state (re, im) before them."""
    R: tl.constexpr = 2 if COMPLEX else 1
    inside = d < D
    for k in range(0, n, UNROLL):
        loaded = ()
        for u in tl.static_range(UNROLL):
            t = t_0 - k - u if REVERSE else t_0 + k + u
            mask = inside & (k + u < n)
            loaded = loaded + (
                _load(a, (b * a_b + t * a_t) * R * D + d, D, mask, re.dtype, COMPLEX),
                _load(x, (b * T + t) * R * D + d, D, mask, re.dtype, COMPLEX),
                _linked(cut, b * T + t, k + u < n, CUT),
            )
        for u in tl.static_range(UNROLL):
            t = t_0 - k - u if REVERSE else t_0 + k + u
            within = k + u < n
            if CUT:
                re, im = tl.where(loaded[3 * u + 2], re, 0.0), tl.where(loaded[3 * u + 2], im, 0.0)
            a_re, x_re = _plain(loaded[3 * u][0], loaded[3 * u + 1][0], FORM)
            n_re, n_im = _times(a_re, loaded[3 * u][1], re, im, COMPLEX)
            n_re, n_im = n_re + x_re, n_im + loaded[3 * u + 1][1]
            re, im = tl.where(within, n_re, re), tl.where(within, n_im, im)
            _store(h, (b * T + t) * R * D + d, D, inside & within, re, im, COMPLEX)
    return re, im


@triton.jit
def _backward(
    a, x, h, h0, cut, dh, da, dx, g_re, g_im, s_re, s_im, b, t_0, n, T, D, d, a_b, a_t,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr, CUT: tl.constexpr, CONSTANT: tl.constexpr,
    ADD: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """n steps from t_0 on: what is carried in front of them, and the sum of da with s, from g carried from behind.

    ADD: da and dx are added to what is there.
    """
    R: tl.constexpr = 2 if COMPLEX else 1
    inside = d < D
    origin = T - 1 if REVERSE else 0
    for k in range(0, n, UNROLL):
        loaded = ()
        for u in tl.static_range(UNROLL):
            step = n - 1 - k - u
            t = t_0 - step if REVERSE else t_0 + step
            mask = inside & (step >= 0)
            before = t + 1 if REVERSE else t - 1
            h_re, h_im = _load(h, (b * T + before) * R * D + d, D, mask & (t != origin), g_re.dtype, COMPLEX)
            i_re, i_im = _load(h0, b * R * D + d, D, mask & (t == origin), g_re.dtype, COMPLEX)
            loaded = loaded + (
                _load(a, (b * a_b + t * a_t) * R * D + d, D, mask, g_re.dtype, COMPLEX),
                _load(dh, (b * T + t) * R * D + d, D, mask, g_re.dtype, COMPLEX),
                (h_re + i_re, h_im + i_im),
                _linked(cut, b * T + t, step >= 0, CUT),
                _load(x, (b * T + t) * R * D + d, D, mask & (FORM == NORMALIZED), g_re.dtype, COMPLEX),
                _load(dx, (b * T + t) * R * D + d, D, mask & ADD, g_re.dtype, COMPLEX),
                _load(da, (b * T + t) * R * D + d, D, mask & ADD & (not CONSTANT), g_re.dtype, COMPLEX),
            )
        for u in tl.static_range(UNROLL):
            step = n - 1 - k - u
            t = t_0 - step if REVERSE else t_0 + step
            mask = inside & (step >= 0)
            log_a, a_im = loaded[7 * u]
            a_re, _ = _plain(log_a, log_a, FORM)
            h_re, h_im = loaded[7 * u + 2]
            if CUT:
                h_re, h_im = tl.where(loaded[7 * u + 3], h_re, 0.0), tl.where(loaded[7 * u + 3], h_im, 0.0)
            g_re, g_im = loaded[7 * u + 1][0] + g_re, loaded[7 * u + 1][1] + g_im
            w_re, w_im = _times(h_re, -h_im, g_re, g_im, COMPLEX)
            i_re, i_im = g_re, g_im  # the gradient to the input
            if FORM != PLAIN:  # d log a = a da
                w_re = a_re * w_re
            if FORM == NORMALIZED:  # s = sqrt(1 - a²) before x; ds / d log a = -a² / s
                variance = _variance(log_a)
                w_re -= g_re * loaded[7 * u + 4][0] * a_re * a_re / tl.sqrt(tl.maximum(variance, LEAST))
                i_re = g_re * tl.sqrt(variance)
            if ADD:
                i_re, i_im = i_re + loaded[7 * u + 5][0], i_im + loaded[7 * u + 5][1]
            _store(dx, (b * T + t) * R * D + d, D, mask, i_re, i_im, COMPLEX)
            if CONSTANT:
                s_re, s_im = s_re + tl.where(mask, w_re, 0.0), s_im + tl.where(mask, w_im, 0.0)
            else:
                if ADD:
                    w_re, w_im = w_re + loaded[7 * u + 6][0], w_im + loaded[7 * u + 6][1]
                _store(da, (b * T + t) * R * D + d, D, mask, w_re, w_im, COMPLEX)
            n_re, n_im = _times(a_re, -a_im, g_re, g_im, COMPLEX)
            if CUT:
                n_re, n_im = tl.where(loaded[7 * u + 3], n_re, 0.0), tl.where(loaded[7 * u + 3], n_im, 0.0)
            g_re, g_im = tl.where(mask, n_re, g_re), tl.where(mask, n_im, g_im)
    return g_re, g_im, s_re, s_im


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def diagonal_summary(
    a, x, cut, gain, end, T, D, length, pieces, a_b, a_t,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr, BACKWARD: tl.constexpr, CUT: tl.constexpr,
    BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A piece as the map state -> gain * state + end. BACKWARD: of the gradient carried from behind."""
    R: tl.constexpr = 2 if COMPLEX else 1
    b, piece, d = _place(D, length, pieces, BLOCK_D)
    t_0, n = _steps(T, length, piece, REVERSE)
    p_re, p_im, e_re, e_im = _summary(
        a, x, cut, b, t_0, n, T, D, d, a_b, a_t, end.dtype.element_ty,
        COMPLEX, REVERSE, FORM, BACKWARD, CUT, BLOCK_D, UNROLL,
    )  # fmt: skip
    at = (b * pieces + piece) * R * D + d
    _store(gain, at, D, d < D, p_re, p_im, COMPLEX)
    _store(end, at, D, d < D, e_re, e_im, COMPLEX)


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def diagonal_forward(
    a, x, h0, cut, h, last, T, D, length, pieces, a_b, a_t,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr, CUT: tl.constexpr,
    BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """h_t = a_t h_{t-1} + x_t from the state h0 (B, pieces, ...) before each piece."""
    R: tl.constexpr = 2 if COMPLEX else 1
    b, piece, d = _place(D, length, pieces, BLOCK_D)
    t_0, n = _steps(T, length, piece, REVERSE)
    re, im = _load(h0, (b * pieces + piece) * R * D + d, D, d < D, h0.dtype.element_ty, COMPLEX)
    re, im = _forward(a, x, cut, h, re, im, b, t_0, n, T, D, d, a_b, a_t, COMPLEX, REVERSE, FORM, CUT, UNROLL)
    if piece == pieces - 1:
        _store(last, b * R * D + d, D, d < D, re, im, COMPLEX)


@triton.jit(do_not_specialize=["T", "length", "pieces"])
def diagonal_backward(
    a, x, h, h0, cut, dh, carry, da, dx, dh0, T, D, length, pieces, a_b, a_t,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, FORM: tl.constexpr, CUT: tl.constexpr, CONSTANT: tl.constexpr,
    BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """g_t = dh_t + conj(a_{t+1}) g_{t+1};  dx_t = g_t;  da_t = g_t conj(h_{t-1}), summed over the piece if CONSTANT.

    `carry` (B, pieces, ...) is conj(a) g from behind each piece; `dh0` the same in front of the first.
    """
    R: tl.constexpr = 2 if COMPLEX else 1
    b, piece, d = _place(D, length, pieces, BLOCK_D)
    t_0, n = _steps(T, length, piece, REVERSE)
    dtype: tl.constexpr = h0.dtype.element_ty
    g_re, g_im = _load(carry, (b * pieces + piece) * R * D + d, D, d < D, dtype, COMPLEX)
    zero = tl.full([BLOCK_D], 0.0, dtype)
    g_re, g_im, s_re, s_im = _backward(
        a, x, h, h0, cut, dh, da, dx, g_re, g_im, zero, zero, b, t_0, n, T, D, d, a_b, a_t,
        COMPLEX, REVERSE, FORM, CUT, CONSTANT, False, UNROLL,
    )  # fmt: skip
    if CONSTANT:
        _store(da, (b * pieces + piece) * R * D + d, D, d < D, s_re, s_im, COMPLEX)
    if piece == 0:
        _store(dh0, b * R * D + d, D, d < D, g_re, g_im, COMPLEX)


def _rows(a: Tensor) -> tuple[int, int]:
    """How many rows of `a` (1 or B, 1 or T, ...) lie between two rows of the batch, and between two steps."""
    return (a.shape[1] if a.shape[0] > 1 else 0), (1 if a.shape[1] > 1 else 0)


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
        self.sizes = (self.T, self.D, self.length, self.pieces, *_rows(a))
        self.flags = {"COMPLEX": x.dim() == 4, "REVERSE": reverse, "FORM": form, "CUT": cut is not None}

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
    constant = a.shape[1] == 1
    carry = _carried(plan, a, dh, dh_last, cut, backward=True) if plan.pieces > 1 else dh_last
    dx, dh0 = torch.empty_like(h), torch.empty_like(h0)
    da = h0.new_empty(plan.B, plan.pieces if constant else plan.T, *h0.shape[1:])
    launch(
        diagonal_backward, plan.grid, a, x, h, h0, cut, dh, carry, da, dx, dh0, *plan.sizes, **plan.flags,
        CONSTANT=constant,
    )  # fmt: skip
    if constant:
        da = da.sum(1, keepdim=True)
    if a.shape[0] == 1 and plan.B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx, dh0
