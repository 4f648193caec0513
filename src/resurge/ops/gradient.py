"""Rules of differentiation that several ops share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def again(
    composable: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The gradients to `inputs`, themselves differentiable, from those of the outputs of `composable(*inputs)`.

    What an op's backward rule gives under `create_graph=True`, in the place of its kernel.
    """
    with torch.enable_grad():
        inputs = [v if v.requires_grad else v.detach().requires_grad_() for v in inputs]
        return torch.autograd.grad(composable(*inputs), inputs, gradients, create_graph=True)


def bounded_sqrt(v: Tensor) -> Tensor:
    """The square root, its derivative 1 / (2 sqrt(v)) bounded by 1000: at v = 0 it is infinite."""
    least = 2.5e-7  # where the derivative is 1000
    flat = v.detach().sqrt() + 1000 * (v - v.detach())
    return torch.where(v > least, v.clamp(min=least).sqrt(), flat)
