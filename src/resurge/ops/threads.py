"""Runs CPU kernels on as many threads as PyTorch uses, without a second OpenMP runtime beside PyTorch's.

The kernels release the GIL and work on a box (rows b0..b1, channels d0..d1) of their arrays, so a small pool
of Python threads serves. Idle threads sleep; a pool that spins would fight PyTorch's for the same cores.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch

_pool: ThreadPoolExecutor | None = None
_pool_size = 0

# Below this many elements, handing a box to another thread costs more than it saves (about 50 µs).
_SERIAL_ELEMENTS = 1 << 15


def _forget_pool() -> None:
    global _pool, _pool_size
    _pool, _pool_size = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # a forked child inherits the object, but none of its threads


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size < count:
        _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="resurge"), count
    return _pool


def boxes(rows: int, channels: int, parts: int, *, whole_rows: bool = False) -> list[tuple[int, int, int, int]]:
    """Cut (rows, channels) into about `parts` boxes (b0, b1, d0, d1): rows first, since they lie apart in memory.

    With `whole_rows`, every box has all rows.
    """
    row_parts = 1 if whole_rows else min(rows, parts)
    channel_parts = min(-(-parts // row_parts), max(1, channels // 16))
    row_cuts = [rows * i // row_parts for i in range(row_parts + 1)]
    channel_cuts = [channels * i // channel_parts for i in range(channel_parts + 1)]
    return [(b0, b1, d0, d1) for b0, b1 in pairwise(row_cuts) for d0, d1 in pairwise(channel_cuts)]


def run(
    kernel: Callable[..., None],
    arguments: tuple[Any, ...],
    rows: int,
    channels: int,
    elements: int,
    *,
    whole_rows: bool = False,
) -> None:
    """Call `kernel(*arguments, b0, b1, d0, d1)` on boxes that together cover (rows, channels)."""
    threads = torch.get_num_threads() if elements > _SERIAL_ELEMENTS else 1
    first, *others = boxes(rows, channels, threads, whole_rows=whole_rows)
    futures = [_workers(len(others)).submit(kernel, *arguments, *box) for box in others]
    kernel(*arguments, *first)
    for future in futures:
        future.result()
