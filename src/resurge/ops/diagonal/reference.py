"""The meaning of the diagonal scan: a loop over time in plain PyTorch, in any dtype, differentiable as it stands."""

import torch
from torch import Tensor


def scan(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + x_t, with h_{t-1} taken as 0 where `cut[:, t]`; (h, last h).

    `a` is real or complex of shape (1 or B, 1 or T, D), x (B, T, D), h0 (B, D), cut (B, T) bool. In reverse,
    h_{t+1} takes the place of h_{t-1}.
    """
    T = x.shape[1]
    # unbind, since indexing x[:, t] would make the backward pass quadratic in T
    a_at = a.unbind(1) * (T // a.shape[1])
    x_at = x.unbind(1)
    states: list[Tensor] = []
    h = h0
    for t in reversed(range(T)) if reverse else range(T):
        if cut is not None:
            h = torch.where(cut[:, t, None], torch.zeros_like(h), h)
        h = a_at[t] * h + x_at[t]
        states.append(h)
    if reverse:
        states.reverse()
    return torch.stack(states, 1), h
