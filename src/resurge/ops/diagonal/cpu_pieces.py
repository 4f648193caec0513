"""numba kernels that sum up a piece of the diagonal scan, and what they share with those that scan it."""

import numpy as np

from resurge.jit import inlined, jit
from resurge.ops.diagonal.form import NORMALIZED
from resurge.ops.elementary import exp, one_minus_exp


@jit
def smallest_normal(like):  # type: ignore[no-untyped-def]
    """The smallest normal number of the type of `like`."""
    return like.dtype.type(1.2e-38 if like.itemsize == 4 else 2.3e-308)


@inlined
def row(array, index, D, d0, d1):  # type: ignore[no-untyped-def]
    """Channels d0..d1 of row `index` of a flat array with rows of D numbers."""
    return array[index * D + d0 : index * D + d1]


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


@jit
def _vanished(w):  # type: ignore[no-untyped-def]
    """Whether all products are 0, those that are next to it made so."""
    alive, tiny = 0, smallest_normal(w)
    for d in range(w.size):
        w[d] = 0 if abs(w[d]) < 64 * tiny else w[d]
        alive += w[d] != 0
    return alive == 0


@jit
def summary_real(a, a_rows, x, cut, backward, reverse, T, length, count, offset, D, gain, end, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    """Each of `count` pieces of a row as the map state -> gain * state + end; `backward`, of the gradient from behind.

    It walks away from where the map leads to, with the product of the coefficients so far, and stops when that is 0.
    """
    for r in range(r0, r1):
        b, first = r // count, (offset + r % count) * length
        last = min(first + length, T) - 1
        w, e = row(gain, r, D, d0, d1), row(end, r, D, d0, d1)
        w[:] = 1
        e[:] = 0
        for j in range(last - first + 1):
            k = first + j if backward else last - j
            t = T - 1 - k if reverse else k
            a_t, x_t = row(a, b * a_rows[0] + t * a_rows[1], D, d0, d1), row(x, b * T + t, D, d0, d1)
            if cut.size > 0 and cut[b * T + t]:
                if not backward:
                    for d in range(w.size):
                        e[d] += w[d] * x_t[d]
                w[:] = 0
                break
            if backward:
                for d in range(w.size):
                    product = w[d] * a_t[d]
                    e[d] += product * x_t[d]
                    w[d] = product
            else:
                for d in range(w.size):
                    e[d] += w[d] * x_t[d]
                    w[d] *= a_t[d]
            if j % 64 == 63 and _vanished(w):
                break


@jit
def summary_complex(a, a_rows, x, cut, backward, reverse, T, length, count, offset, D, gain, end, r0, r1, d0, d1):  # type: ignore[no-untyped-def]
    """As `summary_real`; `backward` with conj(a)."""
    n = d1 - d0
    for r in range(r0, r1):
        b, first = r // count, (offset + r % count) * length
        last = min(first + length, T) - 1
        w_re, w_im = row(gain, 2 * r, D, d0, d1), row(gain, 2 * r + 1, D, d0, d1)
        e_re, e_im = row(end, 2 * r, D, d0, d1), row(end, 2 * r + 1, D, d0, d1)
        w_re[:] = 1
        w_im[:] = 0
        e_re[:] = 0
        e_im[:] = 0
        for j in range(last - first + 1):
            k = first + j if backward else last - j
            t = T - 1 - k if reverse else k
            i = 2 * (b * a_rows[0] + t * a_rows[1])
            a_re, a_im = row(a, i, D, d0, d1), row(a, i + 1, D, d0, d1)
            x_re, x_im = row(x, 2 * (b * T + t), D, d0, d1), row(x, 2 * (b * T + t) + 1, D, d0, d1)
            is_cut = cut.size > 0 and cut[b * T + t]
            if not backward:
                for d in range(n):
                    e_re[d] += w_re[d] * x_re[d] - w_im[d] * x_im[d]
                    e_im[d] += w_re[d] * x_im[d] + w_im[d] * x_re[d]
            if is_cut:
                w_re[:] = 0
                w_im[:] = 0
                break
            if backward:  # conj(a)
                for d in range(n):
                    re = w_re[d] * a_re[d] + w_im[d] * a_im[d]
                    w_im[d] = w_im[d] * a_re[d] - w_re[d] * a_im[d]
                    w_re[d] = re
            else:
                for d in range(n):
                    re = w_re[d] * a_re[d] - w_im[d] * a_im[d]
                    w_im[d] = w_re[d] * a_im[d] + w_im[d] * a_re[d]
                    w_re[d] = re
            if backward:
                for d in range(n):
                    e_re[d] += w_re[d] * x_re[d] - w_im[d] * x_im[d]
                    e_im[d] += w_re[d] * x_im[d] + w_im[d] * x_re[d]
            if j % 64 == 63:
                re_vanished, im_vanished = _vanished(w_re), _vanished(w_im)  # both, for what else they do
                if re_vanished and im_vanished:
                    break
