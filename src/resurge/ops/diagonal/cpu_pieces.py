"""numba kernels that sum up a piece of the diagonal scan, and what they share with those that scan it."""

from typing import NamedTuple

import numpy as np

from resurge.jit import inlined, lean
from resurge.ops.diagonal.form import NORMALIZED
from resurge.ops.elementary import exp, one_minus_exp
from resurge.ops.rows import stepwise


@inlined
def row(array, index, D, d0, d1):  # type: ignore[no-untyped-def]
    """Channels d0..d1 of row `index` of a flat array with rows of D numbers."""
    return array[index * D + d0 : index * D + d1]


# How many steps are taken at once where rows are narrow, and by a summary of any row.
TILE, _SUMMED = 64, 32

# Rows of so many channels are narrow: what a step costs, beside its arithmetic, would be most of it.
_NARROW = 16

# Rows are asked for so many steps before they are read, for the first time. Where a row is in two parts, or read by
# channels downwards, not every processor fetches ahead by itself: on one of them, many complex rows took half as long
# again.
NEAR = 8

# Numbers between two rows that neighbours may write to, if there are so few rows; of many, threads take distant ones.
_GAP, _FEW = 512, 1024

# A piece is looked through for where its inputs fade away up to this share of it; else all of it is summed up.
_WORTH = 4

# So many steps come between two looks at whether anything is left.
_LOOK = 16


def apart(D: int, rows: int) -> int:
    """How far apart `rows` rows of D numbers lie that threads write at each step.

    A core that walks through a row asks for the lines after it, too. If another core writes to these, they go back and
    forth at each step: pieces next to each other took 5.5 ms, and 4.4 with 2 kB between their rows.
    """
    return (D + 15) // 16 * 16 + (_GAP if rows <= _FEW else 16)


@lean
def tile(D):  # type: ignore[no-untyped-def]
    """How many steps of rows of D numbers are taken at once."""
    return TILE if D <= _NARROW else 1


class Plan(NamedTuple):
    """How rows of T steps of D numbers are cut in pieces: in rounds of `team`, of which the first piece may lead.

    A piece that leads is longer than the others, and not summed up: the piece after it waits until it is scanned.
    Rows of states and of sums, one a piece, lie W apart.
    """

    T: int
    D: int
    W: int
    pieces: int  # a row
    lead: int  # steps of the first piece of a round
    length: int  # steps of the others
    team: int
    reach: int = 0  # after how many steps a state has faded, or does as far as is known


def whole(T: int, D: int, W: int) -> Plan:
    """Rows in one piece."""
    return Plan(T, D, W, 1, T, 0, 1)


@lean
def leads(plan, r):  # type: ignore[no-untyped-def]
    """Whether piece r does."""
    return plan.lead > plan.length and r % plan.pieces % plan.team == 0


@lean
def span(plan, r):  # type: ignore[no-untyped-def]
    """Of piece r: its row of the batch, its first step and the one after its last, and how many steps before they are
    read its numbers are asked for: as the thread's next piece, if that will be summed up."""
    b, i = r // plan.pieces, r % plan.pieces
    each, place = plan.lead + (plan.team - 1) * plan.length, i % plan.team
    first = i // plan.team * each
    if place == 0:
        return b, first, min(first + plan.lead, plan.T), NEAR
    first += plan.lead + (place - 1) * plan.length
    return b, first, min(first + plan.length, plan.T), each


@lean
def uncut(cut, place, along, most):  # type: ignore[no-untyped-def]
    """How many links from `place` on, in strides of `along` and `most` at most, come before one that is cut."""
    if cut.size == 0:
        return most
    for i in range(most):
        if cut[place + i * along]:
            return i
    return most


@inlined
def decays(log_a, a):  # type: ignore[no-untyped-def]
    for d in range(a.size):
        a[d] = exp(log_a[d])


@inlined
def variances(log_a, v):  # type: ignore[no-untyped-def]
    """1 - a²."""
    for d in range(v.size):
        v[d] = one_minus_exp(log_a[d] + log_a[d])


@inlined
def plain(form, log_a, x, decay, scaled):  # type: ignore[no-untyped-def]
    """Coefficients and inputs of the plain form, from those of another."""
    decays(log_a, decay)
    if form == NORMALIZED:
        variances(log_a, scaled)
        for d in range(x.size):
            scaled[d] = x[d] * np.sqrt(scaled[d])
    else:
        for d in range(x.size):
            scaled[d] = x[d]


