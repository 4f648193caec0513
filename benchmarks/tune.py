"""Refreshes the table of launch parameters of the Triton kernels, on the GPU that it runs on.

For every kernel that the ops launch, forward and backward, block sizes and warps are tried one after the other, the
others kept, and the fastest stays. The time is that of whole calls, of all ops that launch the kernel and of both
types of inputs, with many rows and with one long row, which is cut in pieces; a kernel that does not fit the chip
counts as infinitely slow. Without `--write` nothing is changed.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import results
from benchmarks.catalogue import OPS
from benchmarks.contestants import Contestant, Problem, Sizes, eager, in_short
from benchmarks.entries import bidirectional
from benchmarks.op import Draw, Op, arrays, draw
from benchmarks.timing import in_words, interleaved, machine, waiter
from resurge.ops import lem_scan, sigmoid_scan
from resurge.ops.launch import TABLE, recording, table

CANDIDATES = {
    "BLOCK_D": (32, 64, 128, 256, 512),
    "UNROLL": (1, 2, 4, 8, 16),
    "STEPS": (16, 32, 64, 128, 256),
    "PAIRS": (64, 128, 256, 512, 1024),
    "BLOCK": (16, 32, 64, 128),
    "num_warps": (1, 2, 4, 8),
}
DTYPES = (torch.float32, torch.bfloat16)
LONG = Sizes(1, 1 << 16, 256)  # one row, so that time is cut
DENSE = Sizes(128, 256, 256)  # the steps of these ops follow each other, a program a row


def _dense(call: Callable[..., Tensor], widths: tuple[int, ...]) -> Op:
    """An op of inputs (B, T, widths[0] D) and weights (widths[i] D, D)."""

    def make(sizes: Sizes, draw: Draw) -> Problem:
        B, T, D = sizes
        weights = (draw.normal(width * D, D) / math.sqrt(D) for width in widths[1:])
        return Problem((draw.normal(B, T, widths[0] * D), *weights), draw.normal(*sizes))

    return Op("", make, call, arrays(0, 0), {})


def _lem(p: Tensor, R: Tensor, C: Tensor) -> Tensor:
    return torch.add(*lem_scan(p, R, C, p.new_full(p.shape[:2], 0.1)))


# Ops that are timed here only
ONE_BY_ONE = {"lem_scan": _dense(_lem, (4, 3, 1)), "sigmoid_scan": _dense(sigmoid_scan, (1, 1))}


def problems() -> Iterator[tuple[str, Op, Sizes]]:
    """All that is timed: together, every kernel is launched."""
    for name, op in (OPS | bidirectional.OPS).items():
        yield name, op, Sizes((1 << 26) // op.parts // (2048 * 256), 2048, 256)
        yield name, op, LONG
    for name, op in ONE_BY_ONE.items():
        yield name, op, DENSE


def fastest(parameters: dict[str, int], seconds: Callable[[dict[str, int]], float]) -> dict[str, int]:
    """The parameters, each in turn replaced by the candidate of the least time."""
    best = dict(parameters)
    for name in parameters.keys() & CANDIDATES.keys():
        tried = {value: seconds({**best, name: value}) for value in {*CANDIDATES[name], best[name]}}
        best[name] = min(tried, key=lambda value: tried[value])
    return best


def launched(contestant: Contestant) -> set[str]:
    """The names of the kernels that a contestant launches, forward and backward; none of them runs."""
    with recording() as launches:
        contestant.both()
    return {launch.kernel.fn.__name__ for launch in launches}


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tune", description=__doc__)
    parser.add_argument("--kernel", choices=table(), action="append", help="only this kernel")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    arguments = parser.parse_args(words)
    if not torch.cuda.is_available():
        parser.error("there is no GPU to tune for")
    device = torch.device("cuda")
    print(in_words(machine(device)))
    for kernel in arguments.kernel or list(table()):
        contestants = {}
        for name, op, sizes in problems():
            for dtype in DTYPES:
                contestant = eager(op.call, draw(op, sizes, device, dtype))
                if kernel in launched(contestant):
                    contestants[f"{name} {tuple(sizes)}, {dtype}"] = contestant.both

        def seconds(parameters: dict[str, int], kernel: str = kernel, calls: dict = contestants) -> float:  # type: ignore[type-arg]
            """The geometric mean over all calls."""
            table()[kernel] = parameters
            try:
                found = interleaved(calls, 5, wait=waiter(device)).values()
            except Exception as error:  # too many registers, or too much shared memory
                print(f"  {parameters}: {in_short(error)}")
                return math.inf
            mean = math.exp(sum(map(math.log, found)) / len(found))
            print(f"  {parameters}: {mean * 1e3:.3f} ms", flush=True)
            return mean

        print(f"{kernel}, in {', '.join(contestants)}")
        if contestants:
            table()[kernel] = fastest(table()[kernel], seconds)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in table().items())
    text = f"{{\n{lines}\n}}\n"
    print(text)
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")
        print(TABLE.relative_to(results.ROOT))
