"""Every op exported and compiled once for any number of steps, gradients included."""

from collections.abc import Callable

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

from resurge.ops import (
    bidirectional_scan,
    decay_scan,
    diagonal_scan,
    diagonal_scan_pairs,
    lem_scan,
    selective_scan,
    short_conv,
    sigmoid_scan,
    softmax_scan,
)

LENGTHS = (2, 3, 8, 9, 31, 33, 100)  # 2 is the size of the batch too


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


A, STATES, WEIGHT, SQUARE, ALL = drawn(3), -drawn(3, 2), drawn(3, 4), drawn(3, 3), drawn(9, 3)

# Each as a function of one tensor (B, T, 3).
OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "diagonal_scan": lambda x: diagonal_scan(x.sigmoid(), x)[0],
    "diagonal_scan, constant": lambda x: diagonal_scan(A, x)[0],
    "diagonal_scan_pairs": lambda x: diagonal_scan_pairs(torch.stack([A, A]) / 2, torch.stack([x, x * x], 2))[0].sum(2),
    "decay_scan": lambda x: decay_scan(-x.sigmoid(), x)[0],
    "bidirectional_scan": lambda x: bidirectional_scan(x.sigmoid(), x)[1],
    "selective_scan": lambda x: selective_scan(x, x, STATES, x[..., :2], x[..., 1:], z=x)[0],
    "softmax_scan": lambda x: softmax_scan(x, x, A, A)[0],
    "short_conv": lambda x: short_conv(x, WEIGHT)[0],
    "lem_scan": lambda x: lem_scan(x.repeat(1, 1, 4), ALL, SQUARE, x[..., 0].sigmoid())[0],
    "sigmoid_scan": lambda x: sigmoid_scan(x, SQUARE),
}


class Whole(nn.Module):
    """One op as a module."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.call = OPS[op]

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize("op", OPS)
def test_one_export_serves_any_number_of_steps(op: str) -> None:
    steps = torch.export.Dim("T", min=2, max=1 << 20)
    exported = torch.export.export(Whole(op), (drawn(2, 40, 3),), dynamic_shapes=({1: steps},)).module()
    for T in LENGTHS:
        x = drawn(2, T, 3)
        assert_close(exported(x), OPS[op](x), torch.float64, f"T = {T}")


@pytest.mark.parametrize("op", OPS)
def test_one_compilation_serves_any_number_of_steps(op: str) -> None:
    compilations = []

    def backend(module: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        compilations.append(module)
        return torch._dynamo.lookup_backend("aot_eager")(module, example)  # type: ignore[no-any-return]

    compiled = torch.compile(OPS[op], fullgraph=True, dynamic=True, backend=backend)
    for T in (40, *LENGTHS[1:]):
        x = drawn(2, T, 3).requires_grad_()
        expected, actual = (torch.autograd.grad(call(x).square().sum(), x)[0] for call in (OPS[op], compiled))
        assert_close(actual, expected, torch.float64, f"T = {T}")
    assert len(compilations) == 1
