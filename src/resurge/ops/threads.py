"""Runs CPU kernels on PyTorch's own threads.

The kernels release the GIL and work on a box (rows b0..b1, channels d0..d1) of their arrays. PyTorch's OpenMP threads
spin for some milliseconds after each of its operations; threads of our own would have to share the cores with them. So
the boxes are handed to that same team: through `GOMP_parallel`, which is what a compiled `#pragma omp parallel` calls.
Where PyTorch came with another OpenMP runtime, a small pool of sleeping Python threads serves.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_Box = tuple[int, int, int, int]
_forked = False
_pool: ThreadPoolExecutor | None = None
_pool_size = 0

# Below this many elements, handing a box to another thread costs more than it saves (about 50 µs).
_SERIAL_ELEMENTS = 1 << 15


def _forget_threads() -> None:
    global _forked, _pool, _pool_size
    _forked, _pool, _pool_size = True, None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)  # a forked child inherits the objects, but no threads


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size < count:
        _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="resurge"), count
    return _pool


@cache
def _team() -> Any:
    """GOMP_parallel of the runtime that PyTorch runs on, or None."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if len(found) != 1 or "OpenMP" not in torch.__config__.parallel_info():
        return None
    library = ctypes.CDLL(str(found[0]))  # the copy that is loaded already
    return library.GOMP_parallel


_Job = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _on_team(call: Callable[[_Box], None], cut: Sequence[_Box]) -> None:
    parallel = _team()
    todo, failures = list(cut), []

    def job(_: object) -> None:
        while True:  # a team may turn out smaller than asked for
            try:
                box = todo.pop()
            except IndexError:
                return
            try:
                call(box)
            except BaseException as error:
                failures.append(error)

    parallel(_Job(job), None, len(cut), 0)
    if failures:
        raise failures[0]


def _on_pool(call: Callable[[_Box], None], cut: Sequence[_Box]) -> None:
    first, *others = cut
    futures = [_workers(len(others)).submit(call, box) for box in others]
    call(first)
    for future in futures:
        future.result()


def flat(tensor: Tensor | None) -> np.ndarray:
    """The numbers of a tensor for a kernel, in their own memory if they lie in order; None is an empty mask."""
    array: np.ndarray = (
        (torch.empty(0, dtype=torch.bool) if tensor is None else tensor.detach().contiguous()).view(-1).numpy()
    )
    return array


def boxes(rows: int, channels: int, parts: int) -> list[_Box]:
    """Cut (rows, channels) into about `parts` boxes (b0, b1, d0, d1): rows first, since they lie apart in memory."""
    row_parts = min(rows, parts)
    channel_parts = min(-(-parts // row_parts), max(1, channels // 16))
    row_cuts = [rows * i // row_parts for i in range(row_parts + 1)]
    channel_cuts = [channels * i // channel_parts // 16 * 16 for i in range(channel_parts)] + [channels]
    return [(b0, b1, d0, d1) for b0, b1 in pairwise(row_cuts) for d0, d1 in pairwise(channel_cuts)]


_DENORMAL = np.float32(1e-30), np.float32(1e-10)  # their product is one


@contextmanager
def no_denormals() -> Iterator[None]:
    """Denormal numbers are 0 in this thread, where the processor can be told so: x86 and ARM."""
    if _DENORMAL[0] * _DENORMAL[1] == 0 or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def flushing(kernel: Callable[..., None]) -> Callable[..., None]:
    """The kernel with numbers below the smallest normal one taken as 0.

    Arithmetic with them is a hundred times slower, and every state that decays comes by there.
    """

    def flushed(*arguments: Any) -> None:
        with no_denormals():
            kernel(*arguments)

    return flushed


def run(
    kernel: Callable[..., None],
    arguments: tuple[Any, ...],
    rows: int,
    channels: int,
    elements: int,
) -> None:
    """Call `kernel(*arguments, b0, b1, d0, d1)` on boxes that together cover (rows, channels)."""
    threads = torch.get_num_threads() if elements > _SERIAL_ELEMENTS else 1
    cut = boxes(rows, channels, threads)

    def call(box: _Box) -> None:
        kernel(*arguments, *box)

    if len(cut) == 1:
        call(cut[0])
    elif _forked or _team() is None:
        _on_pool(call, cut)
    else:
        _on_team(call, cut)
