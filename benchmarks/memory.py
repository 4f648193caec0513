"""Peak memory of each op on the CPU, forward and backward, by the resident set of a fresh process for each size.

The kernel keeps a process' peak (`ru_maxrss`). What is told is its growth over a first, tiny call: arguments, output,
gradients and all that lies between them. An op whose state were written out would need B T D N numbers; what it should
need is a multiple of the numbers that go in, which is what the last column counts.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.catalogue import OPS, STATES
from benchmarks.contestants import Sizes
from benchmarks.timing import in_words, machine

SIZES = (Sizes(1, 4096, 256), Sizes(1, 16384, 256), Sizes(4, 4096, 256), Sizes(1, 4096, 1024))

_CHILD = """
import resource
import torch
from benchmarks.catalogue import op_named
from benchmarks.op import draw
from benchmarks.contestants import Sizes
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def run(sizes):
    given = draw(op, sizes, torch.device("cpu"), torch.float32)
    torch.autograd.grad(op.call(*given.arguments), given.arguments, given.gradient)
    return sum(v.numel() for v in given.arguments)
op = op_named({op!r})
run(Sizes(2, 16, 32))
before = peak()
numbers = run(Sizes(*{sizes}))
print(peak() - before, numbers)
"""


def peak(op: str, sizes: Sizes) -> tuple[int, int]:
    """(bytes, numbers in the arguments) of one forward and backward call."""
    code = _CHILD.format(op=op, sizes=tuple(sizes))
    done = subprocess.run([sys.executable, "-c", code], cwd=results.ROOT, capture_output=True, text=True, check=True)
    grown, numbers = done.stdout.split()
    return int(grown), int(numbers)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--op", choices=OPS, action="append", help="only this op; may be given several times")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the JSON")
    arguments = parser.parse_args(words)
    rows: list[dict[str, Any]] = []
    table = [["op", "B", "T", "D", "N", "peak MiB", "numbers in, MiB", "times the numbers in"]]
    for name in arguments.op or OPS:
        for N in STATES.get(name, [None]):
            for sizes in SIZES:
                grown, numbers = peak(name if N is None else f"{name}:{N}", sizes)
                row = {"op": name, **sizes._asdict(), "N": N, "peak": grown, "numbers": numbers}
                row["times"] = grown / (4 * numbers)
                rows.append(row)
                state = "-" if N is None else str(N)
                figures = [f"{grown / 2**20:.0f}", f"{numbers * 4 / 2**20:.0f}", f"{row['times']:.1f}"]
                table.append([name, *map(str, sizes), state, *figures])
    print(results.plain(table))
    result: dict[str, Any] = {"machine": machine(), "rows": rows}
    print(results.write(arguments.out, "memory", result), in_words(result["machine"]), sep="\n")
