"""Transforms under `torch.compile`, where PyTorch takes an operator without a forward derivative for a constant."""

from collections.abc import Callable

import pytest
import torch
from tolerances import assert_close
from torch import Tensor
from torch.func import grad, jvp, vmap

from resurge.ops import (
    bidirectional_scan,
    diagonal_scan,
    lem_scan,
    selective_scan,
    short_conv,
    sigmoid_scan,
    softmax_scan,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # that plain PyTorch serves, and what its compiler deprecates


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


A, B, C, D = drawn(3), drawn(2, 5, 2), drawn(2, 5, 3), -drawn(3, 2)
WEIGHT, SQUARE, ALL, STEPS = drawn(3, 4), drawn(3, 3), drawn(9, 3), drawn(2, 5)

# Each as a function of one tensor (2, 5, 3).
OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "diagonal_scan": lambda x: diagonal_scan(A, x * x)[0],
    "bidirectional_scan": lambda x: bidirectional_scan(A, x * x)[1],
    "selective_scan": lambda x: selective_scan(x, C, D, B, B)[0],
    "softmax_scan": lambda x: softmax_scan(x, C, A, A)[0],
    "short_conv": lambda x: short_conv(x * x, WEIGHT)[0],
    "lem_scan": lambda x: lem_scan(x.repeat(1, 1, 4), ALL, SQUARE, STEPS)[0],
    "sigmoid_scan": lambda x: sigmoid_scan(x, SQUARE),
}


@pytest.mark.parametrize("op", OPS)
def test_compiled_transforms_are_those_that_run_as_they_stand(op: str) -> None:
    call, x, tangent = OPS[op], drawn(2, 5, 3), drawn(3, 2, 5, 3)

    def transformed(x: Tensor, tangents: Tensor) -> tuple[Tensor, ...]:
        slope = grad(lambda x: call(x).square().sum())(x)
        return jvp(call, (x,), (tangents[0],))[1], slope, vmap(call)(tangents)

    expected = transformed(x, tangent)
    ahead, back = (call(x + step * tangent[0]) for step in (1e-6, -1e-6))
    assert float((expected[0] - (ahead - back) / 2e-6).abs().max()) < 1e-8
    compiled = torch.compile(transformed, fullgraph=True, backend="aot_eager")
    for actual, one, name in zip(compiled(x, tangent), expected, ("jvp", "grad", "vmap"), strict=True):
        assert_close(actual, one, torch.float64, name)


@pytest.mark.parametrize("op", OPS)
def test_compiled_code_without_a_transform_calls_the_kernels(op: str) -> None:
    called: list[str] = []

    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        called.extend(str(node.target) for node in module.graph.nodes)
        return module

    x = drawn(2, 5, 3)
    assert_close(torch.compile(OPS[op], fullgraph=True, backend=backend)(x), OPS[op](x), torch.float64, op)
    assert any(target.startswith(f"resurge.{op}") for target in called), called


@pytest.mark.parametrize("op", OPS)
def test_dual_numbers_keep_their_tangents_through_compiled_code(op: str) -> None:
    call, x, tangent = OPS[op], drawn(2, 5, 3), drawn(2, 5, 3) - 0.5
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    compiled(x)  # compiled once without
    with torch.autograd.forward_ad.dual_level():
        found = torch.autograd.forward_ad.unpack_dual(compiled(torch.autograd.forward_ad.make_dual(x, tangent))).tangent
    assert found is not None
    assert_close(found, jvp(call, (x,), (tangent,))[1], torch.float64, "tangent")
