"""numba kernels of the diagonal scan.

Arrays come flat, in rows of D numbers: one a step for real scans, two for complex ones, the real parts and then the
imaginary parts. The loops over a row run from 0 over slices of one axis, which is the form that LLVM turns into vector
instructions; from pairs side by side, or with offsets in the index, they came out scalar and three times slower
(docs/LOG.md). Coefficients are (1 or B, 1 or T, ...), stepped through by 0 or 1 rows.

Steps are counted along the scan: step k is at t = k, or at T - 1 - k in reverse. Where the batch is too small to keep
the threads busy, each row of it is cut into pieces of some steps, and the threads take them in turn: a summary gives
the piece's affine map of the state, which carries the state across to the next piece, and only then the piece is
scanned. The summary reads what has not faded at the end of a piece; where that is all of it, the piece is small, and in
the cache from then on, and one thread needs no summaries: it leads, and what its piece leaves the next one starts from.
So most numbers cross the memory bus once, as they would in one thread.
"""

import numpy as np
import torch
from torch import Tensor

from resurge.ops.diagonal import cpu_in_turn as in_turn
from resurge.ops.diagonal import cpu_kernels as kernels
from resurge.ops.diagonal.cpu_pieces import Plan, apart, whole
from resurge.ops.diagonal.form import PLAIN
from resurge.ops.threads import flat, flushing, run

# Shorter rows are not cut.
_SHORTEST = 4096

# Where states fade away within a piece, no summary of most of it is needed: the larger, the better, and each thread
# takes two of a row. Where they do not, the summary is cheap if its numbers are in the core's own cache, into which
# they are fetched during the scan before: at most so many numbers, and so many steps at least.
_SMALL = 1 << 17
_LEAST = 64

# States fade within a piece if nothing is left after this share of it.
_FADES = 4


def steps_between(a: Tensor) -> tuple[int, int]:
    """How many rows of `a` (1 or B, 1 or T, ...) lie between two rows of the batch, and between two steps."""
    return (a.shape[1] if a.shape[0] > 1 else 0), (1 if a.shape[1] > 1 else 0)


def in_pieces(B: int, T: int, form: int) -> bool:
    """Whether rows are cut. Exponentials keep the threads busy without: the channels are shared out."""
    threads = torch.get_num_threads()
    return form == PLAIN and B % threads != 0 and 4 * threads > B and _SHORTEST <= T


def _plan(a: Tensor, B: int, T: int, D: int, form: int) -> Plan:
    """How B rows of T steps of D numbers are cut; a as for `forward`."""
    if not in_pieces(B, T, form):
        return whole(T, D, apart(D, B))
    threads, parts = torch.get_num_threads(), a.dim() - 2
    reach = in_turn.faded_after(flat(a), *a.shape[:2], parts)
    large = max(T // (2 * threads), _LEAST)
    if reach <= large // _FADES:
        pieces = -(-T // large)
        return Plan(T, D, apart(D, B * pieces), pieces, large, large, 1, reach)
    read = parts * D * (2 if a.shape[1] > 1 else 1)  # numbers a step of a summary
    length = max(min(_SMALL // read, large), _LEAST)
    lead = length + -(-length // 2)  # as long as the summary and the scan of another take
    rounds, left = divmod(T, lead + (threads - 1) * length)
    pieces = rounds * threads + (left > 0) + max(-(-(left - lead) // length), 0)
    return Plan(T, D, apart(D, B * pieces), pieces, lead, length, threads, reach)


def _numbers(x: Tensor, form: int) -> str:
    """Which of the kernels of a direction serves: for complex or real states, or real ones from log a."""
    return "complex" if x.dim() == 4 else "real" if form == PLAIN else "log"


def _starts(a: Tensor, carry: Tensor, plan: Plan, *, backward: bool) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """What each piece starts from, in rows W apart, the first of each row of the batch from `carry`; and what threads
    need that take turns."""
    B, D, W, pieces = carry.shape[0], plan.D, plan.W, plan.pieces
    start = flat(carry)
    carries = flat(carry.new_empty(start.size // D * pieces * W))  # numpy's would not begin with a cache line
    if pieces == 1:
        carries.reshape(-1, W)[:, :D] = start.reshape(-1, D)
        return carries, ()
    parts, varies = a.dim() - 2, a.shape[1] > 1
    gains = flat(carry.new_empty(B * (pieces if varies else in_turn.POWERS) * parts * W))
    turns = np.zeros(B * pieces + 1, np.int64)
    in_turn.begin(flat(a), steps_between(a), start, plan, backward, carries, gains, turns)
    return carries, (turns, gains)


def forward(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, form: int) -> tuple[Tensor, Tensor]:
    """All states h, shaped as x: (B, T, D), or (B, T, 2, D) for real and imaginary parts; and the last one."""
    a, x = a.contiguous(), x.contiguous()
    h = torch.empty_like(x)
    B, T, D = x.shape[0], x.shape[1], x.shape[-1]
    plan = _plan(a, B, T, D, form)
    carries, turns = _starts(a, h0, plan, backward=False)
    work = x.new_empty(B, 0 if form == PLAIN else 2, plan.W)
    arguments = (flat(a), steps_between(a), flat(x), carries, flat(cut), reverse, form, plan)
    kernel = getattr(in_turn if turns else kernels, f"forward_{_numbers(x, form)}")
    run(flushing(kernel), (*arguments, flat(work), flat(h), *turns), B * plan.pieces, 1 if turns else D, x.numel())
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
    a, dh = a.contiguous(), dh.contiguous()
    plan = _plan(a, B, T, D, form)
    carries, turns = _starts(a, dh_last, plan, backward=True)
    dx = torch.empty_like(h, memory_format=torch.contiguous_format)
    dh0 = torch.empty_like(h0, memory_format=torch.contiguous_format)
    da = h.new_empty(0 if constant else h.shape)
    sums = torch.zeros((B, plan.pieces, *h0.shape[1:]) if constant else (0,), dtype=torch.float64)
    kernel = getattr(in_turn if turns else kernels, f"backward_{_numbers(h, form)}")
    work = h.new_empty(B, plan.pieces, 3, plan.W)
    arguments = (flat(a), steps_between(a), flat(x), flat(h), flat(h0), flat(cut), reverse, form, plan)
    gradients = (flat(work), flat(dh), carries, flat(da), flat(sums), flat(dx), flat(dh0))
    run(flushing(kernel), (*arguments, *gradients, *turns), B * plan.pieces, 1 if turns else D, h.numel())
    if constant:
        da = sums.sum(1, keepdim=True)
    if a.shape[0] == 1 and B > 1:
        da = da.sum(0, keepdim=True)
    return da.to(a.dtype), dx, dh0