def _times(a_re, a_im, x_re, x_im):  # type: ignore[no-untyped-def]
    return a_re * x_re - a_im * x_im, a_re * x_im + a_im * x_re


def _times_conjugate(a_re, a_im, x_re, x_im):  # type: ignore[no-untyped-def]
    """conj(a) x."""
    return a_re * x_re + a_im * x_im, a_re * x_im - a_im * x_re


def plus_times(y_re, y_im, a_re, a_im, x_re, x_im):  # type: ignore[no-untyped-def]
    """y + a x: from y on, two fused operations a part, where a x + y is three, and rounds a x by itself."""
    return y_re + a_re * x_re - a_im * x_im, y_im + a_re * x_im + a_im * x_re


def _plus_times_conjugate(y_re, y_im, a_re, a_im, x_re, x_im):  # type: ignore[no-untyped-def]
    """y + conj(a) x."""
    return y_re + a_re * x_re + a_im * x_im, y_im + a_re * x_im - a_im * x_re


@stepwise()
def _follow(e, a, x):  # type: ignore[no-untyped-def]
    return (a * e + x,)


@stepwise()
def _follow_back(e, a, dh):  # type: ignore[no-untyped-def]
    return (a * (dh + e),)


@stepwise()
def _gain(w, a):  # type: ignore[no-untyped-def]
    return (a * w,)


@stepwise()
def _follow_gain(e, w, a, x):  # type: ignore[no-untyped-def]
    return a * e + x, a * w


@stepwise()
def _follow_back_gain(e, w, a, dh):  # type: ignore[no-untyped-def]
    return a * (dh + e), a * w


@stepwise()
def _follow_complex(e_re, e_im, a_re, a_im, x_re, x_im):  # type: ignore[no-untyped-def]
    return plus_times(x_re, x_im, a_re, a_im, e_re, e_im)


@stepwise()
def _follow_back_complex(e_re, e_im, a_re, a_im, dh_re, dh_im):  # type: ignore[no-untyped-def]
    return _times_conjugate(a_re, a_im, dh_re + e_re, dh_im + e_im)


@stepwise()
def _gain_complex(w_re, w_im, a_re, a_im):  # type: ignore[no-untyped-def]
    return _times(a_re, a_im, w_re, w_im)


@stepwise()
def _follow_gain_complex(e_re, e_im, w_re, w_im, a_re, a_im, x_re, x_im):  # type: ignore[no-untyped-def]
    return *plus_times(x_re, x_im, a_re, a_im, e_re, e_im), *_times(a_re, a_im, w_re, w_im)


@stepwise()
def _follow_back_gain_complex(e_re, e_im, w_re, w_im, a_re, a_im, dh_re, dh_im):  # type: ignore[no-untyped-def]
    return *_times_conjugate(a_re, a_im, dh_re + e_re, dh_im + e_im), *_times(a_re, a_im, w_re, w_im)


# Four steps at once where a is constant, e -> a⁴ e + f: only e waits for the steps before, and its row is read and
# written once. It halves the time of a summary, of narrow rows and of wide ones. a⁴ comes in two numbers, `high` and
# what that was rounded by: an error that is the same at each step adds up, where |a| = 1, to 5e-4 in a million steps.


def _joined(a, x0, x1, x2, x3):  # type: ignore[no-untyped-def]
    """f = a³ x0 + a² x1 + a x2 + x3."""
    return a * (a * (a * x0 + x1) + x2) + x3


def _joined_complex(plus_times, a_re, a_im, x):  # type: ignore[no-untyped-def]
    """As `_joined`, of the a that `plus_times` multiplies by; x has the parts of x0 to x3."""
    f_re, f_im = x[:2]
    for re, im in (x[2:4], x[4:6], x[6:8]):
        f_re, f_im = plus_times(re, im, a_re, a_im, f_re, f_im)
    return f_re, f_im


@stepwise()
def _follow_four(e, a, high, low, *x):  # type: ignore[no-untyped-def]
    return (high * e + (low * e + _joined(a, *x)),)


