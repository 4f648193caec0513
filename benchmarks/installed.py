"""Against JAX on the CPU, each package in a process of its own, and as its users have it.

The other benchmarks lend JAX a memory setting (`timing.keep_freed_memory`), without which page faults are most of its
time. Here it is as `pip` installed it, and we are as in `resurge fit`. Processes take turns, and a process tells the
median of its calls, which follow each other as in training: no other package's threads are there to be waited for.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import results, train
from benchmarks.catalogue import OPS
from benchmarks.contestants import Sizes, eager
from benchmarks.op import as_peers_take_it, draw
from benchmarks.ops import OURS, PASSES
from benchmarks.timing import in_new_process, in_words, machine
from resurge.layers import LRU
from resurge.memory import reuse_freed_memory

JAX = "JAX associative_scan"
SIZES = Sizes(8, 2048, 256)
CLASSIFIER = "LRU classifier, training step"
FORMS = ("diagonal", "diagonal_complex")
WORK = (*(f"{op} {tuple(SIZES)}, {direction}" for op in FORMS for direction in PASSES), CLASSIFIER)


def call(who: str, what: str) -> Callable[[], object]:
    """What is timed: a piece of `WORK` as `who` does it."""
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    if what == CLASSIFIER:
        x, y = torch.randn(train.B, train.T, 1), torch.randint(train.CLASSES, (train.B,))
        if who == JAX:
            return train.jax_step(x, y)
        return train.training_step(lambda: LRU(train.D, train.N, r_min=0.9, r_max=0.999), x, y)
    name, direction = what.split(" ", 1)[0], what.rsplit(", ", 1)[1]
    op = OPS[name]
    given = draw(op, SIZES, cpu, torch.float32)
    contestant = op.peers[JAX].make(as_peers_take_it(op, given)) if who == JAX else eager(op.call, given)
    return contestant.forward if direction == PASSES[0] else contestant.both


def seconds(who: str, what: str, calls: int) -> float:
    """The median of several calls, after two to warm up; in this process."""
    if who == OURS:
        reuse_freed_memory()
    work, times = call(who, what), []
    for i in range(calls + 2):
        start = time.perf_counter()
        work()
        times += [time.perf_counter() - start] * (i >= 2)
    return statistics.median(times)


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Milliseconds of both, and the ratio: of the medians, and the lowest and the highest of two processes in turn."""
    lines = [["ms", "ours", "JAX", "JAX over ours", "lowest", "highest"]]
    for row in rows:
        times = [f"{row[who] * 1e3:.3g}" for who in ("ours", "jax")]
        lines.append(
            [row["what"], *times, *(f"{v:.1f}" for v in (row["ratio"], min(row["ratios"]), max(row["ratios"])))]
        )
    return lines


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks installed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the JSON")
    arguments = parser.parse_args(words)
    told = machine()
    print(in_words(told))
    rows: list[dict[str, Any]] = []
    for what in WORK:
        calls = 5 if what == CLASSIFIER else 15
        times = {who: [0.0] * arguments.rounds for who in (OURS, JAX)}
        for i in range(arguments.rounds):
            for who in times:
                times[who][i] = in_new_process("installed", f"seconds({who!r}, {what!r}, {calls})")
        ours, theirs = (statistics.median(times[who]) for who in times)
        ratios = [b / a for a, b in zip(*times.values(), strict=True)]
        rows.append({"what": what, "ours": ours, "jax": theirs, "ratio": theirs / ours, "ratios": ratios})
        print(f"{what}: {theirs / ours:.1f}", flush=True)
    print(results.plain(table(rows)))
    print(results.write(arguments.out, "installed", {"machine": told, "rounds": arguments.rounds, "rows": rows}))
