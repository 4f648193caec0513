"""Every op against the hardware's limit and against the peers: T from 128 to 1M at constant B T D.

The limit is a copy by PyTorch which moves as many bytes as the op must. All contestants are called in turn, and medians
are told. Freed memory is kept by the process (`timing.keep_freed_memory`), for all of them alike: otherwise the page
faults of fresh outputs would be what is measured.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import results
from benchmarks.catalogue import OPS
from benchmarks.contestants import Contestant, Problem, Sizes, eager, forced, in_short
from benchmarks.op import Op, as_peers_take_it, draw
from benchmarks.timing import in_words, interleaved, keep_freed_memory, machine, waiter

OURS, LIMIT = "resurge", "copy of as many bytes"
PASSES = ("forward", "forward + backward")
_LONGEST_FIRST_CALL = 20.0  # seconds, compilation included
_PER_STEP = 2048  # from this T on, the time of a sequential peer is taken to grow with T at constant B T D
STEPS = (128, 512, 2048, 8192, 65536, 1 << 20)


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    numbers: int  # B T D, a complex number counted as two
    steps: tuple[int, ...]
    peers_at: tuple[int, ...]  # the T at which there are peers,
    compiled_at: tuple[int, ...]  # and those at which there are also slow ones, and ones compiled for each size
    compiled_backward: bool  # whether they are compiled for the backward pass too
    rounds: int
    patience: float  # seconds; who takes longer is timed once
    longest_call: float  # seconds; a sequential peer that would take longer is left out
    until: float  # by time.monotonic()

    def sizes(self, parts: int) -> list[Sizes]:
        """256 channels where there is room for them; on the CPU also the size of the claim about JAX."""
        numbers = self.numbers // parts
        widths = [(T, min(256, numbers // T)) for T in self.steps]
        every = [Sizes(numbers // (T * D), T, D) for T, D in widths]
        if self.device.type == "cpu" and 2048 in self.steps:
            every.append(Sizes(8, 2048, 256))
        return results.unique(every)


@dataclass
class Row:
    """One contestant at one size."""

    op: str
    dtype: str
    B: int
    T: int
    D: int
    direction: str
    contestant: str
    seconds: float
    bytes: int  # that must move
    share: float  # of copy bandwidth
    ratio: float  # to ours: above 1 is slower
    rounds: int  # 1 where it was timed once, being slow


@dataclass
class LeftOut:
    """Why a contestant has no time."""

    op: str
    dtype: str
    T: int
    direction: str
    contestant: str
    reason: str


class Measurement:
    """Goes through all ops and sizes and keeps rows and reasons."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: list[Row] = []
        self.left_out: list[LeftOut] = []
        self._slow: dict[tuple[str, str], tuple[int, float]] = {}  # last T and seconds of the op under way

    def run(self, name: str) -> None:
        """Measure one op."""
        for dtype in self.plan.dtypes:
            self._slow.clear()
            for sizes in self.plan.sizes(OPS[name].parts):
                if time.monotonic() > self.plan.until:
                    self._leave_out(name, dtype, sizes.T, PASSES, OURS, "out of time")
                else:
                    self._at(name, dtype, sizes)

    def _at(self, name: str, dtype: torch.dtype, sizes: Sizes) -> None:
        op, T, device = OPS[name], sizes.T, self.plan.device
        leave_out = partial(self._leave_out, name, dtype, T)
        contestants, why_not = entrants(op, draw(op, sizes, device, dtype), self.plan, T)
        for who, reason in why_not.items():
            leave_out(PASSES, who, reason)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # others have allocators of their own
        for direction, numbers in zip(PASSES, op.moved(sizes), strict=True):
            moved = numbers * dtype.itemsize
            calls: dict[str, Callable[[], Any]] = {LIMIT: copying(moved, device)}
            for who, contestant in contestants.items():
                call = contestant.forward if direction == PASSES[0] else contestant.both
                if reason := self._too_slow(op, who, direction, T) or fails(call, device):
                    leave_out((direction,), who, reason)
                else:
                    calls[who] = call
            seconds = interleaved(calls, self.plan.rounds, wait=waiter(device), patience=self.plan.patience, warm=True)
            for who, value in seconds.items():
                self._slow[who, direction] = (T, value)
                rounds = 1 if value > self.plan.patience else self.plan.rounds
                ratio = value / seconds.get(OURS, float("nan"))
                share = seconds[LIMIT] / value
                self.rows.append(Row(name, kind(dtype), *sizes, direction, who, value, moved, share, ratio, rounds))

    def _too_slow(self, op: Op, who: str, direction: str, T: int) -> str:
        """Why a contestant is not even tried, or an empty string."""
        peer = op.peers.get(who)
        if peer and peer.compiled and direction != PASSES[0] and not self.plan.compiled_backward:
            return "compiled for the forward pass only by --quick"
        before, seconds = self._slow.get((who, direction), (0, 0.0))
        in_steps = who == "PyTorch loop" or (peer is not None and peer.sequential)
        if in_steps and before >= _PER_STEP and seconds * T / before > self.plan.longest_call:
            return f"{T // before} times more steps than at T = {before}, which took {seconds:.1f} s"
        return ""

    def _leave_out(
        self, op: str, dtype: torch.dtype, T: int, directions: tuple[str, ...], who: str, reason: str
    ) -> None:
        self.left_out += [LeftOut(op, kind(dtype), T, direction, who, reason) for direction in directions]


def kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def entrants(op: Op, given: Problem, plan: Plan, T: int) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Who is there to solve the problem, and why others are not.

    Beside the peers: our own op, its definition as a time loop in PyTorch, and the form that serves without a kernel.
    """
    ready = {OURS: eager(op.call, given)}
    if T in plan.compiled_at:
        ready["PyTorch loop"] = forced("reference", op.call, given)
        ready["PyTorch parallel form"] = forced("torch", op.call, given)
    why_not: dict[str, str] = {}
    for who, peer in op.peers.items():
        if peer.device not in ("", plan.device.type):
            continue
        steps = plan.compiled_at if peer.compiled or not peer.same else plan.peers_at
        if T not in steps:
            why_not[who] = f"timed at T = {', '.join(map(str, steps))} only"
            continue
        if peer.longest < T:
            why_not[who] = f"timed up to T = {peer.longest} only: its backward pass is quadratic in T"
            continue
        try:
            ready[who] = peer.make(as_peers_take_it(op, given))
        except ImportError as error:
            why_not[who] = f"absent: {error}"
        except Exception as error:  # other people's code
            why_not[who] = in_short(error)
    return ready, why_not


def fails(call: Callable[[], Any], device: torch.device) -> str:
    """Why a call cannot be timed, or an empty string."""
    start = time.perf_counter()
    try:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
    except Exception as error:  # other people's code, and too little memory
        return in_short(error)
    took = time.perf_counter() - start
    return f"its first call took {took:.0f} s" if took > _LONGEST_FIRST_CALL else ""


def copying(moved: int, device: torch.device) -> Callable[[], Any]:
    """A copy that moves so many bytes: half of them read, half written."""
    source, target = torch.ones(2, max(1, moved // 8), device=device)
    return lambda: target.copy_(source)


def tables(rows: list[dict[str, Any]], op: str, dtype: str) -> dict[str, list[list[str]]]:
    """For each pass, a table of milliseconds: contestants by T at the size that most rows have."""
    mine = [row for row in rows if row["op"] == op and row["dtype"] == dtype]
    size = max(row["B"] * row["T"] * row["D"] for row in mine)
    mine = [row for row in mine if row["B"] * row["T"] * row["D"] == size]
    steps = results.unique(row["T"] for row in mine)
    every = {}
    for direction in PASSES:
        at = {(row["contestant"], row["T"]): row for row in mine if row["direction"] == direction}
        who = results.unique(row["contestant"] for row in mine)
        table = [["ms", *(f"T = {results.power(T)}" for T in steps)]]
        for name in who:
            cells = [at.get((name, T)) for T in steps]
            if any(cells):
                table.append([name, *(_cell(row, name) for row in cells)])
        every[direction] = table
    return every


def _cell(row: dict[str, Any] | None, name: str) -> str:
    if row is None:
        return "-"
    milliseconds = f"{row['seconds'] * 1e3:.3g}" if row["seconds"] < 1 else f"{row['seconds'] * 1e3:,.0f}"
    if name == OURS:
        return f"{milliseconds} ({row['share']:.0%} of copy)"
    return milliseconds if name == LIMIT else f"{milliseconds} ({row['ratio']:.2g} x)"


def show(result: dict[str, Any], op: str) -> None:
    """Print one op's tables."""
    rows = result["rows"]
    for dtype in results.unique(row["dtype"] for row in rows if row["op"] == op):
        for direction, table in tables(rows, op, dtype).items():
            numbers = max(row["B"] * row["T"] * row["D"] for row in rows if row["op"] == op)
            print(f"\n{OPS[op].title}; {direction}, {dtype}, B T D = {numbers:,}")
            print(results.plain(table))
    told = [
        (row["contestant"], row["direction"], row["T"], row["reason"]) for row in result["left_out"] if row["op"] == op
    ]
    for who, reason in results.unique((who, reason) for who, _, _, reason in told):
        steps = results.unique(T for name, _, T, why in told if (name, why) == (who, reason))
        print(f"left out: {who} at T = {', '.join(map(str, steps))}: {reason}")


