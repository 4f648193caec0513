"""The product of a matrix and a vector inside numba kernels."""

from resurge.jit import jit


@jit
def add_product(target, w, rows):  # type: ignore[no-untyped-def]
    """target += Σ_j w_j rows_j over the rows of a flat matrix, as long as target, eight of them in one loop.

    A loop over whole rows becomes vector instructions; sums within a row would not.
    """
    n, j = target.size, 0
    while j + 8 <= w.size:
        w0, w1, w2, w3, w4, w5, w6, w7 = w[j], w[j + 1], w[j + 2], w[j + 3], w[j + 4], w[j + 5], w[j + 6], w[j + 7]
        r0, r1, r2, r3 = rows[j * n :][:n], rows[(j + 1) * n :][:n], rows[(j + 2) * n :][:n], rows[(j + 3) * n :][:n]
        j += 4
        r4, r5, r6, r7 = rows[j * n :][:n], rows[(j + 1) * n :][:n], rows[(j + 2) * n :][:n], rows[(j + 3) * n :][:n]
        j += 4
        for i in range(n):
            s = w0 * r0[i] + w1 * r1[i] + w2 * r2[i] + w3 * r3[i]
            target[i] += s + (w4 * r4[i] + w5 * r5[i] + w6 * r6[i] + w7 * r7[i])
    while j < w.size:
        w0, r0 = w[j], rows[j * n :][:n]
        for i in range(n):
            target[i] += w0 * r0[i]
        j += 1
