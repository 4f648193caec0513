"""numba kernels of the softmax scan, and how they share out the work.

Where batch and channels are too few to keep the threads busy, each row of the batch is cut into pieces of `length`
steps. A first pass runs them from the empty state, a second from the state that joining them gives; backward alike.
"""

from typing import Any

import torch
from torch import Tensor

from resurge.ops.softmax_scan import cpu_kernels as kernels
from resurge.ops.softmax_scan.composable import join
from resurge.ops.softmax_scan.state import EVERY, beyond_a_shift, empty, pack, unpack
from resurge.ops.threads import flat, run

# Fewer steps a piece are not worth a pass of their own.
_SHORTEST = 2048


class _Plan:
    """Sizes and arguments that the kernels of one call share."""

    def __init__(self, k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, cut: Tensor | None) -> None:
        (self.B, self.T, self.H), self.D = k.shape, v.shape[2]
        self.dtype = v.dtype
        decay = k.new_zeros(self.H) if w is None else w
        bonus = k.new_empty(0) if u is None else u
        self.inputs = tuple(flat(z) for z in (k, v, decay, bonus))
        self.cut = flat(cut)
        threads = torch.get_num_threads()
        self.length, self.pieces = self.T, 1
        if 2 * self.B * max(1, self.D // 16) < threads and 2 * _SHORTEST <= self.T:
            length = max(-(-self.T // threads), _SHORTEST)
            self.length = -(-length // EVERY) * EVERY
            self.pieces = -(-self.T // self.length)
        self.sizes = (self.T, self.length, self.pieces, self.H, self.D)

    def run(self, kernel: Any, *arguments: Any) -> None:
        run(kernel, arguments, self.B * self.pieces, self.D, self.B * self.T * self.D)


def forward(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, D), the last state (B, D + 2 H), and the borders (B, ..., D + 2 H)."""
    plan = _Plan(k, v, w, u, cut)
    y = torch.empty(v.shape, dtype=v.dtype)
    borders = start.new_empty(plan.B, (plan.T - 1) // EVERY + 2, start.shape[1])
    lasts = start.new_empty(plan.B, plan.pieces, start.shape[1])
    targets = flat(y), flat(borders), flat(lasts)
    starts = start[:, None]
    if plan.pieces > 1:
        nothing = pack(empty(plan.B, plan.H, plan.D, device=start.device, dtype=start.dtype))
        starts = nothing[:, None].expand(-1, plan.pieces, -1)
        plan.run(kernels.forward, *plan.inputs, flat(starts), plan.cut, *plan.sizes, *targets)
        starts = _starts(plan, start, lasts, w, cut)
    plan.run(kernels.forward, *plan.inputs, flat(starts), plan.cut, *plan.sizes, *targets)
    borders[:, -1] = lasts[:, -1]
    return y, lasts[:, -1].clone(), borders


def _starts(plan: _Plan, start: Tensor, lasts: Tensor, w: Tensor | None, cut: Tensor | None) -> Tensor:
    """The states before the pieces, (B, pieces, D + 2 H), from what each comes to on its own."""
    decay = start.new_zeros(plan.H) if w is None else plan.length * w
    state, states = unpack(start, plan.H), []
    for p, last in enumerate(lasts.unbind(1)):
        states.append(pack(state))
        steps = slice(p * plan.length, (p + 1) * plan.length)
        linked = torch.ones(plan.B, dtype=torch.bool) if cut is None else ~cut[:, steps].any(1)
        state = join(state, unpack(last, plan.H), decay, linked)
    return torch.stack(states, 1)


def backward(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, start: Tensor, cut: Tensor | None, last: Tensor,
    borders: Tensor, dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(dk, dv, dw, du, dstart) from the gradients of y and of the last state; dw and du are empty without w and u."""
    plan = _Plan(k, v, w, u, cut)
    dk, dv = torch.empty(k.shape, dtype=k.dtype), torch.empty(v.shape, dtype=v.dtype)
    dw, du = torch.zeros(2, plan.B * plan.pieces, plan.H, dtype=torch.float64)
    fronts = start.new_empty(plan.B, plan.pieces, start.shape[1])
    gains = start.new_empty(plan.B, plan.pieces, 2, plan.H)
    inputs = (*plan.inputs, plan.cut, flat(borders), *plan.sizes, flat(dy))
    targets = flat(dk), flat(dv), flat(dw), flat(du), flat(fronts), flat(gains)
    behind = beyond_a_shift(dlast, last, plan.H, -1)
    carries = behind[:, None]
    if plan.pieces > 1:
        plan.run(kernels.backward, *inputs, flat(torch.zeros_like(fronts)), *targets)
        carries = _carries(plan, behind, fronts, gains)
        dw.zero_()
        du.zero_()
    plan.run(kernels.backward, *inputs, flat(carries), *targets)
    dstart = beyond_a_shift(fronts[:, 0], start, plan.H, 1)
    dw, du = (start.new_empty(0) if z is None else d.sum(0).to(z.dtype) for z, d in ((w, dw), (u, du)))
    return dk, dv, dw, du, dstart


def _carries(plan: _Plan, behind: Tensor, fronts: Tensor, gains: Tensor) -> Tensor:
    """The gradients from behind the pieces, (B, pieces, D + 2 H), from what each brings about on its own."""
    gain, largest = gains.unbind(2)
    factors = torch.cat([gain.repeat_interleave(plan.D // plan.H, 2), largest, gain], 2)
    carry, carries = behind, []
    for front, factor in zip(reversed(fronts.unbind(1)), reversed(factors.unbind(1)), strict=True):
        carries.append(carry)
        carry = factor * carry + front
    return torch.stack(carries[::-1], 1)
