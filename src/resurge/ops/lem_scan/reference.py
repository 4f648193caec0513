"""The meaning of the LEM scan: a loop over time in plain PyTorch, in any dtype, differentiable as it stands.

The state enters a nonlinearity at every step, so that there is no parallel form: this loop is the composable form too.
"""

import torch
from torch import Tensor


def scan(
    p: Tensor, R: Tensor, C: Tensor, dt: Tensor, y0: Tensor, z0: Tensor, cut: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All states y and z, each (B, T, D); p (B, T, 4 D), R (3 D, D), C (D, D), dt (B, T), cut (B, T) bool."""
    D = y0.shape[-1]
    y, z = y0, z0
    ys, zs = [], []
    # unbind, since indexing p[:, t] would make the backward pass quadratic in T
    for t, (p_t, dt_t) in enumerate(zip(p.unbind(1), dt.split(1, 1), strict=True)):
        if cut is not None:
            y, z = (torch.where(cut[:, t, None], torch.zeros_like(v), v) for v in (y, z))
        p_yz, p_y = p_t.split([3 * D, D], 1)
        slow, fast, candidate = (p_yz + y @ R.T).chunk(3, 1)
        rate_y = torch.clamp(dt_t * torch.sigmoid(slow), max=1)
        rate_z = torch.clamp(dt_t * torch.sigmoid(fast), max=1)
        z = (1 - rate_z) * z + rate_z * torch.tanh(candidate)
        y = (1 - rate_y) * y + rate_y * torch.tanh(p_y + z @ C.T)
        ys.append(y)
        zs.append(z)
    return torch.stack(ys, 1), torch.stack(zs, 1)
