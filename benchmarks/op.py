"""What an op is to the benchmarks: its arguments, the call, the numbers that must move, and who else computes it.

Numbers that must move are those of the arguments, the output and their gradients, each once for every time that it has
to be read or written: the backward pass reads the arguments again.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.contestants import Peer, Problem, Sizes


class Draw(NamedTuple):
    """Where random numbers are drawn, and in which type."""

    device: torch.device
    dtype: torch.dtype

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device, dtype=self.dtype)


class Op(NamedTuple):
    """One op as it is timed and checked.

    `make` draws the arguments and the gradient of the output; `moved` counts the numbers that must move forward, and
    forward and backward; `plain` brings a problem into the form that the peers take. B T D is chosen `parts` times
    smaller than for a scan of reals: 2 times for complex numbers.
    """

    title: str
    make: Callable[[Sizes, Draw], Problem]
    call: Callable[..., Tensor]
    moved: Callable[[Sizes], tuple[int, int]]
    peers: Mapping[str, Peer]
    plain: Callable[[Problem], Problem] = lambda problem: problem
    parts: int = 1


def draw(op: Op, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Problem:
    """A problem of these sizes, the same numbers at each call. Half precision is rounded from float32."""
    wide = dtype if dtype == torch.float64 else torch.float32
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return as_type(op.make(sizes, Draw(device, wide)), dtype)


def as_type(given: Problem, dtype: torch.dtype) -> Problem:
    """The problem in another type, as leaves of their own. What has no axis of time stays in float32 or wider."""
    kept = dtype if dtype == torch.float64 else torch.float32
    leaves = (v.detach().to(dtype if v.dim() > 2 else kept).requires_grad_() for v in given.arguments)
    return Problem(tuple(leaves), given.gradient.to(dtype))


def as_peers_take_it(op: Op, given: Problem) -> Problem:
    """The problem for the peers: leaves of their own."""
    arguments, gradient = op.plain(given)
    return Problem(tuple(v.detach().requires_grad_() for v in arguments), gradient)


def coefficients(draw: Draw, *shape: int) -> Tensor:
    """exp(-1/τ) with time constants τ from 1 to 10,000 steps, uniform in their logarithm."""
    return torch.exp(-(10 ** (-4 * draw.uniform(*shape))))


def arrays(forward: int, both: int, parts: int = 1) -> Callable[[Sizes], tuple[int, int]]:
    """So many arrays of B T D numbers, of `parts` reals each."""
    return lambda sizes: (forward * parts * math.prod(sizes), both * parts * math.prod(sizes))
