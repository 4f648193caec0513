"""Gradients of gradients: kernels have one backward pass, the composable forms any number."""

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
