"""The error of every op against float64: by type of the inputs, number of steps and backend.

Inputs are drawn, rounded to the type and then taken as exact: the same numbers go through the op in float64. A figure
is the largest deviation over the largest magnitude, of the outputs and, after a slash, of the worst of the gradients.
"""

import argparse
import re
from pathlib import Path

import torch
from torch import Tensor

import resurge
from benchmarks import results
from benchmarks.catalogue import CHECKED
from benchmarks.contestants import Sizes, eager, forced
from benchmarks.op import as_type, draw

PAGE = results.ROOT / "docs" / "guide" / "precision.md"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STEPS = (128, 2048, 32768, 1 << 20)
SLACK = 3.0
_B, _D = 1, 8  # fewer channels where each is more than one number
_HEAD = ["op", "inputs", "backend"]


def backends(device: torch.device) -> tuple[str, ...]:
    """The kernels of this device, and the form that serves without them."""
    return ("triton" if device.type == "cuda" else "numba", "torch")


def error(found: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest magnitude expected."""
    deviation = (found.detach().double() - expected.detach().double()).abs().max()
    return float(deviation / expected.detach().abs().max())


def measure(op: str, dtype: torch.dtype, T: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """(error of the output, of the worst gradient) by backend."""
    given = draw(CHECKED[op], Sizes(_B, T, _D // CHECKED[op].parts), device, dtype)
    exact = eager(CHECKED[op].call, as_type(given, torch.float64))
    output, gradients = exact.forward(), exact.both()
    found = {}
    for backend in backends(device):
        tried = forced(backend, CHECKED[op].call, given)
        with resurge.backend(backend):  # of the backward pass too
            worst = max(error(found, expected) for found, expected in zip(tried.both(), gradients, strict=True))
            found[backend] = error(tried.forward(), output), worst
    return found


def table(ops: list[str], steps: tuple[int, ...], device: torch.device) -> list[list[str]]:
    """Every figure, as text with one digit after the point."""
    rows = [[*_HEAD, *(f"T = {results.power(T)}" for T in steps)]]
    for op in ops:
        for dtype in DTYPES:
            figures = [measure(op, dtype, T, device) for T in steps]
            for backend in backends(device):
                cells = [f"{at[backend][0]:.1e} / {at[backend][1]:.1e}" for at in figures]
                rows.append([op, str(dtype).removeprefix("torch."), backend, *cells])
    return rows


def published(page: Path, device: torch.device) -> dict[tuple[str, ...], str]:
    """The cells of the page's table, by op, type, backend and head of the column."""
    lines = [re.findall(r"[^|]+", line) for line in results.between(page, f"precision on {device.type}").splitlines()]
    rows = [[cell.strip() for cell in line] for line in lines if len(line) > len(_HEAD)]
    if not rows:
        return {}
    head, _, *body = rows
    return {(*row[:3], column): cell for row in body for column, cell in zip(head[3:], row[3:], strict=True)}


def exceeded(found: list[list[str]], page: Path, device: torch.device) -> list[str]:
    """What is worse than the page says by more than the factor SLACK, or missing there."""
    known = published(page, device)
    head, *rows = found
    wrong = []
    for row in rows:
        for column, cell in zip(head[3:], row[3:], strict=True):
            words = f"{' '.join(row[:3])}, {column}"
            before = known.get((*row[:3], column))
            if before is None:
                wrong.append(f"{words}: not on the page")
                continue
            for what, now, then in zip(("output", "gradient"), cell.split(" / "), before.split(" / "), strict=True):
                if not float(now) <= SLACK * float(then):
                    wrong.append(f"{words}: {what} {now}, published {then}")
    return wrong


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks precision", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default the GPU if there is one")
    parser.add_argument("--op", choices=CHECKED, action="append", help="only this op; nothing is written then")
    parser.add_argument("--longest", type=int, default=STEPS[-1], help="leave out longer sequences")
    parser.add_argument("--check", action="store_true", help=f"fail if the page is exceeded by more than {SLACK:g} x")
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/guide/precision.md")
    arguments = parser.parse_args(words)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    steps = tuple(T for T in STEPS if arguments.longest >= T)
    found = table(arguments.op or list(CHECKED), steps, device)
    print(results.plain(found))
    if arguments.write_docs:
        if arguments.op or steps != STEPS:
            parser.error("--write-docs needs every op and size")
        results.fill(PAGE, f"precision on {device.type}", results.markdown(found, len(_HEAD)))
    if arguments.check:
        wrong = exceeded(found, PAGE, device)
        print("\n".join(wrong) or f"all within {SLACK:g} x of the page")
        if wrong:
            raise SystemExit(1)
