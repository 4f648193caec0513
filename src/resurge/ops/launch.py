"""Launches Triton kernels with the parameters of a checked-in table, so that no user's first call searches for them.

`launch.json` gives each kernel its block sizes, warps and stages. `python -m benchmarks tune`, on a GPU, measures the
alternatives and writes the table anew.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

TABLE = Path(__file__).with_name("launch.json")
_recorded: "list[Launch] | None" = None


class Launch(NamedTuple):
    """A kernel, what it was called with, and the compile-time constants."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


@cache
def table() -> dict[str, dict[str, int]]:
    """The parameters of every kernel, by its name."""
    parameters: dict[str, dict[str, int]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return parameters


def launch(kernel: Any, grid: Callable[[dict[str, int]], int], *arguments: Any, **constants: Any) -> None:
    """Run `kernel` on `grid(parameters)` programs along one axis, which has no limit below 2^31.

    `constants` are compile-time constants beside those of the table.
    """
    parameters = table()[kernel.fn.__name__]
    if _recorded is not None:
        _recorded.append(Launch(kernel, arguments, {**constants, **parameters}))
        return
    kernel[(grid(parameters),)](*arguments, **constants, **parameters)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Inside, kernels are written down and not run: what ahead-of-time compilation starts from."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def chunks(programs: int, T: int, device: torch.device, smallest: int = 256) -> int:
    """Into how many pieces to cut T steps so that `programs` times as many programs fill the device.

    A piece has `smallest` steps or more. Pieces are read twice, which costs more than a device that is not quite full:
    from three programs for two processors on, there is one piece.
    """
    if device.type != "cuda":
        return max(1, min(4 // programs, T // 4))  # the interpreter: enough to test the cutting
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    if 2 * programs >= 3 * processors:
        return 1
    return max(1, min(8 * processors // programs, T // smallest))