@stepwise()
def _follow_back_four(e, a, high, low, *dh):  # type: ignore[no-untyped-def]
    return (high * e + (low * e + a * _joined(a, *dh)),)


@stepwise()
def _follow_four_complex(e_re, e_im, a_re, a_im, high_re, high_im, low_re, low_im, *x):  # type: ignore[no-untyped-def]
    f_re, f_im = _joined_complex(plus_times, a_re, a_im, x)
    f_re, f_im = plus_times(f_re, f_im, low_re, low_im, e_re, e_im)
    return plus_times(f_re, f_im, high_re, high_im, e_re, e_im)


@stepwise()
def _follow_back_four_complex(e_re, e_im, a_re, a_im, high_re, high_im, low_re, low_im, *dh):  # type: ignore[no-untyped-def]
    f_re, f_im = _joined_complex(_plus_times_conjugate, a_re, a_im, dh)
    f_re, f_im = _times_conjugate(a_re, a_im, f_re, f_im)
    f_re, f_im = _plus_times_conjugate(f_re, f_im, low_re, low_im, e_re, e_im)
    return _plus_times_conjugate(f_re, f_im, high_re, high_im, e_re, e_im)


@lean
def _vanished(w):  # type: ignore[no-untyped-def]
    alive = 0
    for d in range(w.size):
        alive += w[d] != 0
    return alive == 0


