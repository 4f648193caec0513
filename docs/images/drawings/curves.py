"""How the recipes for a CPU learn: accuracy of three runs, and errors of the adding problem, from folders in runs/."""

import csv
from pathlib import Path

from matplotlib.figure import Figure

from drawings.style import AFTER, BEFORE, RULE, panels

RUNS = {
    "lru-psmnist-0": ("Permuted MNIST, 784 steps", 0.1),
    "lru-scifar_small-0": ("CIFAR-10 in grey, 1,024 steps", 0.1),
    "lru-imdb_small-0": ("Film reviews, up to 4,096 bytes", 0.5),
}

ADDING = ("lru-adding-0", "lru-adding-1", "lru-adding-2")


def column(path: Path, name: str, against: str = "epoch") -> tuple[list[float], list[float]]:
    """(epochs, values) of a column of metrics.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[name]]
    return [float(row[against]) for row in rows], [float(row[name]) for row in rows]


def draw(folder: Path) -> Figure:
    """A panel a run: training (thin) and validation, and what guessing would give (dotted)."""
    figure, axes = panels(1, len(RUNS), 2.3)
    for axis, (run, (title, chance)) in zip(axes[0], RUNS.items(), strict=True):
        axis.plot(*column(folder / run / "metrics.csv", "train_accuracy"), color=BEFORE, lw=0.6, label="training")
        axis.plot(*column(folder / run / "metrics.csv", "val_accuracy"), color=AFTER, lw=1.8, label="validation")
        axis.axhline(chance, color=BEFORE, lw=0.7, ls=":")
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.set_xlim(left=0)
        axis.set_ylim(0 if chance < 0.5 else 0.4, 1.0)
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axis.grid(axis="y", color=RULE, lw=0.7)
    axes[0, 0].legend(frameon=False, loc="lower right")
    return figure


def draw_adding(folder: Path) -> Figure:
    """Errors on the batches of training, a line a seed; dotted, that of who answers 1."""
    figure, axes = panels(1, 1, 2.5)
    axis = axes[0, 0]
    for run in ADDING:
        axis.plot(*column(folder / run / "metrics.csv", "train_mse", "step"), color=AFTER, lw=1.0)
    axis.axhline(1 / 6, color=BEFORE, lw=0.7, ls=":")
    axis.axhline(0.005, color=RULE, lw=0.7)
    axis.set_title("Two marked numbers among 5,000: mean squared error")
    axis.set_xlabel("training step")
    axis.set_yscale("log")
    axis.set_xlim(left=0)
    axis.set_ylim(1e-3, 1)
    axis.yaxis.set_major_formatter(lambda value, _: "1" if value == 1 else f"1/{1 / value:,.0f}")
    return figure
