"""The meaning of the sigmoid scan: a loop over time in plain PyTorch, in any dtype, differentiable as it stands.

The state enters a nonlinearity at every step, so that there is no parallel form: this loop is the composable form too.
"""

import torch
from torch import Tensor


def scan(p: Tensor, R: Tensor, h0: Tensor, cut: Tensor | None) -> Tensor:
    """All states h (B, T, D) from p (B, T, D), R (D, D), h0 (B, D) and cut (B, T) bool."""
    h, states = h0, []
    for t, p_t in enumerate(p.unbind(1)):  # indexing p[:, t] would make the backward pass quadratic in T
        if cut is not None:
            h = torch.where(cut[:, t, None], torch.zeros_like(h), h)
        h = torch.sigmoid(p_t + h @ R.T)
        states.append(h)
    return torch.stack(states, 1)
