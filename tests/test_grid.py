"""Orders through grids, and the models whose layers follow them."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor, nn

import resurge
from resurge.layer import RecurrentLayer
from resurge.layers import LRU, Mamba, MinGRU
from resurge.models import GridBlock, GridClassifier, GridStack, Patches, PatchMerge
from resurge.models.grid import gather_patches
from resurge.nn.orders import IMAGE_ORDERS, VIDEO_ORDERS, Order, all_orders, both_ways
from resurge.recipes import mamba_nd


def path(order: Order, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The cells in the sequence in which an order visits them, by counting with one digit an axis."""
    cells = []
    for digits in product(*(range(sizes[axis]) for axis in order.axes)):
        cell = dict(zip(order.axes, digits, strict=True))
        cells.append(tuple(cell[axis] for axis in range(len(sizes))))
    return cells[::-1] if order.reverse else cells


def cells_of(sizes: tuple[int, ...]) -> Tensor:
    """The grid (1, *sizes, n) in which each cell holds its own coordinates."""
    return torch.stack(torch.meshgrid(*map(torch.arange, sizes), indexing="ij"), -1)[None]


@st.composite
def grids(draw: st.DrawFn) -> tuple[Order, tuple[int, ...]]:
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    return draw(st.sampled_from(all_orders(len(sizes)))), sizes


@given(grids())
def test_an_order_visits_every_cell_in_turn_and_back(grid: tuple[Order, tuple[int, ...]]) -> None:
    order, sizes = grid
    x = cells_of(sizes)
    steps = order.flatten(x)
    assert [tuple(cell) for cell in steps[0].tolist()] == path(order, sizes)
    assert torch.equal(order.unflatten(steps, sizes), x)
    y = torch.randn(2, steps.shape[1], 3)
    assert torch.equal(order.flatten(order.unflatten(y, sizes)), y)


@pytest.mark.parametrize("order", [*IMAGE_ORDERS, *VIDEO_ORDERS])
def test_neighbours_along_the_last_axis_follow_each_other(order: Order) -> None:
    sizes = (5, 3, 4)[: len(order.axes)]
    moves = order.flatten(cells_of(sizes))[0].diff(dim=0)
    fast = order.axes[-1]
    one = torch.eye(len(sizes), dtype=torch.long)[fast] * (-1 if order.reverse else 1)
    along = (moves == one).all(-1)
    lines = moves.shape[0] + 1 - int(along.sum())  # a line ends where the next cell is no neighbour on this axis
    assert lines == torch.tensor(sizes).prod() // sizes[fast]


def test_the_papers_orders() -> None:
    letters = ["".join("HW"[axis] for axis in order.axes) + ("-" if order.reverse else "+") for order in IMAGE_ORDERS]
    assert letters == ["HW+", "HW-", "WH+", "WH-"]
    letters = ["".join("THW"[axis] for axis in order.axes) + ("-" if order.reverse else "+") for order in VIDEO_ORDERS]
    assert letters == ["THW+", "THW-", "TWH+", "TWH-", "WHT+", "WHT-"]
    assert len(set(all_orders(3))) == 12


@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), patch=st.integers(1, 3))
def test_a_patch_is_its_cells_in_row_order(sizes: list[int], patch: int) -> None:
    x = torch.randn(2, *(size * patch for size in sizes), 2)
    y = gather_patches(x, patch)
    for cell in product(*(range(size) for size in sizes)):
        vector, window = y, x
        for axis, place in enumerate(cell):
            vector, window = vector[:, place], window.narrow(axis + 1, place * patch, patch)
        assert torch.equal(vector, window.flatten(1))


