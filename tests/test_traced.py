"""Every op traced once: exported, compiled, captured in a CUDA graph; exported and compiled for any number of steps."""

from collections.abc import Callable

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

from resurge import layers
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

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = (2, 3, 8, 9, 31, 33, 100)  # 2 is the size of the batch too


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


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


# Each step of theirs is a call of PyTorch's own, so that their graphs are of one T.
STEP_IN_PYTHON = ("gru", "hippornn", "localattention", "lssl", "lstm")


class Whole(nn.Module):
    """A function, or the outputs of a layer, as a module of one tensor."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        found = self.call(x)
        return found if isinstance(found, Tensor) else found[0]


def exported_once(call: Callable[[Tensor], Tensor], width: int) -> None:
    whole, steps = Whole(call), torch.export.Dim("T", min=2, max=1 << 16)
    exported = torch.export.export(whole, (drawn(2, 40, width),), dynamic_shapes=({1: steps},)).module()
    for T in LENGTHS:
        x = drawn(2, T, width)
        assert_close(exported(x), whole(x), torch.float64, f"T = {T}")


@pytest.mark.parametrize("op", OPS)
def test_one_export_of_an_op_serves_any_number_of_steps(op: str) -> None:
    exported_once(OPS[op], 3)


@pytest.mark.parametrize("name", [name for name in layers.names() if name not in STEP_IN_PYTHON])
def test_one_export_of_a_layer_serves_any_number_of_steps(name: str) -> None:
    exported_once(layers.create(name, 8).double().to(DEVICE), 8)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("op", OPS)
def test_a_cuda_graph_replays_forward_and_backward(op: str) -> None:
    x = drawn(2, 64, 3).requires_grad_()

    def both() -> tuple[Tensor, Tensor]:
        y = OPS[op](x)
        return y.detach(), torch.autograd.grad(y.square().sum(), x)[0]

    ahead = torch.cuda.Stream()
    ahead.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(ahead):  # kernels are compiled before, and not while they are captured
        both()
    torch.cuda.current_stream().wait_stream(ahead)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    with torch.no_grad():
        x.copy_(drawn(2, 64, 3).flip(1))
    graph.replay()
    for actual, expected in zip(captured, both(), strict=True):
        assert torch.equal(actual, expected)
