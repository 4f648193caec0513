"""Registers operators with PyTorch, so that compilation, export, checkpointing and autograd see one node."""

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("resurge", "FRAGMENT")


class Operator:
    """A function of tensors as the operator `resurge::name`; its arguments are read, and its results share no memory.

    `torch.library.custom_op` does the same, and loads PyTorch's compiler at the first call: 1.3 s of every program's
    start.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = f"resurge::{name}"
        _library.define(name + torch.library.infer_schema(function, mutates_args=()))
        _library.impl(name, function, "CompositeExplicitAutograd")
        self._operator = getattr(torch.ops.resurge, name).default

    def __call__(self, *arguments: Any) -> Any:
        return self._operator(*arguments)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What `function` gives has the shapes and types of the operator's results."""
        torch.library.register_fake(self._name, function, lib=_library)
        return function

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """`backward(ctx, *gradients)` gives the gradients of the arguments from those of the results."""
        torch.library.register_autograd(self._name, backward, setup_context=setup_context, lib=_library)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """The decorated function as the operator `resurge::name`."""
    return lambda function: Operator(name, function)