def by_hand(model: GridClassifier, x: Tensor) -> Tensor:
    """The scores of x (1, H, W, channels), cell by cell: a dictionary of vectors, and one step of a layer at a time."""
    patch, (H, W) = model.patches.patch, model.patches.grid
    grid = {}
    for h, w in product(range(H), range(W)):
        window = x[0, h * patch : (h + 1) * patch, w * patch : (w + 1) * patch]
        grid[h, w] = model.patches.map(window.reshape(-1)) + model.patches.places[h, w]
    for part in model.stack.parts:
        if isinstance(part, PatchMerge):
            H, W = H // 2, W // 2
            grid = {
                (h, w): part.map(part.norm(torch.cat([grid[2 * h + i, 2 * w + j] for i in (0, 1) for j in (0, 1)])))
                for h, w in product(range(H), range(W))
            }
            continue
        assert isinstance(part, GridBlock)
        by_rows = [(h, w) for h in range(H) for w in range(W)]
        order = by_rows if part.order.axes == (0, 1) else sorted(by_rows, key=lambda cell: cell[::-1])
        state = part.mixer.initial_state(1)
        for cell in reversed(order) if part.order.reverse else order:
            z = part.norm(grid[cell][None, None])[0]
            y, state = part.mixer.step(z, state)
            grid[cell] = (z[0] if part.residual_from_norm else grid[cell]) + y[0]
    scores: Tensor = model.head(torch.stack([model.norm(v) for v in grid.values()]).mean(0))
    return scores


def classifier(
    make_mixer: Callable[[], RecurrentLayer], *, residual_from_norm: bool = False, merge_after: tuple[int, ...] = ()
) -> GridClassifier:
    torch.manual_seed(0)
    stack = GridStack(
        make_mixer, 5, merge_after=merge_after, residual_from_norm=residual_from_norm, norm="rms", dropout=0.1
    )
    return GridClassifier(Patches((8, 12), 3, 6, patch=2), stack, 4, dropout=0.1).double().eval()


