"""The softmax scan as a blocked parallel scan in plain PyTorch: the form for devices without a kernel of their own,
and the composable one (vmap, jvp, double backward) everywhere."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from resurge.ops.softmax_scan.reference import average, emptied, step, weights
from resurge.ops.softmax_scan.state import SoftmaxState, empty


def scan(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, state: SoftmaxState, cut: Tensor | None
) -> tuple[Tensor, SoftmaxState]:
    """Same arguments and result as `reference.scan`, in about 2 sqrt(T) sequential steps.

    T is cut into blocks of about sqrt(T) steps. All blocks are scanned at once from the empty state, then the state
    before each runs over the blocks, and is joined to what came later in the block.
    """
    (B, T, H), D = k.shape, v.shape[-1]
    cut = torch.zeros(B, T, dtype=torch.bool, device=k.device) if cut is None else cut
    decay = k.new_zeros(H) if w is None else w
    block = max(1, math.isqrt(T))
    blocks = -(-T // block)
    filling = blocks * block - T  # steps after the end, which no result looks at
    k_at, v_at = (pad(z, (0, 0, 0, filling)).unflatten(1, (blocks, block)).unbind(2) for z in (k, v))
    cut_at = pad(cut, (0, filling)).unflatten(1, (blocks, block)).unbind(2)

    local = SoftmaxState(*(s.expand(-1, blocks, -1) for s in _rows(empty(B, H, D, device=k.device, dtype=k.dtype))))
    linked = torch.ones_like(cut_at[0])
    states, links = [], []
    for k_i, v_i, cut_i in zip(k_at, v_at, cut_at, strict=True):
        _, local = step(k_i, v_i, w, None, emptied(local, cut_i))
        linked = linked & ~cut_i
        states.append(local)
        links.append(linked)
    carry, carries = state, []
    for last, link in zip(zip(*(s.unbind(1) for s in local), strict=True), linked.unbind(1), strict=True):
        carries.append(carry)
        carry = join(carry, SoftmaxState(*last), block * decay, link)
    before = SoftmaxState(*(torch.stack(parts, 1)[:, :, None] for parts in zip(*carries, strict=True)))
    within = SoftmaxState(*(torch.stack(parts, 2) for parts in zip(*states, strict=True)))
    elapsed = torch.arange(1, block + 1, device=k.device, dtype=k.dtype)[:, None] * decay
    after = join(before, within, elapsed, torch.stack(links, 2))
    after = SoftmaxState(*(part.flatten(1, 2)[:, :T] for part in after))
    last = SoftmaxState(*(part[:, -1] for part in after))
    if u is None:
        return (after.num.unflatten(-1, (H, -1)) / after.den[..., None]).flatten(-2), last
    shifted = SoftmaxState(*(torch.cat([s[:, None], a[:, :-1]], 1) for s, a in zip(state, after, strict=True)))
    m, num, den = emptied(shifted, cut)
    y = average(m, num.unflatten(-1, (H, -1)), den, k + u, v.unflatten(-1, (H, -1)))
    return y.flatten(-2), last


def join(past: SoftmaxState, later: SoftmaxState, decay: Tensor, linked: Tensor) -> SoftmaxState:
    """The state of `past` (..., H), decayed by e^-decay, and what came `later`; that alone where not linked."""
    past = emptied(past, ~linked)
    m, a, e, b = weights(past.m, later.m, decay)
    before, behind = (state.num.unflatten(-1, (m.shape[-1], -1)) for state in (past, later))
    num = a[..., None] * before + (e[..., None] * before + b[..., None] * behind)
    return SoftmaxState(m, num.flatten(-2), a * past.den + (e * past.den + b * later.den))


def _rows(state: SoftmaxState) -> SoftmaxState:
    return SoftmaxState(*(part[:, None] for part in state))
