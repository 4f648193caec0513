"""The first call of each CPU kernel in a new process, and what an import brings.

Kernels are compiled once and kept on disk; a later process loads them. Each op runs once before, so that the disk
cache is filled. Then new processes time the first forward and the first backward call of one small problem, with
nothing imported but the op, and again with numba and `torch._dynamo` imported before: the differences tell where the
time of the first goes.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.timing import in_words, machine

ALLOWED = 0.5  # seconds
_SMALL = (2, 64, 32)
_BEFORE = {"nothing": "pass", "numba": "import numba", "numba and torch._dynamo": "import numba, torch._dynamo"}

_CHILD = """
import json, sys, time
import torch
from benchmarks.catalogue import OPS
from benchmarks.op import draw
from benchmarks.contestants import Sizes
import resurge.layers
early = [name for name in ("numba", "triton", "torch._dynamo") if name in sys.modules]
op = OPS[{op!r}]
given = draw(op, Sizes(*{sizes}), torch.device("cpu"), torch.float32)
{before}
one = torch.ones(2, requires_grad=True)
torch.autograd.grad(2 * one, one, torch.ones(2))  # PyTorch imports sympy at the first such call of any program
start = time.perf_counter()
output = op.call(*given.arguments)
middle = time.perf_counter()
torch.autograd.grad(output, given.arguments, given.gradient)
end = time.perf_counter()
compiled = 0
for name, module in list(sys.modules.items()):
    if name.startswith("resurge.ops."):
        for value in list(vars(module).values()):
            if hasattr(value, "stats") and hasattr(value, "py_func"):
                compiled += sum(value.stats.cache_misses.values())
print(json.dumps({{"forward": middle - start, "backward": end - middle, "early": early, "compiled": compiled}}))
"""


def first_call(op: str, before: str = "pass") -> dict[str, Any]:
    """Seconds of the first forward and backward call, what was imported early, and how many kernels were compiled."""
    code = _CHILD.format(op=op, sizes=_SMALL, before=before)
    done = subprocess.run([sys.executable, "-c", code], cwd=results.ROOT, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main(words: list[str]) -> None:
    from benchmarks.catalogue import OPS

    parser = argparse.ArgumentParser(prog="python -m benchmarks first_call", description=__doc__)
    parser.add_argument("--op", choices=OPS, action="append", help="only this op; may be given several times")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the JSON")
    arguments = parser.parse_args(words)
    rows = []
    table = [["first call, seconds", "imported before", "forward", "backward", "sum", "compiled"]]
    for op in arguments.op or OPS:
        first_call(op)
        for before, statement in _BEFORE.items():
            told = [first_call(op, statement) for _ in range(arguments.rounds)]
            forward, backward = (statistics.median(t[name] for t in told) for name in ("forward", "backward"))
            row = {"op": op, "before": before, "forward": forward, "backward": backward} | {
                "early": told[0]["early"], "compiled": told[0]["compiled"]
            }  # fmt: skip
            rows.append(row)
            figures = [f"{value:.3f}" for value in (forward, backward, forward + backward)]
            table.append([op, before, *figures, str(row["compiled"])])
    print(results.plain(table))
    print(f"imported by `import resurge.layers`: {rows[0]['early'] or 'nothing that compiles'}")
    slowest = max(row["forward"] + row["backward"] for row in rows if row["before"] == "nothing")
    print(f"slowest first call {slowest:.2f} s; allowed {ALLOWED} s")
    result = {"machine": machine(), "allowed": ALLOWED, "slowest": slowest, "rows": rows}
    print(results.write(arguments.out, "first_call", result), in_words(result["machine"]), sep="\n")