@pytest.mark.parametrize("merge_after", [(), (2,)])
@pytest.mark.parametrize("residual_from_norm", [False, True])
@pytest.mark.parametrize("make_mixer", [lambda: Mamba(6, 3), lambda: LRU(6, 5), lambda: MinGRU(6)])
def test_the_model_is_its_equations_cell_by_cell(
    make_mixer: Callable[[], RecurrentLayer], residual_from_norm: bool, merge_after: tuple[int, ...]
) -> None:
    model = classifier(make_mixer, residual_from_norm=residual_from_norm, merge_after=merge_after)
    x = torch.randn(2, 8, 12, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([by_hand(model, row[None]) for row in x])
        assert_close(model(x), expected, torch.float64, "scores")


def sees(orders: tuple[Order, ...], sizes: tuple[int, ...], cell: tuple[int, ...]) -> Tensor:
    """Which cells (sizes) of the input move the output at `cell`, by gradients."""
    torch.manual_seed(0)
    stack = GridStack(lambda: LRU(4, 4), len(orders), orders=orders).double()
    x = torch.randn(1, *sizes, 4, dtype=torch.float64, requires_grad=True)
    stack(x)[(0, *cell)].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 0


def test_a_layer_sees_what_its_order_visited_before() -> None:
    for order in all_orders(3):
        walk = path(order, (2, 3, 2))
        place = walk.index((1, 1, 0))
        seen = sees((order,), (2, 3, 2), (1, 1, 0))
        assert {tuple(cell) for cell in seen.nonzero().tolist()} == set(walk[: place + 1])
    assert bool(sees(IMAGE_ORDERS, (3, 4), (1, 2)).all())
    assert bool(sees(VIDEO_ORDERS, (2, 3, 2), (1, 1, 0)).all())


def test_initial_statistics_and_parameter_groups() -> None:
    torch.manual_seed(0)
    patches = Patches((64, 64), 3, 32, patch=2).requires_grad_(False)
    assert float(patches.places.std()) == pytest.approx(0.02, rel=0.02)
    assert float(patches.map.weight.std()) == pytest.approx((3 * 12) ** -0.5, rel=0.1)  # uniform in ± 12^(-1/2)
    model = GridClassifier(patches.requires_grad_(), GridStack(lambda: Mamba(32), 4), 2)
    recurrent, other = resurge.layer.param_groups(model)
    assert len(recurrent) == 4 * 3
    last = model.stack.parts[3].get_parameter("mixer.out_proj.weight").detach()
    assert float(last.std()) == pytest.approx((3 * 64 * 4) ** -0.5, rel=0.1)  # uniform in ± 64^(-1/2), over sqrt(depth)
    assert len(recurrent) + len(other) == len(list(model.parameters()))
    assert "2402.05892" in resurge.cite(model)
    assert "2312.00752" in resurge.cite(model)


def test_gradients_reach_every_parameter_of_a_video_model() -> None:
    torch.manual_seed(0)
    stack = GridStack(lambda: Mamba(6, 3), 6, orders=VIDEO_ORDERS, merge_after=[1], norm="batch", dropout=0.2)
    model = GridClassifier(Patches((4, 4, 8), 2, 6, patch=2), stack, 3)
    model(torch.randn(3, 4, 4, 8, 2)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Order((0, 2)), r"axes must be the numbers 0 to n - 1 in some order, and are \(0, 2\)"),
        (lambda: Order(()), "axes must be the numbers"),
        (lambda: Order((1, 0)).flatten(torch.zeros(2, 3, 4)), "an order of 2 axes serves no grid of 1"),
        (lambda: Order((1, 0)).unflatten(torch.zeros(2, 5, 4), (2, 3)), r"shape \(B, 6, D\).*not \(2, 5, 4\)"),
        (lambda: Patches((8, 9), 3, 6, patch=2), r"multiples of patch = 2, and are \(8, 9\)"),
        (lambda: Patches((), 3, 6), "sizes must be multiples"),
        (lambda: Patches((8, 8), 3, 6, patch=0), "patch must be at least 1"),
        (lambda: Patches((8, 4), 3, 6)(torch.zeros(2, 3, 8, 4)), r"shape \(B, 8, 4, 3\) with B >= 1, and have \(2, 3"),
        (lambda: Patches((8, 4), 3, 6)(torch.zeros(0, 8, 4, 3)), "with B >= 1"),
        (lambda: PatchMerge(6, 2)(torch.zeros(2, 4, 3, 6)), r"even sides.*is \(4, 3\)"),
        (lambda: GridStack(lambda: LRU(6, 4), 0), "depth must be at least 1, and is 0"),
        (lambda: GridStack(lambda: LRU(6, 4), 2, orders=()), "orders must be those of one kind of grid"),
        (lambda: GridStack(lambda: LRU(6, 4), 2, orders=(Order((0,)), Order((1, 0)))), "one kind of grid"),
        (lambda: GridStack(lambda: LRU(6, 4), 2, merge_after=[2, 0]), r"blocks 0 to 1, and names \[2\]"),
        (lambda: GridStack(lambda: LRU(6, 4), 2)(torch.zeros(2, 4, 6)), r"a grid of 2 axes, \(B, \.\.\., 6\), and has"),
        (lambda: GridStack(lambda: LRU(6, 4), 2, norm="rmss"), "unknown norm 'rmss'. Did you mean 'rms'"),
        (lambda: small(Patches((8, 8), 3, 5)), "2 axes and width 5, and the stack takes one of 2 axes and width 6"),
        (lambda: small(Patches((8,), 3, 6)), "1 axes and width 6"),
        (lambda: small(Patches((8, 6), 3, 6)), r"a grid \(8, 6\) cannot be halved 2 times"),
        (lambda: small(Patches((8, 8), 3, 6), dropout=1.0), r"dropout must lie in \[0, 1\), and is 1.0"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=words):
        make()


def small(patches: Patches, dropout: float = 0.0) -> GridClassifier:
    return GridClassifier(patches, GridStack(lambda: LRU(6, 4), 2, merge_after=[0, 1]), 3, dropout=dropout)


def test_mixers_of_different_widths_are_refused() -> None:
    mixers: list[nn.Module] = [LRU(6, 4), LRU(4, 4)]
    with pytest.raises(resurge.ResurgeError, match=r"mixers of one d_model, and has those of \[4, 6\]"):
        GridStack(mixers.pop, 2)  # type: ignore[arg-type]


def test_the_recipes_images_tell_nothing_by_single_pixels() -> None:
    config = mamba_nd.config(quick=False)
    x, classes = mamba_nd.images(config, 20_000, torch.Generator().manual_seed(0))
    assert classes.bincount().float().div(20_000).sub(1 / 2).abs().max() < 0.02
    for c, offset in enumerate([(1, 0), (1, 1)]):
        mine = x[classes == c, ..., 0]
        marked = mine.mean(0)
        assert float(marked.std() / marked.mean()) < 0.1  # as often at one place as at any other
        met = (mine * mine.roll(offset, (1, 2))).sum((1, 2))
        assert bool((met >= 1).all())


def test_both_ways() -> None:
    assert both_ways((0,)) == (Order((0,)), Order((0,), True))
