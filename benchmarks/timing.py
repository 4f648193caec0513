"""Timing of several contestants in turn, so that a slow minute of the machine hits all of them alike."""

import ctypes
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks import results
from resurge.memory import reuse_freed_memory

_ARENA_MAX = -8
_QUEUE = 5e-3  # seconds of work that a GPU is given at once, so that starting the kernels does not count
_MANY = 50


# Threads of another contestant spin for a while after its call, on the cores of the next one.
_REST = 0.03

# A contestant's own threads sleep by then, and may wake up on one core, where the system leaves them for a tick or
# two of 4 ms: a call that is not timed sets them going, where a call is short enough for that to matter.
_SHORT = 0.1


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    wait: Callable[[], None] | None = None,
    patience: float = math.inf,
    warm: bool = False,
    rest: float = _REST,
) -> dict[str, float]:
    """Median seconds of a call of each contestant: two calls to warm up, then `rounds` rounds over all of them.

    `warm`: each was called before, and one call to warm up is enough. `wait` waits for a device that works on its own;
    calls are then timed several at once. Who takes longer than `patience` seconds in the last call to warm up is not
    called again: that time is the result. `rest`: 0 where all contestants run on the same threads.
    """
    slow: dict[str, float] = {}
    repeat: dict[str, int] = {}
    usual: dict[str, float] = {}
    for name, contestant in contestants.items():
        if not warm:
            contestant()
        once = _seconds(contestant, wait, 1, rest)
        if once > patience:
            slow[name] = once
        else:
            usual[name] = once
            repeat[name] = 1 if wait is None else max(1, min(_MANY, math.ceil(_QUEUE / once)))
    times: dict[str, list[float]] = {name: [] for name in repeat}
    for _ in range(rounds):
        for name, count in repeat.items():
            times[name].append(_seconds(contestants[name], wait, count, rest, usual[name]))
    return {name: slow[name] if name in slow else statistics.median(times[name]) for name in contestants}


def _seconds(
    contestant: Callable[[], object], wait: Callable[[], None] | None, count: int, rest: float, once: float = 1
) -> float:
    if wait is not None:
        wait()
    elif rest > 0:
        time.sleep(rest)
        if once < _SHORT:
            contestant()
    start = time.perf_counter()
    for _ in range(count):
        contestant()
    if wait is not None:
        wait()
    return (time.perf_counter() - start) / count


def in_new_process(module: str, call: str) -> Any:
    """What a call of benchmarks.`module` returns in a process of its own, by way of JSON."""
    told = f"print(json.dumps({module}.{call}), flush=True)"
    code = f"import json, os; from benchmarks import {module}; {told}; os._exit(0)"  # some ends of JAX abort
    done = subprocess.run([sys.executable, "-c", code], cwd=results.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def waiter(device: torch.device) -> Callable[[], None] | None:
    """What `interleaved` waits with for this device."""
    return torch.cuda.synchronize if device.type == "cuda" else None


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """The machine, as results name it."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    busy = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    told = {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": busy,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if device is not None and device.type == "cuda":
        told["gpu"] = torch.cuda.get_device_name(device)
        told["cuda"] = torch.version.cuda
    return told


def in_words(told: Mapping[str, Any]) -> str:
    """`machine()` in one line."""
    device = f"{told['gpu']}, CUDA {told['cuda']}; " if "gpu" in told else ""
    cpu = f"{told['cpu']}, {told['threads']} threads on {told['cores']} cores"
    return f"{device}{cpu}, torch {told['torch']}, {told['date']}"


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, whichever thread asked for it; whether that could be set.

    `reuse_freed_memory` does so for blocks of the main thread. XLA asks for its results in threads of its own, whose
    arenas hold no large blocks: without the second setting, page faults are most of the time of JAX's scans. To be
    called before any package starts threads.
    """
    return reuse_freed_memory() and bool(ctypes.CDLL(None).mallopt(_ARENA_MAX, 1))
