"""Arrays of more than 2^31 numbers: what is computed of the last row, where an offset of 32 bits would have wrapped.

The arrays are never filled: only the pages of the last row are ever touched, by running its part of the kernel alone.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge.dispatch import interpreted
from resurge.ops import bidirectional_scan, diagonal_scan, selective_scan, short_conv, softmax_scan

T, D = 128, 1024
B = (1 << 31) // (T * D) + 1
OPS = ("diagonal", "bidirectional", "short_conv", "softmax_scan", "selective_scan")
A = 0.1 + 0.8 * torch.rand(D, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _untouched_memory() -> Iterator[None]:
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


def large(seed: int, dtype: torch.dtype) -> Tensor:
    """(B, T, D) numbers, drawn in the last row only."""
    try:
        whole = torch.empty(B, T, D, dtype=dtype)
    except RuntimeError as error:  # a machine that promises no more memory than it has
        pytest.skip(str(error))
    whole[-1] = torch.randn(T, D, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return whole


@contextmanager
def last_programs(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[None]:
    """Of every kernel launched inside, run the last `count` programs."""
    launched = importlib.import_module("resurge.ops.launch")
    builder = importlib.import_module("triton.runtime.interpreter").interpreter_builder

    def launch(kernel: Any, grid: Callable[[dict[str, int]], int], *arguments: Any, **constants: Any) -> None:
        parameters = launched.table()[kernel.fn.__name__]
        programs = grid(parameters)

        def place(x: int, y: int, z: int) -> None:
            builder.grid_idx = (programs - count + x, y, z)

        with monkeypatch.context() as patch:
            patch.setattr(builder, "set_grid_idx", place)
            kernel[(count,)](*arguments, **constants, **parameters)

    with monkeypatch.context() as patch:
        for op in OPS:
            patch.setattr(importlib.import_module(f"resurge.ops.{op}.gpu"), "launch", launch)
        yield


@contextmanager
def last_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of every CPU kernel run inside, work on the last row."""

    def run(kernel: Callable[..., None], arguments: tuple[Any, ...], rows: int, channels: int, elements: int) -> None:
        kernel(*arguments, rows - 1, rows, 0, channels)

    with monkeypatch.context() as patch:
        for op in OPS:
            patch.setattr(importlib.import_module(f"resurge.ops.{op}.cpu"), "run", run)
        yield


def compare(dtype: torch.dtype, channels: slice) -> None:
    """Both ways of the scan, and the gradients of its inputs, against the last row alone in float64."""
    x, d_ahead, d_back = (large(seed, dtype) for seed in range(3))
    a = A[None, None].to(torch.float32)
    ahead, back = bidirectional_scan(a[0, 0], x)
    alone = diagonal_scan(a[0, 0], x, reverse=True)[0][-1, :, channels]
    _, dx = torch.ops.resurge.bidirectional_scan_backward(a, ahead, back, None, None, d_ahead, d_back)
    with resurge.backend("reference"):
        wide = x[-1:].double().requires_grad_()
        wanted = bidirectional_scan(a[0, 0].double(), wide)
        (gradient,) = torch.autograd.grad(wanted, wide, [d_ahead[-1:].double(), d_back[-1:].double()])
    assert_close(ahead[-1, :, channels], wanted[0][0, :, channels], dtype, "ahead")
    assert_close(back[-1, :, channels], wanted[1][0, :, channels], dtype, "back")
    assert_close(alone, wanted[1][0, :, channels], dtype, "diagonal_scan")
    assert_close(dx[-1, :, channels], gradient[0, :, channels], dtype, "dx")


def compare_forward(dtype: torch.dtype, channels: slice) -> None:
    """The other ops' results."""
    x, step = large(0, dtype), large(1, dtype)
    step[-1].abs_()
    generator = torch.Generator().manual_seed(2)
    weight, A_log = torch.randn(D, 4, generator=generator), torch.rand(D, 4, generator=generator)
    maps = torch.randn(2, B, T, 4, generator=generator).to(dtype)
    narrow, wide = ((x, step, maps[0], maps[1]), [v[-1:].double() for v in (x, step, maps[0], maps[1])])
    for name, call in {
        "short_conv": lambda x, _, b, c, real: short_conv(x, real(weight)),
        "softmax_scan": lambda x, step, b, c, real: softmax_scan(step, x, real(A)),
        "selective_scan": lambda x, step, b, c, real: selective_scan(x, step, -real(A_log), b, c),
    }.items():
        y = call(*narrow, torch.Tensor.float)[0]
        with resurge.backend("reference"):
            wanted = call(*wide, torch.Tensor.double)[0]
        assert_close(y[-1, -16:, channels], wanted[0, -16:, channels], dtype, name)  # the last program may start late


@pytest.mark.skipif(not interpreted(), reason="single programs run in Triton's interpreter only")
def test_offsets_of_triton_kernels_have_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    with last_programs(monkeypatch, 1), resurge.backend("triton"):
        compare(torch.bfloat16, slice(D - 128, D))
        compare_forward(torch.bfloat16, slice(D - 8, D))


def test_offsets_of_numba_kernels_have_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    with last_row(monkeypatch):
        compare(torch.float32, slice(None))
        compare_forward(torch.float32, slice(D - 64, D))
