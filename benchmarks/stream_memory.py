"""Resident memory of `resurge predict RUN --stream` over a million steps: after the first 1,000 it must not grow.

The command runs as a process of its own, which is fed through a pipe and answers after every step. What it takes is
read from /proc, so this needs Linux.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

ALLOWED = 1 << 20  # bytes
_AT_ONCE = 500  # steps written before their answers are read: less than a pipe holds


class Measured(NamedTuple):
    """Resident bytes after the first 1,000 steps and after the last, and steps a second in between."""

    first: int
    last: int
    rate: float


def untrained(path: Path, *, d_model: int = 64, depth: int = 2) -> Path:
    """A run folder with a small LRU classifier of one channel, its weights as they were drawn."""
    from resurge import recipes
    from resurge.data import InputSpec
    from resurge.training import build_model
    from resurge.training.checkpoint import write_weights
    from resurge.training.runs import write_config

    experiment = recipes.override(recipes.get("lru/digits"), model__d_model=d_model, model__depth=depth)
    classes = [str(i) for i in range(10)]
    spec = InputSpec("values", 1, "class", 10, mean=[0.0], std=[1.0], classes=classes)
    torch.manual_seed(0)
    path.mkdir(parents=True, exist_ok=True)
    write_config(path, "lru/digits", experiment, spec)
    write_weights(path / "model.safetensors", build_model(experiment.model, spec).state_dict())
    return path


def measure(run: Path, steps: int) -> Measured:
    """Stream `steps` steps, a multiple of 500 above 1,000, through the command."""
    command = [sys.executable, "-m", "resurge", "predict", str(run), "--stream"]
    piece = b"".join(b"%.3f\n" % (step % 17 / 17) for step in range(_AT_ONCE))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first = started = 0.0
        for done in range(_AT_ONCE, steps + 1, _AT_ONCE):
            process.stdin.write(piece)
            process.stdin.flush()
            for _ in range(_AT_ONCE):
                if not process.stdout.readline():
                    raise RuntimeError(f"the stream ended after {done} steps")
            if done == 1000:
                first, started = _resident(process.pid), time.perf_counter()
        last, rate = _resident(process.pid), (steps - 1000) / (time.perf_counter() - started)
        process.stdin.close()
    return Measured(int(first), last, rate)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks stream_memory", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--run", type=Path, help="a run of one channel; by default a small LRU classifier")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments.run or untrained(Path(folder) / "run"), arguments.steps)
    grown = measured.last - measured.first
    print(f"{arguments.steps:,} steps at {measured.rate:,.0f} steps/s")
    print(f"resident after 1,000 steps {measured.first / 2**20:.2f} MiB, at the end {measured.last / 2**20:.2f} MiB")
    print(f"grown by {grown / 2**20:.3f} MiB; allowed {ALLOWED / 2**20:g} MiB")
    print(json.dumps({"steps": arguments.steps, "grown_bytes": grown, **measured._asdict()}))
    if grown >= ALLOWED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
