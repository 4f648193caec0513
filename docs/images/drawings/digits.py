"""The picture of the README, from a run folder."""

import csv
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from resurge.analysis import eigenvalues
from resurge.training import load_run

INK, MUTED, RULE, BEFORE, AFTER = "#1c2430", "#6b7684", "#e3e7ec", "#8f9aa7", "#2457c5"
STYLE: dict[str, Any] = {
    "svg.hashsalt": "resurge",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def accuracies(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, accuracy) in training and in validation, from the run's metrics.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        part: [(int(row["step"]), float(row[f"{part}_accuracy"])) for row in rows if row[f"{part}_accuracy"]]
        for part in ("train", "val")
    }


def learning(axes: Any, path: Path) -> None:
    for (part, points), colour, label in zip(
        accuracies(path).items(), (BEFORE, AFTER), ("training, with dropout", "validation"), strict=True
    ):
        step, accuracy = np.array(points).T
        axes.plot(step, accuracy, color=colour, lw=1.2 if part == "train" else 1.8, label=label)
    axes.set_title("Accuracy")
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.grid(axis="y", color=RULE, lw=0.7)
    axes.legend(frameon=False, loc="lower right")


def disk(axes: Any, title: str, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> None:
    angle = np.linspace(0, 2 * np.pi, 181)
    axes.fill(np.cos(angle), np.sin(angle), color="#f6f8fa")
    for radius, colour in ((0.5, RULE), (1.0, MUTED)):
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), color=colour, lw=0.7)
    axes.plot([-1, 1, np.nan, 0, 0], [0, 0, np.nan, -1, 1], color=RULE, lw=0.7)
    # a thread leads from where each eigenvalue was to where it went
    axes.plot(*[[before.real, after.real], [before.imag, after.imag]], color=AFTER, lw=0.5, alpha=0.35)
    axes.scatter(before.real, before.imag, s=13, facecolors="white", edgecolors=BEFORE, linewidths=0.8, zorder=3)
    axes.scatter(after.real, after.imag, s=13, color=AFTER, alpha=0.8, linewidths=0, zorder=4)
    axes.set_title(title)
    axes.set_aspect("equal")
    axes.set_axis_off()


def draw(run_folder: Path, out: Path) -> None:
    """Learning curve left; right, each layer's eigenvalues before (hollow) and after training (filled)."""
    after = eigenvalues(load_run(run_folder).model)
    before = eigenvalues(load_run(run_folder, "initial.safetensors").model)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.7), layout="constrained")
        panels = figure.subplots(1, 1 + len(after), width_ratios=[1.5, *[1.0] * len(after)])
        learning(panels[0], run_folder / "metrics.csv")
        for i, name in enumerate(after):
            disk(panels[i + 1], f"Eigenvalues, layer {i + 1}", before[name].numpy(), after[name].numpy())
        figure.savefig(out, metadata={"Date": None, "Creator": None}, facecolor="white")
