"""The diagonal scan's time against T at constant B T D, T from 512 to 1M, all lengths in turn.

`ops` times one length after the other, minutes apart, and compares contestants. Here lengths are compared, and they
share each minute. On the CPU, the pages that a process is given decide on a tenth of a length's time: several processes
measure all lengths, and the median of theirs is told.

Coefficients that vary are drawn anew at each step, so that states fade within hundreds of them. The slow forms have
coefficients a hundred times as close to 1, and no state fades within a piece of a row.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.catalogue import OPS
from benchmarks.contestants import Problem, Sizes, eager
from benchmarks.op import draw
from benchmarks.ops import LIMIT, PASSES, STEPS, copying, kind
from benchmarks.timing import in_new_process, in_words, interleaved, keep_freed_memory, machine, waiter

LENGTHS = tuple(T for T in STEPS if T >= 512)
FORMS = tuple(name for name in OPS if name.startswith("diagonal"))
SLOW = ", slow"
EVERY = (*FORMS, *(name + SLOW for name in FORMS if not name.endswith("constant")))


def slow(problem: Problem) -> Problem:
    """The same with (1 - |a|) / 100 in the place of 1 - |a|."""
    a, *others = problem.arguments
    radius = a.norm(dim=-2, keepdim=True) if a.dim() == 4 else a
    nearer = (a * ((1 - 0.01 * (1 - radius)) / radius)).detach().requires_grad_()
    return Problem((nearer, *others), problem.gradient)


def measured(name: str, dtype_name: str, numbers: int, device_name: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each direction: seconds of a copy of as many bytes and, by T, of the op; in this process."""
    keep_freed_memory()
    op, dtype, device = OPS[name.removesuffix(SLOW)], getattr(torch, dtype_name), torch.device(device_name)
    numbers //= op.parts
    sizes = [Sizes(numbers // (T * D), T, D) for T in LENGTHS for D in [min(256, numbers // T)]]
    change = slow if name.endswith(SLOW) else lambda problem: problem
    problems = {size.T: eager(op.call, change(draw(op, size, device, dtype))) for size in sizes}
    rows = []
    for direction, moved in zip(PASSES, op.moved(sizes[0]), strict=True):
        calls = {str(T): p.forward if direction == PASSES[0] else p.both for T, p in problems.items()}
        limit = copying(moved * dtype.itemsize, device)
        seconds = interleaved({LIMIT: limit, **calls}, rounds, wait=waiter(device), rest=0)
        copied = seconds.pop(LIMIT)
        rows.append({"op": name, "dtype": kind(dtype), "direction": direction, "copy": copied, "seconds": seconds})
    return rows


def median(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the rows of several processes, which are alike but for the seconds."""
    copied = statistics.median(row["copy"] for row in rows)
    seconds = {T: statistics.median(row["seconds"][T] for row in rows) for T in rows[0]["seconds"]}
    return rows[0] | {"copy": copied, "seconds": seconds, "processes": [row["seconds"] for row in rows]}


def spread(seconds: dict[str, float]) -> float:
    """The slowest time over the fastest, less 1."""
    return max(seconds.values()) / min(seconds.values()) - 1


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Milliseconds by T, and how far they lie apart."""
    lines = [["ms", "", "copy", *(f"T = {results.power(T)}" for T in LENGTHS), "slowest over fastest, less 1"]]
    for row in rows:
        times = [f"{seconds * 1e3:.3g}" for seconds in (row["copy"], *row["seconds"].values())]
        lines.append([f"{row['op']}, {row['dtype']}", row["direction"], *times, f"{spread(row['seconds']):.0%}"])
    return lines


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks lengths", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default the GPU if there is one")
    parser.add_argument("--op", choices=EVERY, action="append", help="only this op; may be given several times")
    parser.add_argument("--numbers", type=int, help="B T D; by default 2^24 on the CPU, 2^28 on a GPU")
    parser.add_argument("--processes", type=int, help="by default 7 on the CPU, 1 on a GPU")
    parser.add_argument("--rounds", type=int, default=15, help="of each process")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the JSON")
    arguments = parser.parse_args(words)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = device.type == "cuda"
    processes = arguments.processes or (1 if gpu else 7)
    reused, told = keep_freed_memory(), machine(device)
    print(in_words(told))
    rows: list[dict[str, Any]] = []
    for name in arguments.op or EVERY:
        for dtype in ("float32", "bfloat16") if gpu else ("float32",):
            given = (name, dtype, arguments.numbers or 1 << (28 if gpu else 24), device.type, arguments.rounds)
            if processes > 1:
                each = [in_new_process("lengths", f"measured{given!r}") for _ in range(processes)]
            else:
                each = [measured(*given)]
            rows += [median([rows[i] for rows in each]) for i in range(len(PASSES))]
            print(results.plain(table(rows[-len(PASSES) :])), flush=True)
    print(results.plain(table(rows)))
    measured_here = {
        "machine": told,
        "rounds": arguments.rounds,
        "processes": processes,
        "freed_memory_reused": reused,
        "rows": rows,
    }
    print(results.write(arguments.out, f"lengths-{device.type}", measured_here))
