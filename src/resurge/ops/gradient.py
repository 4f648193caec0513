"""Rules of differentiation that several ops share."""

from collections.abc import Callable, Sequence
from typing import Any

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


class _BoundedSqrt(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor) -> Tensor:
        return v.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return gradient / torch.sqrt(torch.clamp(4 * v, min=1 / 1000**2))

    jvp = backward


def bounded_sqrt(v: Tensor) -> Tensor:
    """The square root, its derivative 1 / (2 sqrt(v)) bounded by 1000: at v = 0 it is infinite."""
    root: Tensor = _BoundedSqrt.apply(v)
    return root
