"""The selective scan by the blocked parallel scan of the diagonal recurrence, over D N channels: the form for devices
without a kernel of their own, and the composable one (vmap, jvp, double backward) everywhere. It makes all states."""

import torch
from torch import Tensor

from resurge.ops.diagonal import composable
from resurge.ops.selective_scan.reference import gated, step_size


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
    """Same arguments and result as `reference.scan`."""
    step = step_size(delta, bias, dt)
    a = torch.exp(step[..., None] * A)
    x = (step * u)[..., None] * B[:, :, None]
    h, last = composable.scan(a.flatten(2), x.flatten(2), h0.flatten(1), cut, False)
    y = (h.view(a.shape) * C[:, :, None]).sum(-1)
    return gated(y, u, skip, z), last.view(h0.shape)
