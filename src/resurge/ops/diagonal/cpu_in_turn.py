"""The kernels of cpu_kernels.py for few and long rows: the threads take the pieces of a row in turn; see cpu.py."""

import numpy as np

from resurge.jit import jit, lean
from resurge.ops.diagonal import cpu_kernels as kernels
from resurge.ops.diagonal.cpu_pieces import leads, row, span, summary_complex, summary_real
from resurge.ops.rows import rowwise
from resurge.ops.turns import add_one, announce, wait

_forward_real, _forward_complex = kernels.forward_real, kernels.forward_complex
_backward_real, _backward_complex = kernels.backward_real, kernels.backward_complex

# States are judged by so many steps where coefficients vary, with a logarithm of the product of so many squares: one of
# numbers not below _TINY is not 0 in float64. None is above _MOST, for the states that never fade.
_SAMPLE, _PRODUCTS, _TINY, _MOST = 64, 8, 1e-38, (1 - 1e-12) ** 2


# Of a constant a, `gains` has so many powers for a row of the batch: that of its last piece after that of the others,
# and the fourth in two.
POWERS = 4


@jit
def faded_after(a, rows, steps, parts):  # type: ignore[no-untyped-def]
    """After how many steps every state is carried as 0, 1 at least; where a varies, by a sample of it."""
    D = a.size // (rows * steps * parts)
    every = max(1, steps // _SAMPLE)
    count = (steps - 1) // every + 1
    slowest = -np.inf
    product, rate = np.empty(D), np.empty(D)
    for b in range(rows):
        product[:] = 1
        rate[:] = 0
        for i in range(count):
            a_t = a[(b * steps + i * every) * parts * D :]
            for d in range(D):
                square = np.float64(a_t[d]) ** 2
                if parts == 2:
                    square += np.float64(a_t[D + d]) ** 2
                product[d] *= _TINY if square < _TINY else square if square < _MOST else _MOST  # NaN too
            if i % _PRODUCTS == _PRODUCTS - 1 or i == count - 1:
                for d in range(D):
                    rate[d] += np.log(product[d])
                    product[d] = 1
        slowest = max(slowest, rate.max() / (2 * count))
    return int(np.ceil(np.log(np.finfo(a.dtype).tiny) / slowest))


@lean
def _power(z, n):  # type: ignore[no-untyped-def]
    """z^n for n >= 1."""
    result = z
    n -= 1
    while n > 0:
        if n % 2:
            result = result * z
        z = z * z
        n //= 2
    return result


@lean
def _gain_of(a_rows, pieces, r):  # type: ignore[no-untyped-def]
    """Which of `gains` is that of piece r."""
    return r if a_rows[1] > 0 else POWERS * (r // pieces) + (r % pieces == pieces - 1)


@lean
def _fourth_of(a_rows, b, parts):  # type: ignore[no-untyped-def]
    """The row of `gains` from which on a⁴ stands; where a varies, nobody asks for it."""
    return 0 if a_rows[1] > 0 else (POWERS * b + 2) * parts


@lean
def _raise(a, high, low, n, parts):  # type: ignore[no-untyped-def]
    """a^n, and what was left out in rounding it; with a row of imaginary parts after that of real ones."""
    D, W = a.size // parts, high.size // parts
    for d in range(D):
        if parts == 1:
            w = _power(np.float64(a[d]), n)
            high[d] = w
            low[d] = w - high[d]
        else:
            z = _power(complex(np.float64(a[d]), np.float64(a[D + d])), n)  # complex() of float32 stays in float32
            high[d], high[W + d] = z.real, z.imag
            low[d], low[W + d] = z.real - high[d], z.imag - high[W + d]


@jit
def begin(a, a_rows, carry, plan, backward, carries, gains, turns):  # type: ignore[no-untyped-def]
    """Let the first piece of each row start from `carry`; and where a is constant in time, tell what each piece
    multiplies the state by."""
    pieces, D, W = plan.pieces, plan.D, plan.W
    B = (turns.size - 1) // pieces
    parts = carry.size // (B * D)
    first = pieces - 1 if backward else 0
    for b in range(B):
        turns[b * pieces + first] = 1
        for part in range(parts):
            row(carries, (b * pieces + first) * parts + part, W, 0, D)[:] = row(carry, b * parts + part, D, 0, D)
        if a_rows[1] > 0:
            continue
        a_b = row(a, b * a_rows[0], parts * D, 0, parts * D)
        width = parts * W
        gain, last = row(gains, POWERS * b, width, 0, width), row(gains, POWERS * b + 1, width, 0, width)
        high, low = row(gains, POWERS * b + 2, width, 0, width), row(gains, POWERS * b + 3, width, 0, width)
        _raise(a_b, gain, low, plan.length, parts)
        _raise(a_b, last, low, plan.T - span(plan, pieces - 1)[1], parts)
        _raise(a_b, high, low, 4, parts)


@rowwise()
def _add_product(e, w, start):  # type: ignore[no-untyped-def]
    return (e + w * start,)


@rowwise()
def _add_product_complex(e_re, e_im, w_re, w_im, re, im):  # type: ignore[no-untyped-def]
    return e_re + w_re * re - w_im * im, e_im + w_re * im + w_im * re


@rowwise()
def _add_product_conjugate(e_re, e_im, w_re, w_im, re, im):  # type: ignore[no-untyped-def]
    return e_re + w_re * re + w_im * im, e_im + w_re * im - w_im * re


@lean
def _take_turn(turns, backward):  # type: ignore[no-untyped-def]
    """The next piece to be scanned, or -1 after the last."""
    pieces = turns.size - 1
    turn = add_one(turns, pieces)
    return -1 if turn >= pieces else pieces - 1 - turn if backward else turn


@lean
def _after(plan, r, backward):  # type: ignore[no-untyped-def]
    """The piece of the same row to be scanned after piece r, or -1."""
    if r % plan.pieces == (0 if backward else plan.pieces - 1):
        return -1
    return r - 1 if backward else r + 1


@lean
def _carry_real(turns, a, a_rows, x, carries, gains, cut, backward, reverse, plan, r):  # type: ignore[no-untyped-def]
    """Wait for what piece r starts from, which is row r of `carries`, and give the next one what that starts from."""
    T, D, W = plan.T, plan.D, plan.W
    b, first, stop, _ = span(plan, r)
    after = _after(plan, r, backward)
    if leads(plan, r) or after < 0:
        wait(turns, r)
        return
    gain, i = row(gains, _gain_of(a_rows, plan.pieces, r), W, 0, D), _fourth_of(a_rows, b, 1)
    fourth = row(gains, i, W, 0, D), row(gains, i + 1, W, 0, D)
    start, end = row(carries, r, W, 0, D), row(carries, after, W, 0, D)
    passes = summary_real(a, fourth, a_rows, plan.reach, x, cut, backward, reverse, b, T, first, stop - 1, D, gain, end)
    wait(turns, r)
    if passes:
        _add_product((end,), (end, gain, start), False)
    announce(turns, after)


@lean
def _carry_complex(turns, a, a_rows, x, carries, gains, cut, backward, reverse, plan, r):  # type: ignore[no-untyped-def]
    """As `_carry_real`."""
    T, D, W = plan.T, plan.D, plan.W
    b, first, stop, _ = span(plan, r)
    after = _after(plan, r, backward)
    if leads(plan, r) or after < 0:
        wait(turns, r)
        return
    place = 2 * _gain_of(a_rows, plan.pieces, r)
    w_re, w_im = row(gains, place, W, 0, D), row(gains, place + 1, W, 0, D)
    re, im = row(carries, 2 * r, W, 0, D), row(carries, 2 * r + 1, W, 0, D)
    e_re, e_im = row(carries, 2 * after, W, 0, D), row(carries, 2 * after + 1, W, 0, D)
    w, e, i = (w_re, w_im), (e_re, e_im), _fourth_of(a_rows, b, 2)
    fourth = row(gains, i, W, 0, D), row(gains, i + 1, W, 0, D), row(gains, i + 2, W, 0, D), row(gains, i + 3, W, 0, D)
    passes = summary_complex(a, fourth, a_rows, plan.reach, x, cut, backward, reverse, b, T, first, stop - 1, D, *w, *e)
    wait(turns, r)
    if passes and backward:
        _add_product_conjugate((e_re, e_im), (e_re, e_im, w_re, w_im, re, im), False)
    elif passes:
        _add_product_complex((e_re, e_im), (e_re, e_im, w_re, w_im, re, im), False)
    announce(turns, after)


@lean
def _hand_on(turns, carries, parts, backward, plan, r):  # type: ignore[no-untyped-def]
    """If piece r leads, give the next one what that starts from: where the scan has ended."""
    after = _after(plan, r, backward)
    if after < 0 or not leads(plan, r):
        return
    width = parts * plan.W
    end, start = row(carries, r, width, 0, width), row(carries, after, width, 0, width)
    for d in range(width):
        start[d] = end[d]
    announce(turns, after)


@lean
def forward_real(  # type: ignore[no-untyped-def]
    a, a_rows, x, carries, cut, reverse, form, plan, work, h, turns, gains, _0, _1, _2, _3
):
    r = _take_turn(turns, False)
    while r >= 0:
        _carry_real(turns, a, a_rows, x, carries, gains, cut, False, reverse, plan, r)
        _forward_real(a, a_rows, x, carries, cut, reverse, form, plan, work, h, r, r + 1, 0, plan.D)
        _hand_on(turns, carries, 1, False, plan, r)
        r = _take_turn(turns, False)


@lean
def forward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, x, carries, cut, reverse, form, plan, work, h, turns, gains, _0, _1, _2, _3
):
    r = _take_turn(turns, False)
    while r >= 0:
        _carry_complex(turns, a, a_rows, x, carries, gains, cut, False, reverse, plan, r)
        _forward_complex(a, a_rows, x, carries, cut, reverse, form, plan, work, h, r, r + 1, 0, plan.D)
        _hand_on(turns, carries, 2, False, plan, r)
        r = _take_turn(turns, False)


@lean
def backward_real(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, plan, work, dh, carries, da, sums, dx, dh0, turns, gains, _0, _1, _2, _3,
):  # fmt: skip
    r = _take_turn(turns, True)
    while r >= 0:
        _carry_real(turns, a, a_rows, dh, carries, gains, cut, True, reverse, plan, r)
        _backward_real(
            a, a_rows, x, h, h0, cut, reverse, form, plan, work, dh, carries, da, sums, dx, dh0,
            r, r + 1, 0, plan.D,
        )  # fmt: skip
        _hand_on(turns, carries, 1, True, plan, r)
        r = _take_turn(turns, True)


@lean
def backward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, plan, work, dh, carries, da, sums, dx, dh0, turns, gains, _0, _1, _2, _3,
):  # fmt: skip
    r = _take_turn(turns, True)
    while r >= 0:
        _carry_complex(turns, a, a_rows, dh, carries, gains, cut, True, reverse, plan, r)
        _backward_complex(
            a, a_rows, x, h, h0, cut, reverse, form, plan, work, dh, carries, da, sums, dx, dh0,
            r, r + 1, 0, plan.D,
        )  # fmt: skip
        _hand_on(turns, carries, 2, True, plan, r)
        r = _take_turn(turns, True)
