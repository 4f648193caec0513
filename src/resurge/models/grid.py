"""Recurrences over images, videos and volumes: each layer runs through the cells of a grid in an order of its own."""

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer, settle
from resurge.nn import TiedDropout
from resurge.nn import norm as make_norm
from resurge.nn.orders import IMAGE_ORDERS, Order
from resurge.paper import Paper


class Patches(nn.Module):
    """A linear map of each patch, and a learned vector for its place: (B, *sizes, channels) to (B, *grid, d_model).

    Args:
        sizes: cells of the inputs along each axis, as (H, W).
        channels: numbers a cell.
        d_model: width of a patch's embedding.
        patch: cells of a patch along each axis; divides every size.

    Initialisation: places ~ N(0, 0.02²), the map as PyTorch's.

    Raises:
        ResurgeError: sizes that the patch does not divide.
    """

    def __init__(self, sizes: tuple[int, ...], channels: int, d_model: int, *, patch: int = 1) -> None:
        super().__init__()
        at_least(1, {"channels": channels, "d_model": d_model, "patch": patch})
        if not sizes or any(size < 1 or size % patch for size in sizes):
            raise ResurgeError(f"sizes must be multiples of patch = {patch}, and are {sizes}")
        self.sizes, self.channels, self.patch = sizes, channels, patch
        self.grid = tuple(size // patch for size in sizes)
        self.map = nn.Linear(channels * patch ** len(sizes), d_model)
        self.places = nn.Parameter(0.02 * torch.randn(*self.grid, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """The grid of embeddings of x (B, *sizes, channels).

        Raises:
            ResurgeError: another shape, or no row.
        """
        if x.shape[1:] != (*self.sizes, self.channels) or len(x) == 0:
            expected = ", ".join(map(str, ["B", *self.sizes, self.channels]))
            raise ResurgeError(f"inputs must have shape ({expected}) with B >= 1, and have {tuple(x.shape)}")
        y: Tensor = self.map(gather_patches(x, self.patch))
        return y + self.places


def gather_patches(x: Tensor, patch: int) -> Tensor:
    """x (B, *sizes, D) as a grid of patches (B, *sizes / patch, patch^n D), the cells of each in row order."""
    n = x.dim() - 2
    for axis in range(n):
        x = x.unflatten(2 * axis + 1, (-1, patch))
    outer, inner = range(1, 2 * n + 1, 2), range(2, 2 * n + 2, 2)
    return x.permute(0, *outer, *inner, 2 * n + 1).flatten(n + 1)


class GridBlock(nn.Module):
    """A recurrent layer along one order of a grid, with a norm before it and a skip connection around it.

        z = Norm(x);  x + Dropout(mixer(z)),  or  z + Dropout(mixer(z))  with residual_from_norm

    Args:
        mixer: any recurrent layer; it starts anew with every grid.
        order: how it goes through the grid.
        norm: "batch", "layer" or "rms".
        residual_from_norm: the skip connection carries the normalised tensor, as in Mamba-ND's published code.
        dropout: probability, with one mask a grid and channel.
    """

    def __init__(
        self,
        mixer: RecurrentLayer,
        order: Order,
        *,
        norm: str = "layer",
        residual_from_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.order = order
        self.norm = make_norm(norm, mixer.d_model)
        self.mixer = mixer
        self.residual_from_norm = residual_from_norm
        self.dropout = TiedDropout(dropout)

    def extra_repr(self) -> str:
        return f"{self.order}, residual_from_norm={self.residual_from_norm}"

    def forward(self, x: Tensor) -> Tensor:
        """x (B, *grid, d_model) to the same shape."""
        steps = self.order.flatten(x)
        z = self.norm(steps)
        y, _ = self.mixer(z)
        y = self.dropout(y) + (z if self.residual_from_norm else steps)
        return self.order.unflatten(y, tuple(x.shape[1:-1]))


class PatchMerge(nn.Module):
    """Two cells along every axis become one: LayerNorm of their channels, one after the other, and a linear map.

    Args:
        d_model: width before and after.
        n_axes: axes of the grid.
    """

    def __init__(self, d_model: int, n_axes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model * 2**n_axes)
        self.map = nn.Linear(d_model * 2**n_axes, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, *grid, d_model) to (B, *grid / 2, d_model).

        Raises:
            ResurgeError: a grid with an odd side.
        """
        if any(size % 2 for size in x.shape[1:-1]):
            raise ResurgeError(f"only a grid of even sides can be merged, and this one is {tuple(x.shape[1:-1])}")
        y: Tensor = self.map(self.norm(gather_patches(x, 2)))
        return y


class GridStack(nn.Module):
    """`depth` blocks around recurrent layers, whose orders through the grid alternate with depth.

    Args:
        make_mixer: called once a block; gives its recurrent layer, for example `lambda: Mamba(384)`;
            what depends on its place or on the depth is settled as in `Stack`.
        depth: number of blocks. Every order takes part from depth = len(orders) on.
        orders: block i follows orders[i mod len(orders)], by default Mamba-ND's of images, rows and columns both ways.
        merge_after: numbers of the blocks, from 0, after each of which a `PatchMerge` halves the grid.
        norm, residual_from_norm, dropout: as in `GridBlock`.

    Cost and state: those of the layers at T = number of cells. A recurrence sees in one block what came before in its
    order; with an order and its reverse every cell sees every other, and with the axes' orders it does so along short
    ways: neighbours in a column stand W steps apart in the order of rows, and one step apart in that of columns.

    Raises:
        ResurgeError: no block, no order, orders of different numbers of axes, mixers of different widths, or a merge
            after a block that is none.

    Source: section 3 of "Mamba-ND: Selective State Space Modeling for Multi-Dimensional Data", arXiv 2402.05892. Its
    image model: d_model 384 (S) or 768 (B), patches of 8 at 224², depth 24, dropout after the places, and one merge
    after block 9, with residual_from_norm.
    """

    PAPER = Paper(
        "mamba_nd",
        "Mamba-ND: Selective State Space Modeling for Multi-Dimensional Data",
        "Shufan Li and Harkanwar Singh and Aditya Grover",
        2024,
        "2402.05892",
    )

    def __init__(
        self,
        make_mixer: Callable[[], RecurrentLayer],
        depth: int,
        *,
        orders: tuple[Order, ...] = IMAGE_ORDERS,
        merge_after: Collection[int] = (),
        norm: str = "layer",
        residual_from_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, {"depth": depth})
        if len({len(order.axes) for order in orders}) != 1:
            raise ResurgeError(f"orders must be those of one kind of grid, at least one, and are {orders}")
        if strays := sorted(set(merge_after) - set(range(depth))):
            raise ResurgeError(f"merge_after must name blocks 0 to {depth - 1}, and names {strays}")
        self.n_axes = len(orders[0].axes)
        self.n_merges = len(set(merge_after))

        mixers = [make_mixer() for _ in range(depth)]
        widths = sorted({mixer.d_model for mixer in mixers})
        if len(widths) > 1:
            raise ResurgeError(f"a stack needs mixers of one d_model, and has those of {widths}")
        self.d_model = widths[0]
        settle(dict(enumerate(mixers)), depth)
        self.parts = nn.Sequential()
        for i, mixer in enumerate(mixers):
            order = orders[i % len(orders)]
            block = GridBlock(mixer, order, norm=norm, residual_from_norm=residual_from_norm, dropout=dropout)
            self.parts.append(block)
            if i in merge_after:
                self.parts.append(PatchMerge(self.d_model, self.n_axes))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, *grid, d_model) to the same shape, its sides halved by every merge.

        Raises:
            ResurgeError: a grid of another number of axes, or with a side that cannot be halved so often.
        """
        if x.dim() != self.n_axes + 2 or x.shape[-1] != self.d_model:
            raise ResurgeError(
                f"x must be a grid of {self.n_axes} axes, (B, ..., {self.d_model}), and has shape {tuple(x.shape)}"
            )
        y: Tensor = self.parts(x)
        return y


class GridClassifier(nn.Module):
    """Patches, a stack over the grid, LayerNorm, the mean over all cells, linear head: one vector of scores a grid.

    Args:
        patches: how inputs become a grid; its width is that of the stack.
        stack: the blocks.
        n_outputs: number of scores, one a class.
        dropout: probability after the patches, for each number alone.

    Raises:
        ResurgeError: patches and a stack that do not fit: another width, number of axes, or sides that the stack's
            merges do not divide.
    """

    def __init__(self, patches: Patches, stack: GridStack, n_outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        at_least(1, {"n_outputs": n_outputs})
        if not 0 <= dropout < 1:
            raise ResurgeError(f"dropout must lie in [0, 1), and is {dropout}")
        grid, width = patches.grid, patches.places.shape[-1]
        if len(grid) != stack.n_axes or width != stack.d_model:
            raise ResurgeError(
                f"the patches make a grid of {len(grid)} axes and width {width}, and the stack takes one of "
                f"{stack.n_axes} axes and width {stack.d_model}"
            )
        if math.gcd(*grid) % 2**stack.n_merges:
            raise ResurgeError(f"a grid {grid} cannot be halved {stack.n_merges} times")
        self.patches = patches
        self.dropout = nn.Dropout(dropout)
        self.stack = stack
        self.norm = nn.LayerNorm(stack.d_model)
        self.head = nn.Linear(stack.d_model, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, n_outputs) of x (B, *sizes, channels)."""
        y = self.norm(self.stack(self.dropout(self.patches(x))))
        scores: Tensor = self.head(y.flatten(1, -2).mean(1))
        return scores