def plan(arguments: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu, quick = device.type == "cuda", arguments.quick
    steps = (128, 8192) if quick else STEPS
    return Plan(
        device=device,
        dtypes=(torch.float32, torch.bfloat16) if gpu else (torch.float32,),
        numbers=arguments.numbers or 1 << ((26 if gpu else 20) if quick else (28 if gpu else 24)),
        steps=steps,
        peers_at=steps[:1] if quick else steps,
        compiled_at=steps if arguments.every_peer else steps[:1] if quick else (2048,),
        compiled_backward=not quick,
        rounds=3 if quick else 7,
        patience=0.1 if gpu or quick else 1,
        longest_call=1 if gpu or quick else 10,
        until=time.monotonic() + 60 * arguments.minutes,
    )


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ops", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small sizes, within a minute on an idle CPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default the GPU if there is one")
    parser.add_argument("--op", choices=OPS, action="append", help="only this op; may be given several times")
    parser.add_argument("--numbers", type=int, help="B T D; by default 2^24 on the CPU, 2^28 on a GPU")
    parser.add_argument(
        "--every-peer", action="store_true", help="slow and compiled peers at every T too; some three times as long"
    )
    parser.add_argument("--minutes", type=float, default=60, help="start no new size after so many minutes")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the JSON and the pictures")
    arguments = parser.parse_args(words)
    reused = keep_freed_memory()
    measurement = Measurement(plan(arguments))
    told = machine(measurement.plan.device)
    print(in_words(told) + ("" if reused else "; page faults count, since this system's memory cannot be kept"))
    start = time.monotonic()
    result: dict[str, Any] = {}
    for name in arguments.op or OPS:
        measurement.run(name)
        result = {
            "machine": told,
            "numbers": measurement.plan.numbers,
            "rounds": measurement.plan.rounds,
            "freed_memory_reused": reused,
            "rows": [asdict(row) for row in measurement.rows],
            "left_out": [asdict(row) for row in measurement.left_out],
        }
        show(result, name)
        path = results.write(arguments.out, f"ops-{measurement.plan.device.type}", result)
    from benchmarks.pictures import draw_ops

    for picture in draw_ops(result, arguments.out):
        print(picture)
    print(f"{path}; {time.monotonic() - start:.0f} s")
