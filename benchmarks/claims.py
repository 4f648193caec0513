"""What was measured beside what was asked for, from the JSON that the other benchmarks wrote.

`--write-docs` puts this table and all the others into docs/guide/speed.md.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import installed, lengths, results, train
from benchmarks.catalogue import OPS
from benchmarks.ops import OURS, PASSES, tables
from benchmarks.timing import in_words

PAGE = results.ROOT / "docs" / "guide" / "speed.md"
FILES = ("ops-cpu", "ops-cuda", "lengths-cpu", "lengths-cuda", "installed", "train-cpu", "memory", "first_call")
NONE: dict[str, Any] = {"rows": []}
AS_INSTALLED = "JAX associative_scan as installed"
LENT = "JAX associative_scan with the memory setting lent"
Rows = list[dict[str, Any]]


class Claim(NamedTuple):
    """One line: what is asked for, what was measured, and whether that is enough; None where nothing was measured."""

    what: str
    asked: str
    measured: str
    kept: bool | None

    def cells(self) -> list[str]:
        verdict = {True: "yes", False: "no", None: "not measured"}[self.kept]
        return [self.what, self.asked, self.measured, verdict]


def pick(rows: Rows, **wanted: Any) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def at_least(what: str, asked: float, found: dict[str, float], form: str) -> Claim:
    """The lowest of several figures against a bound below."""
    if not found:
        return Claim(what, f">= {asked:{form}}", "-", None)
    who = min(found, key=lambda name: found[name])
    others = f" ({who}; best {max(found.values()):{form}})" if len(found) > 1 else ""
    return Claim(what, f">= {asked:{form}}", f"{found[who]:{form}}{others}", found[who] >= asked)


def at_most(what: str, asked: float, found: dict[str, float], form: str) -> Claim:
    """The highest of several figures against a bound above."""
    if not found:
        return Claim(what, f"<= {asked:{form}}", "-", None)
    who = max(found, key=lambda name: found[name])
    others = f" ({who}; best {min(found.values()):{form}})" if len(found) > 1 else ""
    return Claim(what, f"<= {asked:{form}}", f"{found[who]:{form}}{others}", found[who] <= asked)


def every(folder: Path) -> Iterator[Claim]:
    """What was asked for, line by line."""
    found = {name: results.read(folder, name) for name in FILES}
    on_cpu, on_gpu = ((found[name] or NONE)["rows"] for name in ("ops-cpu", "ops-cuda"))
    for direction, share in zip(PASSES, (0.65, 0.55), strict=True):
        large = [row for row in shares(on_cpu, direction) if row["bytes"] > 1e8]
        yield at_least(
            f"CPU, diagonal_scan, float32, > 100 MB, share of copy bandwidth, {direction}",
            share,
            by_op(large, "share"),
            ".0%",
        )
    in_processes = {row["what"]: {row["what"]: row["ratio"]} for row in (found["installed"] or NONE)["rows"]}
    for op in ("diagonal", "diagonal_complex"):
        sizes = {"B": 8, "T": 2048, "D": 256}
        rows = pick(on_cpu, op=op, direction=PASSES[0], contestant="JAX associative_scan", **sizes)
        what = f"{op} {tuple(sizes.values())}, {PASSES[0]}"
        yield at_least(f"CPU, {what}, times faster than {AS_INSTALLED}", 10, in_processes.get(what, {}), ".1f")
        yield at_least(f"CPU, {what}, times faster than {LENT}", 10, by_op(rows, "ratio"), ".1f")
    trained = found["train-cpu"] or {}
    steps = trained.get("classifier", {}).get("seconds", {})
    yield at_most(
        "CPU, LRU classifier, training step over its matrix products alone",
        1.6,
        quotient(steps, "lru", "matmul"),
        ".2f",
    )
    what = "LRU classifier, training step"
    yield at_least(f"CPU, {what}, times faster than {AS_INSTALLED}", 5.5, in_processes.get(what, {}), ".1f")
    yield at_least(f"CPU, {what}, times faster than {LENT}", 5.5, quotient(steps, "jax", "lru"), ".1f")
    yield at_least(
        "CPU, Mamba layer (1, 1024, d = 256, N = 16), times faster than Hugging Face's CPU path",
        100,
        quotient(trained.get("mamba", {}).get("seconds", {}), "hugging face", "mamba"),
        ".0f",
    )
    memory = pick((found["memory"] or NONE)["rows"], op="selective_scan")
    yield at_most(
        "CPU, selective scan, peak memory forward + backward over its arguments, at any N",
        5,
        {f"N = {row['N']}, T = {row['T']}, D = {row['D']}": row["times"] for row in memory},
        ".1f",
    )
    for dtype in ("float32", "bfloat16"):
        for direction, share in zip(PASSES, (0.85, 0.80), strict=True):
            large = [row for row in shares(on_gpu, direction) if row["bytes"] >= 1e9 and row["dtype"] == dtype]
            yield at_least(
                f"GPU, diagonal_scan, {dtype}, >= 1 GB, share of copy bandwidth, {direction}",
                share,
                by_op(large, "share"),
                ".0%",
            )
    fla = {
        f"{r['contestant']}, {r['dtype']}, T = {r['T']}, {r['direction']}": r["ratio"]
        for r in on_gpu
        if r["contestant"].startswith("fla")
    }
    yield at_least("GPU, times faster than flash-linear-attention, at every size", 1, fla, ".2f")
    mean = {"all": math.exp(sum(map(math.log, fla.values())) / len(fla))} if fla else {}
    yield at_least("GPU, times faster than flash-linear-attention, geometric mean", 1.2, mean, ".2f")
    for device, file, allowed in (("CPU", "lengths-cpu", 0.25), ("GPU", "lengths-cuda", 0.15)):
        yield at_most(
            f"{device}, diagonal_scan, time at T = 512 to 1M at constant B T D: slowest over fastest, less 1",
            allowed,
            {
                f"{r['op']}, {r['dtype']}, {r['direction']}": lengths.spread(r["seconds"])
                for r in (found[file] or NONE)["rows"]
            },
            ".0%",
        )
    first = found["first_call"]
    slowest = (
        {row["op"]: row["forward"] + row["backward"] for row in pick(first["rows"], before="nothing")} if first else {}
    )
    yield at_most("CPU, first call of a kernel in a new process, seconds", 0.5, slowest, ".2f")


def shares(rows: Rows, direction: str) -> Rows:
    """Our rows of the diagonal scan at T = 2,048, of each at its largest size."""
    return [row for row in largest(pick(rows, contestant=OURS, direction=direction)) if row["T"] == 2048]


def largest(rows: Rows) -> Rows:
    """The rows of the diagonal scan at the largest B T D of each op."""
    found = []
    for op in lengths.FORMS:
        mine = pick(rows, op=op)
        size = max((row["B"] * row["T"] * row["D"] for row in mine), default=0)
        found += [row for row in mine if row["B"] * row["T"] * row["D"] == size]
    return found


def by_op(rows: Rows, figure: str) -> dict[str, float]:
    return {row["op"]: row[figure] for row in rows}


def quotient(seconds: dict[str, float], above: str, below: str) -> dict[str, float]:
    return {above: seconds[above] / seconds[below]} if {above, below} <= seconds.keys() else {}


def claims_table(folder: Path) -> list[list[str]]:
    return [["what", "asked", "measured", "kept"], *(claim.cells() for claim in every(folder))]


def told(result: dict[str, Any], table: list[list[str]], words: int = 1) -> str:
    """A table in markdown, with the machine named."""
    return f"{in_words(result['machine'])}.\n\n{results.markdown(table, words)}"


def ops_text(result: dict[str, Any]) -> str:
    """The tables of all ops in markdown."""
    parts = [in_words(result["machine"]) + "."]
    for op, dtype in results.unique((row["op"], row["dtype"]) for row in result["rows"]):
        for direction, table in tables(result["rows"], op, dtype).items():
            table[0][0] = f"{direction}, {dtype}, ms"
            parts += [f"**{OPS[op].title}**" if direction == PASSES[0] else "", results.markdown(table)]
    return "\n\n".join(part for part in parts if part)


def train_text(result: dict[str, Any]) -> str:
    """Training steps and decoding in markdown."""
    parts = [in_words(result["machine"]) + "."]
    for part in train.PARTS:
        if seconds := result.get(part, {}).get("seconds"):
            parts.append(results.markdown(train.table(part, seconds)))
    return "\n\n".join(parts)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks claims", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=results.FOLDER, help="where the JSON lies")
    parser.add_argument("--write-docs", action="store_true", help="fill the tables of docs/guide/speed.md")
    arguments = parser.parse_args(words)
    table = claims_table(arguments.folder)
    print(results.plain([[what, asked.rjust(8), measured, kept] for what, asked, measured, kept in table]))
    if not arguments.write_docs:
        return
    results.fill(PAGE, "claims", results.markdown(table, 4))
    if result := results.read(arguments.folder, "installed"):
        results.fill(PAGE, "installed", told(result, installed.table(result["rows"])))
    for device in ("cpu", "cuda"):
        if result := results.read(arguments.folder, f"lengths-{device}"):
            results.fill(PAGE, f"lengths on {device}", told(result, lengths.table(result["rows"]), words=2))
        if result := results.read(arguments.folder, f"ops-{device}"):
            results.fill(PAGE, f"ops on {device}", ops_text(result))
        if result := results.read(arguments.folder, f"train-{device}"):
            results.fill(PAGE, f"train on {device}", train_text(result))
    print(PAGE)
