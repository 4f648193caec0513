"""How the recipes for a CPU learn: validation accuracy of three runs, from their folders in runs/."""

import csv
from pathlib import Path

from matplotlib.figure import Figure

from drawings.style import AFTER, BEFORE, RULE, panels

RUNS = {
    "lru-psmnist-0": ("Permuted MNIST, 784 steps", 0.1),
    "lru-scifar_small-0": ("CIFAR-10 in grey, 1,024 steps", 0.1),
    "lru-imdb_small-0": ("Film reviews, up to 4,096 bytes", 0.5),
}


def column(path: Path, name: str) -> tuple[list[float], list[float]]:
    """(epochs, values) of a column of metrics.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[name]]
    return [float(row["epoch"]) for row in rows], [float(row[name]) for row in rows]


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
