"""numba kernels of the diagonal scan.

Arrays come flat, in rows of D numbers: one a step for real scans, two for complex ones, the real parts and then the
imaginary parts. The loops over a row run from 0 over slices of one axis, which is the form that LLVM turns into vector
instructions; from pairs side by side, or with offsets in the index, they came out scalar and three times slower
(docs/LOG.md). Coefficients are (1 or B, 1 or T, ...), stepped through by 0 or 1 rows.

Steps are counted along the scan: step k is at t = k, or at T - 1 - k in reverse. Where the batch is too small to keep
the threads busy, each row of it is cut into pieces of `length` steps: a summary gives each piece's affine map of the
state, these carry the state across, and then all pieces are scanned at once.

A carried number below the smallest normal one is carried as 0: arithmetic with denormal numbers is a hundred times
slower, and every state that decays comes by there.
"""

import numpy as np
import torch
from torch import Tensor

from resurge.ops.diagonal import cpu_kernels as kernels
from resurge.ops.diagonal.cpu_pieces import summary_complex, summary_real
from resurge.ops.diagonal.form import PLAIN, cut_pieces
from resurge.ops.threads import run

# Fewer steps a piece are not worth a summary.
_SHORTEST = 2048


def _flat(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().view(-1).numpy()
    return array


def _a_rows(a: Tensor) -> tuple[int, int]:
    """How many rows of `a` (1 or B, 1 or T, ...) lie between two rows of the batch, and between two steps."""
    return (a.shape[1] if a.shape[0] > 1 else 0), (1 if a.shape[1] > 1 else 0)


def _cut(cut: Tensor | None) -> np.ndarray:
    return np.empty(0, np.bool_) if cut is None else _flat(cut)


def _pieces(B: int, T: int, form: int) -> tuple[int, int]:
    """(steps a piece, pieces a row). Exponentials keep the threads busy without pieces: the channels are shared out."""
    threads = torch.get_num_threads()
    if form != PLAIN or B % threads == 0 or 4 * threads <= B or 2 * _SHORTEST > T:
        return T, 1
    length = threads * -(-max(-(-T // threads), _SHORTEST) // threads)  # so that a piece has equal parts
    return length, -(-T // length)


def _carried(
    a: Tensor,
    x: Tensor,
    first: Tensor,
    cut: Tensor | None,
    reverse: bool,
    cuts: tuple[int, int],
    *,
    backward: bool,
) -> Tensor:
    """What each piece starts from: the state before it, or `backward` the gradient from behind it; the kernel's own.

    All pieces but the one where nothing follows are summed up, each in as many parts as there are threads.
    """
    length, pieces = cuts
    if pieces == 1:
        return first.clone()
    B, T, D = x.shape[0], x.shape[1], x.shape[-1]
    parts = torch.get_num_threads()
    count, offset = (pieces - 1) * parts, parts if backward else 0
    gain = first.new_empty(B, count, *first.shape[1:])
    end = torch.empty_like(gain)
    kernel = summary_complex if x.dim() == 4 else summary_real
    sizes = (T, length // parts, count, offset, D)
    run(
        kernel,
        (_flat(a), _a_rows(a), _flat(x), _cut(cut), backward, reverse, *sizes, _flat(gain), _flat(end)),
        B * count,
        D,
        x.numel(),
    )
    stops = None if cut is None else cut_pieces(cut, length // parts, pieces * parts, reverse)
    starts = [first]
    carry = first
    for done, part in enumerate(reversed(range(count)) if backward else range(count), 1):
        if stops is not None:
            carry = torch.where(stops[:, offset + part].view(-1, *[1] * (carry.dim() - 1)), 0, carry)
        carry = _times(gain[:, part], carry) + end[:, part]
        if done % parts == 0:
            starts.append(carry)
    return torch.stack(starts[::-1] if backward else starts, 1)


def _times(a: Tensor, b: Tensor) -> Tensor:
    if a.dim() == 2:
        return a * b
    (a_re, a_im), (b_re, b_im) = a.unbind(1), b.unbind(1)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], 1)


def forward(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int) -> tuple[Tensor, Tensor]:
    """All states h, shaped as x: (B, T, D), or (B, T, 2, D) for real and imaginary parts; and the last one."""
    x = x.contiguous()
    h = torch.empty_like(x)
    B, T, D = x.shape[0], x.shape[1], x.shape[-1]
    cuts = _pieces(B, T, form)
    carries = _carried(a, x, h0, cut, reverse, cuts, backward=False)
    kernel = kernels.forward_complex if x.dim() == 4 else kernels.forward_real if form == PLAIN else kernels.forward_log
    work = x.new_empty(B, cuts[1], 0 if form == PLAIN else 2, D)
    arguments = (_flat(a), _a_rows(a), _flat(x), _flat(carries), _cut(cut), reverse, form, T, *cuts, D, _flat(work))
    run(kernel, (*arguments, _flat(h)), B * cuts[1], D, x.numel())
    return h, h[:, 0 if reverse else -1].clone()


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
    """(da shaped as a, dx shaped as h, dh0 shaped as h0) from the gradients of all states and of the last.

    x is read by the normalized form only; others may pass anything of its dtype.
    """
    B, T, D = h.shape[0], h.shape[1], h.shape[-1]
    constant = a.shape[1] == 1
    dh = dh.contiguous()
    cuts = _pieces(B, T, form)
    carries = _carried(a, dh, dh_last, cut, reverse, cuts, backward=True)
    dx = torch.empty_like(h, memory_format=torch.contiguous_format)
    dh0 = torch.empty_like(h0, memory_format=torch.contiguous_format)
    da = h.new_empty(0 if constant else h.shape)
    sums = torch.zeros((B, cuts[1], *h0.shape[1:]) if constant else (0,), dtype=torch.float64)
    kernel = (
        kernels.backward_complex if h.dim() == 4 else kernels.backward_real if form == PLAIN else kernels.backward_log
    )
    work = h.new_zeros(B, cuts[1], 2 if kernel is kernels.backward_real else 3, D)
    arguments = (_flat(a), _a_rows(a), _flat(x), _flat(h), _flat(h0), _cut(cut), reverse, form, T, *cuts, D)
    gradients = (_flat(work), _flat(dh), _flat(carries), _flat(da), _flat(sums), _flat(dx), _flat(dh0))
    run(kernel, arguments + gradients, B * cuts[1], D, h.numel())
    if constant:
        da = sums.sum(1, keepdim=True)
    if a.shape[0] == 1 and B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx, dh0
