"""The meaning of the selective scan: a loop over time in plain PyTorch, in any dtype, differentiable as it stands."""

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor,
    z: Tensor | None,
    bias: Tensor,
    h0: Tensor,
    dt: Tensor | None,
    cut: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, with h_{t-1} taken as 0 where `cut[:, t]`; (y, last h).

    u, delta, z (B, T, D), A (D, N), B and C (B, T, N), skip and bias (D,), h0 (B, D, N), dt and cut (B, T).
    """
    h, outputs = h0, []
    # unbind, since indexing x[:, t] would make the backward pass quadratic in T
    rows = zip(*(v.unbind(1) for v in (step_size(delta, bias, dt), u, B, C)), strict=True)
    for t, (step, u_t, B_t, C_t) in enumerate(rows):
        if cut is not None:
            h = torch.where(cut[:, t, None, None], torch.zeros_like(h), h)
        h = torch.exp(step[..., None] * A) * h + (step * u_t)[..., None] * B_t[:, None]
        outputs.append((h * C_t[:, None]).sum(-1))
    return gated(torch.stack(outputs, 1), u, skip, z), h


def step_size(delta: Tensor, bias: Tensor, dt: Tensor | None) -> Tensor:
    """Δ = dt softplus(delta + bias), (B, T, D)."""
    step = softplus(delta + bias, threshold=40.0)  # beyond it, log(1 + e^x) is x in float64 too
    return step if dt is None else step * dt[..., None]


def gated(y: Tensor, u: Tensor, skip: Tensor, z: Tensor | None) -> Tensor:
    """The output from C h: with the skip, and the gate if there is one."""
    y = y + skip * u
    return y if z is None else y * silu(z)
