"""What is timed: one problem, solved forward, and forward with all gradients, by whoever is there to solve it."""

import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import resurge


class Sizes(NamedTuple):
    """Batch, steps, channels."""

    B: int
    T: int
    D: int


class Problem(NamedTuple):
    """The arguments of an op, gradients wanted for each, and the gradient of its output."""

    arguments: tuple[Tensor, ...]
    gradient: Tensor


class Contestant(NamedTuple):
    """`forward()` returns the output, `both()` the gradients to the arguments, computed from scratch."""

    forward: Callable[[], Any]
    both: Callable[[], Any]


class Peer(NamedTuple):
    """How another package solves a problem. An ImportError says that it is absent, any other error why it cannot.

    `sequential`: as many steps one after the other as T, so that long sequences are left out. `same`: it computes the
    same function, and not only one of the same size. `compiled`: anew for each size, which takes seconds.
    `longest`: its backward pass is quadratic in T, and beyond this T it is left out.
    """

    make: Callable[[Problem], Contestant]
    device: str = ""
    sequential: bool = False
    same: bool = True
    compiled: bool = False
    longest: int = 1 << 62


def eager(function: Callable[..., Tensor], problem: Problem) -> Contestant:
    """PyTorch, whatever `function` calls."""

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*problem.arguments)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*problem.arguments), problem.arguments, problem.gradient)

    return Contestant(forward, both)


def forced(backend: str, function: Callable[..., Tensor], problem: Problem) -> Contestant:
    """Our own op on another backend."""

    def call(*arguments: Tensor) -> Tensor:
        with resurge.backend(backend):
            return function(*arguments)

    return eager(call, problem)


def whole_layer(make: Callable[..., nn.Module], x: Tensor, gradient: Tensor) -> Contestant:
    """A recurrent layer of PyTorch over x (B, T, D), its matrix products and their gradients included."""
    layer = make(x.shape[-1], x.shape[-1], batch_first=True).to(x.device, x.dtype)

    def output(x: Tensor, *parameters: Tensor) -> Tensor:
        return layer(x)[0]  # type: ignore[no-any-return]

    return eager(output, Problem((x, *layer.parameters()), gradient))


def jax_modules() -> tuple[Any, Any]:
    """(jax, jax.numpy), told not to take a GPU's whole memory."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return importlib.import_module("jax"), importlib.import_module("jax.numpy")


def to_jax(tensor: Tensor) -> Any:
    jax, _ = jax_modules()
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def compiled_jax(function: Callable[..., Any], problem: Problem) -> Contestant:
    """A function of JAX arrays, compiled. Gradients are dL/dRe - i dL/dIm there, the conjugates of PyTorch's."""
    jax, _ = jax_modules()
    arguments = [to_jax(v) for v in problem.arguments]
    gradient = to_jax(problem.gradient.conj().resolve_conj())

    def pull_back(arguments: list[Any], gradient: Any) -> Any:
        return jax.vjp(function, *arguments)[1](gradient)

    forward, both = jax.jit(function), jax.jit(pull_back)
    return Contestant(
        lambda: jax.block_until_ready(forward(*arguments)),
        lambda: jax.block_until_ready(both(arguments, gradient)),
    )


def in_short(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
