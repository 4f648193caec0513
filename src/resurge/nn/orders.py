"""Ways through the cells of a grid, by which a recurrence over one axis serves images, videos and volumes.

An order lists the axes of a grid from the slowest to the fastest: (0, 1) runs through an image (H, W) row by row, and
(1, 0) column by column, each from the first cell to the last, or in reverse.
"""

import math
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor

from resurge.errors import ResurgeError


@dataclass(frozen=True)
class Order:
    """One way through all cells of a grid of any size.

    Args:
        axes: every axis of the grid once, the slowest first: neighbours along the last one follow each other.
        reverse: from the last cell to the first.

    Raises:
        ResurgeError: axes that are not 0 ... n - 1 in some order.
    """

    axes: tuple[int, ...]
    reverse: bool = False

    def __post_init__(self) -> None:
        if not self.axes or sorted(self.axes) != list(range(len(self.axes))):
            raise ResurgeError(f"axes must be the numbers 0 to n - 1 in some order, and are {self.axes}")

    def flatten(self, x: Tensor) -> Tensor:
        """The cells of x (B, *sizes, D) one after the other, (B, T, D) with T the product of the sizes.

        Raises:
            ResurgeError: a grid of another number of axes.
        """
        self._check(x.dim() - 2)
        y = x.permute(0, *(axis + 1 for axis in self.axes), x.dim() - 1).flatten(1, -2)
        return y.flip(1) if self.reverse else y

    def unflatten(self, y: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """The grid (B, *sizes, D) whose cells are y (B, T, D): the inverse of `flatten`.

        Raises:
            ResurgeError: sizes of another number of axes, or of another product than T.
        """
        self._check(len(sizes))
        if y.dim() != 3 or math.prod(sizes) != y.shape[1]:
            raise ResurgeError(f"y must have shape (B, {math.prod(sizes)}, D) for a grid {sizes}, not {tuple(y.shape)}")
        y = (y.flip(1) if self.reverse else y).unflatten(1, [sizes[axis] for axis in self.axes])
        return y.permute(0, *(self.axes.index(axis) + 1 for axis in range(len(sizes))), y.dim() - 1)

    def _check(self, n_axes: int) -> None:
        if n_axes != len(self.axes):
            raise ResurgeError(f"an order of {len(self.axes)} axes serves no grid of {n_axes}")


def both_ways(*axes: tuple[int, ...]) -> tuple[Order, ...]:
    """Each listing of axes from the first cell, then from the last: an order for every layer of a stack."""
    return tuple(Order(each, reverse) for each in axes for reverse in (False, True))


def all_orders(n_axes: int) -> tuple[Order, ...]:
    """All 2 n! orders of a grid of n axes."""
    return both_ways(*permutations(range(n_axes)))


IMAGE_ORDERS = both_ways((0, 1), (1, 0))
"""Mamba-ND's orders of an image (H, W): (HW)+, (HW)-, (WH)+, (WH)-, which are the rows, then the columns, both ways."""

VIDEO_ORDERS = both_ways((0, 1, 2), (0, 2, 1), (2, 1, 0))
"""Mamba-ND's orders of a video (T, H, W): each frame by rows, each frame by columns, and time as the fastest axis."""
