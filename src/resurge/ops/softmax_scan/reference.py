"""The meaning of the softmax scan: a loop over time in plain PyTorch, in any dtype, differentiable as it stands."""

import torch
from torch import Tensor

from resurge.ops.softmax_scan.state import EMPTY, LARGEST_ERROR, SoftmaxState


def step(k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, state: SoftmaxState) -> tuple[Tensor, SoftmaxState]:
    """One step: k (..., H), v (..., D), w and u (H,) or None, a state of such rows; (y (..., D), the next state)."""
    m, num, den = state.m, state.num.unflatten(-1, (k.shape[-1], -1)), state.den
    values = v.unflatten(-1, (k.shape[-1], -1))
    y = values if u is None else average(m, num, den, k + u, values)
    after, past, rest, present = weights(m, k, torch.zeros_like(k) if w is None else w)
    num = past[..., None] * num + (rest[..., None] * num + present[..., None] * values)
    den = past * den + (rest * den + present)
    if u is None:
        y = num / den[..., None]
    return y.flatten(-2), SoftmaxState(after, num.flatten(-2), den)


def weights(m: Tensor, k: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """max(m - w, k), and the weights over it of sums of exponent m, which decays by w, and of those of exponent k.

    The first is two numbers, 1 and the little beside it where m stands: rounding would take the same from their sum at
    every step, and sums would decay by up to 3e-8 a step too much or too little in float32.
    """
    fresh = k >= m - w
    after = torch.where(fresh, k, m - w)
    apart = (m - after) - w
    apart = torch.where(fresh, apart, apart.clamp(-LARGEST_ERROR, LARGEST_ERROR))
    past, rest = torch.where(fresh, torch.exp(apart), 1), torch.where(fresh, 0, torch.expm1(apart))
    return after, past, rest, torch.exp(k - after)


def average(m: Tensor, num: Tensor, den: Tensor, logit: Tensor, values: Tensor) -> Tensor:
    """The average of what a state sums up and of `values` (..., H, G) with the weight e^logit."""
    scale = torch.maximum(m, logit).detach()  # in the numerator and in the denominator: it has no gradient
    past, present = torch.exp(m - scale), torch.exp(logit - scale)
    return (past[..., None] * num + present[..., None] * values) / (past * den + present)[..., None]


def scan(
    k: Tensor, v: Tensor, w: Tensor | None, u: Tensor | None, state: SoftmaxState, cut: Tensor | None
) -> tuple[Tensor, SoftmaxState]:
    """`step` for each of k (B, T, H), v (B, T, D), from the state that stands empty where `cut[:, t]`."""
    outputs: list[Tensor] = []
    # unbind, since indexing k[:, t] would make the backward pass quadratic in T
    for t, (k_t, v_t) in enumerate(zip(k.unbind(1), v.unbind(1), strict=True)):
        if cut is not None:
            state = emptied(state, cut[:, t])
        y, state = step(k_t, v_t, w, u, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def emptied(state: SoftmaxState, rows: Tensor) -> SoftmaxState:
    """The state, empty in the given rows."""
    rows = rows[..., None]
    m, num, den = state
    return SoftmaxState(m.masked_fill(rows, EMPTY), num.masked_fill(rows, 0), den.masked_fill(rows, 0))
