"""Kill a training at random moments, resume it each time, and compare what it leaves with an uninterrupted one.

A script too, for more kills than a test has time for:

    python tests/killing.py --kills 20
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Moments in the writing of a file at which a process may kill itself: half-way through the bytes, before the new file
# takes its name, and just after.
WRITE_STAGES = ("half", "before", "after")


def experiment() -> Any:
    """A tiny run with all that has a state: dropout, batch norm, accumulation, validations, checkpoints, patience."""
    from resurge import recipes

    return recipes.override(
        recipes.get("lru/digits"),
        model__d_model=8,
        model__depth=1,
        model__dropout=0.2,
        train__accumulate=2,
        train__epochs=1,
        train__max_steps=40,
        train__batch_size=48,  # 27 batches an epoch: accumulation crosses the border between epochs
        train__val_steps=8,
        train__eval_batch_size=16,
        train__log_steps=3,
        train__checkpoint_steps=5,
        train__patience=30,
    )


def child(out: str, write: tuple[int, str] | None) -> None:
    """Train in a process of its own. `write` = (n, stage): the process kills itself in the n-th file that it writes."""
    import torch

    from resurge.training import fit

    torch.set_num_threads(1)
    if write is not None:
        _die_while_writing(*write)
    fit("lru/digits", experiment(), out, resume=True, progress=False, device="cpu")


def _die_while_writing(number: int, stage: str) -> None:
    from resurge import files

    replace, fsync = os.replace, os.fsync
    seen = 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        atomic = os.readlink(f"/proc/self/fd/{descriptor}").endswith(".tmp")  # metrics.csv is synced too, as it grows
        if atomic and seen == number and stage == "half":
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()

    def rename(source: Any, target: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number and stage == "before":
            die()
        replace(source, target)
        if seen == number and stage == "after":
            die()

    files.os.fsync, files.os.replace = sync, rename  # type: ignore[assignment]


def context() -> Any:
    """Processes that start from one which has imported everything, so that a kill costs no seconds."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["torch", "lightning", "sklearn.datasets", "resurge.training.loop", "killing"])
    return found


def run_killed(out: Path, kills: int, seed: int, *, report: bool = False) -> int:
    """Train into `out`, killing the process until it has died `kills` times; then let it end. The number of kills."""
    processes, chance = context(), random.Random(seed)
    whole = out.with_name(out.name + "-whole")
    for _ in range(2):  # the first process waits for the server to start: the second tells how long a run takes
        start = time.monotonic()
        if whole.exists():
            _clear(whole)
        assert _end(processes, whole) == 0
    length = time.monotonic() - start
    killed = attempts = 0
    while killed < kills:
        attempts += 1
        assert attempts < 10 * kills, "the run ends before it can be killed"
        write = (chance.randint(1, 6), chance.choice(WRITE_STAGES)) if chance.random() < 0.4 else None
        process = processes.Process(target=child, args=(str(out), write))
        process.start()
        if write is None:
            process.join(chance.uniform(0.05, 0.9) * length)
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"a resumed run failed with {process.exitcode}"
        killed += process.exitcode != 0
        if report:
            print(f"{killed:3} {write or 'at a random moment'}  {position(out)}", flush=True)
        if process.exitcode == 0 and killed < kills:  # it came to its end: start another one, keep what this one gave
            compare(whole, out)
            _clear(out)
    assert _end(processes, out) == 0
    compare(whole, out)
    return killed


def _end(processes: Any, out: Path) -> int | None:
    """Train to the end; the exit code."""
    process = processes.Process(target=child, args=(str(out), None))
    process.start()
    process.join()
    code: int | None = process.exitcode
    return code


def _clear(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def position(out: Path) -> str:
    """Where a killed run will go on from."""
    from resurge.training.checkpoint import read

    path = out / "checkpoint.safetensors"
    if not path.exists():
        return "no checkpoint yet"
    progress = read(path)["progress"]
    return f"batch {progress['batches']}, validated at step {progress['validated']}"


def table(path: Path) -> list[dict[str, str]]:
    """metrics.csv without what depends on the clock."""
    with path.open() as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in csv.DictReader(file)
        ]


def compare(whole: Path, killed: Path) -> None:
    """Assert that two runs left the same: every bit of weights and optimiser, every metric."""
    from resurge.training.checkpoint import pack, read

    for name in ("initial.safetensors", "model.safetensors", "config.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    ends = [read(path / "checkpoint.safetensors") for path in (whole, killed)]
    for end in ends:
        end["progress"].pop("seconds")
    assert pack(ends[0]) == pack(ends[1]), "checkpoint.safetensors"
    assert table(killed / "metrics.csv") == table(whole / "metrics.csv")
    results = [json.loads((path / "results.json").read_text()) for path in (whole, killed)]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1], "results.json"
    assert not list(killed.glob(".*.tmp")), "a temporary file is left"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.modules["killing"] = sys.modules["__main__"]
    with tempfile.TemporaryDirectory() as folder:
        count = run_killed(Path(folder) / "run", arguments.kills, arguments.seed, report=True)
    print(f"killed {count} times; weights, optimiser and metrics equal the uninterrupted run's, bit for bit")
