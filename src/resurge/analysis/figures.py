"""The pictures of a report, each as the text of an SVG. matplotlib is imported when one is drawn."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import numpy as np
from torch import Tensor

from resurge.analysis.spectra import time_scales

INK, MUTED, RULE = "#1c2430", "#6b7684", "#e3e7ec"
BEFORE, AFTER, MARK = "#9aa5b2", "#2457c5", "#d2571c"
_DISKS_A_ROW = 4
_PIXELS_A_POINT = 1.3

_RC: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "resurge",  # equal pictures are equal bytes
    "figure.subplot.left": 0.0,  # what the margins need is added when the figure is written
    "figure.subplot.right": 1.0,
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Segoe UI", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@contextmanager
def drawing() -> Iterator[Any]:
    """matplotlib's Figure class in the house style, without a window system or pyplot's global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        yield Figure


def _svg(figure: Any, description: str) -> str:
    """The figure as an <svg> element that scales with the page and tells a screen reader what it shows."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.04)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    start, rest = svg.split(">", 1)
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', start)
    width = _PIXELS_A_POINT * float(box[1]) if box else 1000
    start = re.sub(r'\s(width|height)="[^"]*"', "", start)
    return f'{start} style="width:{width:.0f}px" role="img" aria-label="{escape(description)}">{rest}'


def curves(steps: Mapping[str, list[float]], values: Mapping[str, list[float]], metric: str) -> str:
    """Learning curves: loss left, `metric` right, in training and in validation.

    Args:
        steps, values: for each column of metrics.csv ("train_loss", "val_accuracy", ...), where and what.
        metric: the task's metric.
    """
    with drawing() as new:
        figure = new(figsize=(9.3, 3))
        for axes, name in zip(figure.subplots(1, 2, gridspec_kw={"wspace": 0.2}), ("loss", metric), strict=True):
            for part, color in (("train", BEFORE), ("val", AFTER)):
                x, y = steps.get(f"{part}_{name}", []), values.get(f"{part}_{name}", [])
                if x:
                    label = {"train": "training", "val": "validation"}[part]
                    marker = {"marker": "o", "markersize": 3.2} if part == "val" and len(x) < 40 else {}
                    axes.plot(x, y, color=color, label=label, **marker)
            axes.set_title(name.replace("_", " "))
            axes.set_xlabel("step")
            axes.grid(axis="y")
            axes.set_xlim(left=0)
            if name == "accuracy":
                axes.set_ylim(top=1.005)
                axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:g} %")
            elif name == "loss" and _spans(values, name):
                axes.set_yscale("log")
                _plain_ticks(axes.yaxis)
            axes.legend(frameon=False, labelcolor="linecolor", handlelength=1.2)
        return _svg(figure, f"Learning curves: loss and {metric} over steps")


def disks(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """The eigenvalues of every layer on the unit disk, before training (grey) and after (blue)."""
    names = list(after)
    columns = min(_DISKS_A_ROW, len(names))
    rows = -(-len(names) // columns)
    with drawing() as new:
        side = 2.4 if columns == _DISKS_A_ROW else 3.1
        figure = new(figsize=(side * columns, (side + 0.12) * rows))
        grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.2})
        for axes in grid.flat:
            axes.set_axis_off()
        angle = np.linspace(0, 2 * np.pi, 241)
        for axes, name in zip(grid.flat, names, strict=False):
            axes.fill(np.cos(angle), np.sin(angle), color="#f6f8fa", zorder=0)
            for radius in (0.5, 1.0):
                axes.plot(radius * np.cos(angle), radius * np.sin(angle), color=RULE if radius < 1 else BEFORE, lw=0.8)
            axes.plot([-1, 1, np.nan, 0, 0], [0, 0, np.nan, -1, 1], color=RULE, lw=0.8)
            size = 14 if after[name].numel() <= 128 else 7
            if name in before:
                dots = before[name].numpy()
                axes.scatter(dots.real, dots.imag, s=size, facecolors="none", edgecolors=BEFORE, linewidths=0.9)
            dots = after[name].numpy()
            axes.scatter(dots.real, dots.imag, s=size, color=AFTER, alpha=0.75, linewidths=0)
            axes.set_title(_layer(name), loc="center", pad=4, fontsize=10)
            axes.set_aspect("equal")
            axes.set_xlim(-1.06, 1.06)
            axes.set_ylim(-1.06, 1.06)
        return _svg(figure, "Eigenvalues of each layer on the unit disk before and after training")


def memory(before: Mapping[str, Tensor], after: Mapping[str, Tensor], length: int) -> str:
    """How long the states of all layers remember: a histogram of time scales, in steps.

    `length` is that of a training sequence, drawn as a line; 0 leaves it out.
    """
    scales = {}
    for name, values in (("before", before), ("after", after)):
        every = np.concatenate([time_scales(part).numpy() for part in values.values()] or [np.zeros(0)])
        scales[name] = np.clip(every[every > 0], 0.1, 1e5)
    both = np.concatenate(list(scales.values()))
    low, high = np.log10(both.min()), np.log10(both.max())
    bins = np.logspace(low - 0.05, high + 0.05, 36)
    with drawing() as new:
        figure = new(figsize=(9.3, 2.6))
        axes = figure.subplots()
        axes.hist(scales["after"], bins, color=AFTER, alpha=0.8, label="after training")
        axes.hist(scales["before"], bins, histtype="step", color=MUTED, lw=1.3, label="before training")
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
        axes.set_xlabel("time scale −1 / ln |λ|, in steps")
        axes.set_ylabel("states")
        axes.grid(axis="y")
        if length and length < bins[-1] * 4:
            axes.axvline(length, color=MARK, lw=1.2, ls=(0, (4, 3)))
            axes.annotate(
                f"length of a sequence: {length:,}",
                (length, 1),
                xycoords=("data", "axes fraction"),
                ha="right",
                va="bottom",
                color=MARK,
            )
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=2, handlelength=1.2)
        return _svg(figure, "Histogram of memory time scales before and after training")


def confusion(counts: np.ndarray[Any, Any], classes: Sequence[str]) -> str:
    """The confusion matrix: rows are what is true, columns what the model says; a row's colours add up to one."""
    n = len(classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(0.55 * n, 2.4, 7.0))
    with drawing() as new:
        from matplotlib.colors import LinearSegmentedColormap

        figure = new(figsize=(side, side))
        axes = figure.subplots()
        colors = LinearSegmentedColormap.from_list("resurge", ["#f6f8fa", AFTER])
        line = 1.5 if n <= 20 else 0
        axes.pcolormesh(
            range(n), range(n), shares**0.5, cmap=colors, vmin=0, vmax=1, edgecolors="white", linewidth=line
        )
        axes.invert_yaxis()
        axes.set_aspect("equal")
        if n <= 20:
            for row, column in zip(*np.nonzero(counts), strict=True):
                color = "white" if shares[row, column] > 0.3 else INK
                size = 10 if n <= 12 else 8
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=size)
        steps = range(n) if n <= 40 else range(0, n, -(-n // 20))
        upright = n <= 12 and max(map(len, classes)) <= 4
        axes.set_xticks(list(steps), [classes[i] for i in steps], rotation=0 if upright else 60)
        axes.set_yticks(list(steps), [classes[i] for i in steps])
        axes.set_xlabel("the model says")
        axes.set_ylabel("true class")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _svg(figure, "Confusion matrix of the test data")


def scatter(true: np.ndarray[Any, Any], said: np.ndarray[Any, Any]) -> str:
    """Predicted over true values, and the diagonal on which they would all lie."""
    with drawing() as new:
        figure = new(figsize=(4.2, 4.2))
        axes = figure.subplots()
        ends = [float(min(true.min(), said.min())), float(max(true.max(), said.max()))]
        axes.plot(ends, ends, color=BEFORE, lw=1)
        axes.scatter(true, said, s=12, color=AFTER, alpha=0.6, linewidths=0)
        axes.set_xlabel("true value")
        axes.set_ylabel("the model says")
        axes.set_aspect("equal")
        axes.grid()
        return _svg(figure, "Predicted over true values of the test data")


def reconstruction(signal: Tensor, known: Mapping[str, Tensor]) -> str:
    """A signal (T,), and what each memory still knows of it at its end: (T,), NaN where it knows nothing."""
    with drawing() as new:
        figure = new(figsize=(9.3, 1.9 * len(known)))
        grid = figure.subplots(len(known), 1, sharex=True, squeeze=False, gridspec_kw={"hspace": 0.45})
        low, high = float(signal.min()), float(signal.max())
        margin = 0.15 * max(high - low, 1e-9)
        for axes, (name, past) in zip(grid[:, 0], known.items(), strict=True):
            axes.plot(signal.numpy(), color=BEFORE, lw=3, label="signal")
            axes.plot(past.numpy(), color=AFTER, lw=1.3, label="what the memory gives back")
            axes.set_title(name)
            axes.set_xlim(0, len(signal) - 1)
            axes.set_ylim(low - margin, high + margin)
            axes.grid(axis="y")
        grid[-1, 0].set_xlabel("step")
        grid[0, 0].legend(frameon=False, labelcolor="linecolor", loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        return _svg(figure, "A signal, and its reconstruction from the coefficients of each memory")


def collapse(
    steps: Tensor, largest: Mapping[str, Tensor], usual: Mapping[str, Tensor], ends: Tensor, loss: Tensor, length: int
) -> str:
    """States left, loss right, over the steps of a sequence longer than those of the training, whose end is marked.

    Args:
        steps: where the states were looked at, (S,).
        largest, usual: by the state's name, its largest number and its root mean square there, (S,).
        ends, loss: ends of the pieces over which the loss is averaged, and the means.
        length: that of a training sequence.
    """
    with drawing() as new:
        figure = new(figsize=(9.3, 3))
        left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.2})
        for i, name in enumerate(largest):
            shade = 1 - 0.6 * i / max(1, len(largest))
            last = i == len(largest) - 1
            left.plot(steps, largest[name], color=MARK, alpha=shade, label="largest number" if last else None)
            left.plot(steps, usual[name], color=AFTER, alpha=shade, label="root mean square" if last else None)
        left.set_title("state")
        left.set_yscale("log")
        _plain_ticks(left.yaxis)
        right.plot(ends, loss, color=AFTER)
        right.set_title("loss")
        for axes in (left, right):
            axes.axvline(length, color=MUTED, lw=1.2, ls=(0, (4, 3)), label="length of the training")
            axes.set_xlabel("step")
            axes.set_xlim(left=0)
            axes.grid(axis="y")
        left.legend(frameon=False, labelcolor="linecolor", handlelength=1.2)
        return _svg(figure, "States and loss over the steps of a sequence longer than those of the training")


def _spans(values: Mapping[str, list[float]], name: str) -> bool:
    """Whether the positive values of both parts span more than a factor of 20, so that a log scale shows more."""
    every = [v for part in ("train", "val") for v in values.get(f"{part}_{name}", [])]
    return bool(every) and min(every) > 0 and max(every) / min(every) > 20


def _plain_ticks(axis: Any) -> None:
    """Ticks of a log axis as plain numbers: 0.1, 10, 1,000."""
    axis.set_major_formatter(lambda v, _: f"{v:,.0f}" if v >= 1 else f"{v:g}")
    axis.set_minor_formatter(lambda v, _: "")


def _layer(name: str) -> str:
    """A layer's name as a title: "stack.blocks.0.mixer" is "block 1"."""
    blocks = re.search(r"blocks\.(\d+)\.mixer\.?(.*)", name)
    if blocks is None:
        return name
    return f"block {int(blocks[1]) + 1}" + (f", {blocks[2]}" if blocks[2] else "")