@lean
def _reach_real(a, a_rows, along, b, t, count, D, w):  # type: ignore[no-untyped-def]
    """How many of `count` steps pass, from the last one at t backwards, before the product w of their coefficients
    is 0; or all."""
    w[:] = 1
    for j in range(0, count // _WORTH - _LOOK + 1, _LOOK):
        a_t = row(a, b * a_rows[0] + (t - j * along) * a_rows[1], D, 0, D)
        _gain((w,), (), (a_t,), (-along * a_rows[1] * D,), (), _LOOK, False)
        if _vanished(w):
            return j + _LOOK
    return count


@lean
def _reach_complex(a, a_rows, along, b, t, count, D, w_re, w_im):  # type: ignore[no-untyped-def]
    w_re[:] = 1
    w_im[:] = 0
    for j in range(0, count // _WORTH - _LOOK + 1, _LOOK):
        i = 2 * (b * a_rows[0] + (t - j * along) * a_rows[1])
        stride = -2 * along * a_rows[1] * D
        _gain_complex(
            (w_re, w_im), (), (row(a, i, D, 0, D), row(a, i + 1, D, 0, D)), (stride, stride), (), _LOOK, False
        )
        if _vanished(w_re) and _vanished(w_im):
            return j + _LOOK
    return count


@lean
def summary_real(a, fourth, a_rows, reach, x, cut, backward, reverse, b, T, first, last, D, w, e):  # type: ignore[no-untyped-def]
    """Steps first..last of row b as the map state -> w * state + e; `backward`, of the gradient from behind.

    It leaves out what has faded away at its end, and walks as the scan does: towards it, the processor fetches badly,
    and that took four times as long. `reach` is how many steps a state lives; where a varies, by a sample, and pieces
    that may be longer are looked through. Where a is constant, w is known beforehand, and `fourth` is a⁴, high and low
    rows of it. Whether anything passes: where a link is cut no state does, an infinite one neither.
    """
    count, along = last - first + 1, -1 if backward != reverse else 1
    end = first if backward else last  # where the walk ends
    t = T - 1 - end if reverse else end
    varies = a_rows[1] > 0
    steps = min(reach, count)
    if varies and steps < count:
        steps = _reach_real(a, a_rows, along, b, t, count, D, w)
    multiply = varies and steps == count
    passes = uncut(cut, b * T + t, -along, count) == count
    e[:] = 0
    if multiply:
        w[:] = 1
    t -= (steps - 1) * along
    while steps > 0:
        n = uncut(cut, b * T + t, along, min(max(tile(D), _SUMMED), steps))
        is_cut = n == 0
        n = max(n, 1)
        a_t, x_t = row(a, b * a_rows[0] + t * a_rows[1], D, 0, D), row(x, b * T + t, D, 0, D)
        s, s_a = along * D, along * a_rows[1] * D
        if is_cut and not backward:
            e[:] = 0
        if multiply and backward:
            _follow_back_gain((e, w), (), (a_t, x_t), (s, s), (), n, False)
        elif multiply:
            _follow_gain((e, w), (), (a_t, x_t), (s, s), (), n, False)
        elif n >= 4 and not varies:
            n = n // 4 * 4
            x_1, x_2 = row(x, b * T + t + along, D, 0, D), row(x, b * T + t + 2 * along, D, 0, D)
            given = (a_t, *fourth, x_t, x_1, x_2, row(x, b * T + t + 3 * along, D, 0, D))
            strides = (0, 0, 0, 4 * s, 4 * s, 4 * s, 4 * s)
            if backward:
                _follow_back_four((e,), (), given, strides, (), n // 4, False)
            else:
                _follow_four((e,), (), given, strides, (), n // 4, False)
        elif backward:
            _follow_back((e,), (), (a_t, x_t), (s_a, s), (), n, False)
        else:
            _follow((e,), (), (a_t, x_t), (s_a, s), (), n, False)
        if is_cut and backward:
            e[:] = 0
        t += n * along
        steps -= n
    return passes


@lean
def summary_complex(  # type: ignore[no-untyped-def]
    a, fourth, a_rows, reach, x, cut, backward, reverse, b, T, first, last, D, w_re, w_im, e_re, e_im
):
    """As `summary_real`, from rows of real and rows of imaginary parts; `backward` with conj(a) for e, not for w."""
    count, along = last - first + 1, -1 if backward != reverse else 1
    end = first if backward else last
    t = T - 1 - end if reverse else end
    varies = a_rows[1] > 0
    steps = min(reach, count)
    if varies and steps < count:
        steps = _reach_complex(a, a_rows, along, b, t, count, D, w_re, w_im)
    multiply = varies and steps == count
    passes = uncut(cut, b * T + t, -along, count) == count
    e_re[:] = 0
    e_im[:] = 0
    if multiply:
        w_re[:] = 1
        w_im[:] = 0
    t -= (steps - 1) * along
    while steps > 0:
        n = uncut(cut, b * T + t, along, min(max(tile(D), _SUMMED), steps))
        is_cut = n == 0
        n = max(n, 1)
        i, j = 2 * (b * a_rows[0] + t * a_rows[1]), 2 * (b * T + t)
        a_re, a_im, x_re, x_im = row(a, i, D, 0, D), row(a, i + 1, D, 0, D), row(x, j, D, 0, D), row(x, j + 1, D, 0, D)
        s, s_a = 2 * along * D, 2 * along * a_rows[1] * D
        if is_cut and not backward:
            e_re[:] = 0
            e_im[:] = 0
        if multiply and backward:
            _follow_back_gain_complex(
                (e_re, e_im, w_re, w_im), (), (a_re, a_im, x_re, x_im), (s, s, s, s), (), n, False
            )
        elif multiply:
            _follow_gain_complex((e_re, e_im, w_re, w_im), (), (a_re, a_im, x_re, x_im), (s, s, s, s), (), n, False)
        elif n >= 4 and not varies:
            n = n // 4 * 4
            j_1, j_2, j_3 = j + 2 * along, j + 4 * along, j + 6 * along
            x_1 = row(x, j_1, D, 0, D), row(x, j_1 + 1, D, 0, D)
            x_2 = row(x, j_2, D, 0, D), row(x, j_2 + 1, D, 0, D)
            given = (a_re, a_im, *fourth, x_re, x_im, *x_1, *x_2, row(x, j_3, D, 0, D), row(x, j_3 + 1, D, 0, D))
            strides = (0, 0, 0, 0, 0, 0, 4 * s, 4 * s, 4 * s, 4 * s, 4 * s, 4 * s, 4 * s, 4 * s)
            if backward:
                _follow_back_four_complex((e_re, e_im), (), given, strides, (), n // 4, False)
            else:
                _follow_four_complex((e_re, e_im), (), given, strides, (), n // 4, False)
        elif backward:
            _follow_back_complex((e_re, e_im), (), (a_re, a_im, x_re, x_im), (s_a, s_a, s, s), (), n, False)
        else:
            _follow_complex((e_re, e_im), (), (a_re, a_im, x_re, x_im), (s_a, s_a, s, s), (), n, False)
        if is_cut and backward:
            e_re[:] = 0
            e_im[:] = 0
        t += n * along
        steps -= n
    return passes
