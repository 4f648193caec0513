"""What a run writes down as it goes: metrics.csv, the progress bar, and nothing else on the screen."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from tqdm import tqdm  # type: ignore[import-untyped]

from resurge.errors import ResurgeError
from resurge.files import write_atomic

TIME_COLUMNS = ("tokens_per_second", "seconds")


def columns(metric: str) -> list[str]:
    """The columns of metrics.csv, for a task judged by `metric`; a line has the cells that are known at its step."""
    return ["step", "epoch", "lr", "train_loss", f"train_{metric}", "val_loss", f"val_{metric}", *TIME_COLUMNS]


class CSVLog(Logger):
    """metrics.csv: one line a logged step or validation, written as it comes.

    Args:
        path: the file. Lines after `step` are dropped: a run continued from there writes them again.
        names: the columns.
        step: the step from which the run goes on; 0 starts a new file.
        validated: the step of the last validation that counts; lines of later ones are dropped too.
    """

    def __init__(self, path: Path, names: list[str], step: int, validated: int) -> None:
        super().__init__()
        self.path, self.names = path, names
        lines = path.read_bytes().splitlines(keepends=True)[1:] if step and path.exists() else []
        at = names.index("val_loss")
        kept = []
        for line in lines:
            cells = line.split(b",")
            # a line without its end, or with other cells, is one that the process or the machine was stopped in
            whole = line.endswith(b"\n") and len(cells) == len(names) and cells[0].isdigit()
            if whole and int(cells[0]) <= (validated if cells[at] else step):
                kept.append(line)
        write_atomic(path, b"".join([",".join(names).encode() + b"\n", *kept]))
        with disk(path):
            self.file = path.open("a")

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.json has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {"step": step, **metrics}
        with disk(self.path):
            self.file.write(",".join(str(values.get(name, "")) for name in self.names) + "\n")
            self.file.flush()

    def save(self) -> None:
        """Bring to the disk what was logged."""
        with disk(self.path):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn what the system says about a disk (it is full, it is gone) into an error for the user."""
    try:
        yield
    except OSError as error:
        raise ResurgeError(f"cannot write {path}: {error.strerror or error}") from error


class Bar:
    """The progress bar on standard error: steps of the whole run, the last metrics, tokens a second.

    Where standard error is no terminal, one line a validation takes its place.

    Args:
        steps: steps of the run.
        done: steps done before.
        show: False for nothing at all.
    """

    def __init__(self, steps: int, done: int, *, show: bool) -> None:
        self.steps, self.show = steps, show
        self.values: dict[str, str] = {}
        self.bar: tqdm | None = None
        if show and sys.stderr.isatty():
            self.bar = tqdm(total=steps, initial=done, unit="step", file=sys.stderr, dynamic_ncols=True)

    def step(self) -> None:
        """One step is done."""
        if self.bar is not None:
            self.bar.update()

    def metrics(self, row: Mapping[str, float]) -> None:
        """Show the metrics of a line of metrics.csv."""
        names = [name for name in row if name.startswith(("train_", "val_")) or name == "tokens_per_second"]
        for name in names:
            shown = f"{row[name]:,.0f}" if name == "tokens_per_second" else f"{row[name]:.4g}"
            self.values[name.replace("tokens_per_second", "tokens/s").replace("train_", "")] = shown
        if self.bar is not None:
            self.bar.set_postfix(self.values, refresh=False)

    def validated(self, step: int, row: Mapping[str, float]) -> None:
        """Show the metrics of a validation."""
        self.metrics(row)
        if self.show and self.bar is None:
            figures = "  ".join(f"{name} {value}" for name, value in self.values.items())
            print(f"step {step}/{self.steps}  {figures}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


# What Lightning and TensorBoard say about things that are as they should be here.
_KNOWN_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # torch's pytree, as Lightning calls it
    r".*GPU available but not used.*",  # --device cpu
    r".*`np\.bool8`.*",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's notices and a few known warnings off the screen; all other warnings pass."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
