"""What a comparison of layers came to: means with intervals, one table, one picture."""

import csv
import io
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurge.analysis.figures import INK, MUTED, drawing
from resurge.errors import ResurgeError
from resurge.training.comparison import Comparison, Row

_COLORS = ("#2457c5", "#d2571c", "#1f8a5b", "#8a3ffc", "#c2185b", "#a67c00", "#0097a7", "#6b7684", "#5d4037", "#7cb342")
_BUDGETS = {
    "steps": "the same width and the same steps for all",
    "params": "d_model chosen for as nearly as possible the parameters of the recipe's own model",
    "time": "the same width, and as many steps as take the time of the recipe's own layer",
}


class Interval(NamedTuple):
    """A mean, and how far its 95 % interval reaches to either side: NaN if one value alone tells none."""

    mean: float
    half: float


def interval(values: list[float]) -> Interval:
    """The mean of independent values and half its 95 % interval by Student's t: t₀.₉₇₅,ₙ₋₁ s / √n.

    NaN for both without values, and for the half-width with one.
    """
    n = len(values)
    if n < 2:
        return Interval(values[0] if n else math.nan, math.nan)
    from scipy.stats import t

    return Interval(statistics.fmean(values), float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n))


def ranked(comparison: Comparison) -> list[Row]:
    """The rows, the best mean first, those without a result last."""
    sign = -1 if comparison.metric == "accuracy" else 1

    def place(row: Row) -> float:
        mean = interval(row.values).mean
        return sign * mean if math.isfinite(mean) else math.inf

    return sorted(comparison.rows, key=place)


def summary(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values, with mean and half-width of each row, the best row first."""
    rows = [
        {**asdict(row), "mean": found.mean, "half_width": found.half}
        for row in ranked(comparison)
        for found in [interval(row.values)]
    ]
    return {**asdict(comparison), "rows": rows}


def table(comparison: Comparison) -> str:
    """The comparison in Markdown that reads well as it is: a row a layer, and what has to be known beside it."""
    name = comparison.metric.replace("_", " ")
    cells = [["layer", "d_model", "parameters", "steps", "seconds", "seeds", name, "remarks"]]
    for row in ranked(comparison):
        done = len(row.values)
        sizes = [f"{row.d_model:,}", f"{row.parameters:,}", f"{row.steps:,}"] if row.parameters else ["-"] * 3
        seconds = f"{statistics.fmean(row.seconds):.1f}" if done else "-"
        figure = _figure(interval(row.values), comparison.metric) if done else "-"
        cells.append([_name(row), *sizes, seconds, str(done), figure, "; ".join(row.remarks)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [False, True, True, True, True, True, True, False]
    rule = ["-" * (width - 1) + (":" if is_right else "-") for width, is_right in zip(widths, right, strict=True)]
    lines = []
    for line in (cells[0], rule, *cells[1:]):
        filled = [f"{cell:{'>' if r else '<'}{w}}" for cell, w, r in zip(line, widths, right, strict=True)]
        lines.append(f"| {' | '.join(filled)} |")
    best = "higher" if comparison.metric == "accuracy" else "lower"
    most = max(len(row.values) for row in comparison.rows)
    spread = "± is the 95 % interval of the mean (Student's t)" if most > 1 else "one seed tells no interval"
    note = (
        f"{comparison.recipe} with other layers: {name} on the test data, {best} is better; {spread}. "
        f"Budget: {_BUDGETS[comparison.budget]}; the recipe's own model has {comparison.parameters:,} parameters. "
        "Options of layers are their defaults, those of the recipe's own layer the recipe's."
    )
    return "\n".join([*lines, "", note, ""])


def picture(comparison: Comparison, folder: str | Path) -> bytes:
    """The comparison as a PNG: learning curves in validation left, the test results right, all with 95 % intervals.

    Args:
        comparison: what `training.compare` found.
        folder: where its runs are.

    Raises:
        ResurgeError: the log of a run is missing or damaged.
    """
    rows = [row for row in ranked(comparison) if any(map(math.isfinite, row.values))]
    percent = comparison.metric == "accuracy"
    scale = 100 if percent else 1
    label = comparison.metric.replace("_", " ") + (", %" if percent else "")
    axis = "seconds" if comparison.budget == "time" else "step"
    with drawing() as new:
        figure = new(figsize=(10, max(3.4, 1.1 + 0.34 * len(rows))))
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.35, 1], "wspace": 0.32})
        for i, row in enumerate(rows):
            color, line = _COLORS[i % len(_COLORS)], ("-", "--", ":")[i // len(_COLORS) % 3]
            at, mean, half = _curve(row, comparison.metric, axis, Path(folder))
            mean, half = scale * mean, scale * half
            left.plot(at, mean, line, color=color, lw=1.5, marker="o" if len(at) < 2 else "")
            left.fill_between(at, mean - half, mean + half, color=color, alpha=0.14, linewidth=0)
            values, y = [scale * value for value in row.values], -i
            found = interval(values)
            right.plot(values, [y] * len(values), "o", ms=3.4, color=color, alpha=0.4)
            if math.isfinite(found.half):
                right.errorbar(found.mean, y, xerr=found.half, color=color, capsize=3.5, lw=1.6)
            right.plot(found.mean, y, "o", ms=6, color=color)
        left.set_title(f"validation {label}")
        left.set_xlabel("seconds of training" if axis == "seconds" else "step")
        right.set_title(f"test {label}")
        right.set_yticks([-i for i in range(len(rows))], [_name(row) for row in rows])
        for i, tick in enumerate(right.get_yticklabels()):
            tick.set_color(_COLORS[i % len(_COLORS)])
        right.set_ylim(-len(rows) + 0.4, 0.6)
        right.tick_params(axis="y", length=0)
        _within(left.set_ylim, left.get_ylim(), percent)
        _within(right.set_xlim, right.get_xlim(), percent)
        left.grid(axis="y")
        right.grid(axis="x")
        seeds = max((len(row.values) for row in rows), default=0)
        note = f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "one seed: no interval"
        title = f"{comparison.recipe}: {_BUDGETS[comparison.budget]}"
        figure.text(0, 1.0, title, color=INK, fontsize=11.5, weight="bold")
        right.set_xlabel(note, color=MUTED)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=160, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.15)
    return out.getvalue()


def _within(set_limits: Callable[[float, float], Any], limits: tuple[float, float], percent: bool) -> None:
    """Show no values that the metric cannot have; an interval of two seeds may well reach there."""
    set_limits(max(limits[0], -2.0 if percent else 0.0), min(limits[1], 102.0 if percent else math.inf))


def _curve(row: Row, metric: str, axis: str, folder: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Where a layer was validated, and the mean over its seeds there with half its interval, 0 for one seed.

    Seeds that stopped early end the curve of all: a mean over ever fewer of them would jump.
    """
    runs = [_validations(folder / run / "metrics.csv", metric, axis) for run in row.runs]
    length = min(len(run) for run in runs)
    every = np.stack([run[:length] for run in runs])  # (seeds, validations, 2)
    found = [interval(column) for column in every[..., 1].T.tolist()]
    half = np.nan_to_num([one.half for one in found])
    return every[..., 0].mean(0), np.array([one.mean for one in found]), half


def _validations(path: Path, metric: str, axis: str) -> NDArray[Any]:
    """Where and what, (validations, 2)."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.DictReader(file) if line[f"val_{metric}"]]
            return np.array([(float(line[axis]), float(line[f"val_{metric}"])) for line in lines]).reshape(-1, 2)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ResurgeError(f"{path} is not a log of a run: {error}") from error


def _figure(found: Interval, metric: str) -> str:
    """A figure with its interval; as many digits as the interval, or else the eye, can use."""
    if metric == "accuracy":
        return f"{100 * found.mean:.1f} %" + (f" ± {100 * found.half:.1f}" if math.isfinite(found.half) else "")
    if not math.isfinite(found.half) or not found.half:
        return f"{found.mean:.4g}"
    digits = max(0, 1 - math.floor(math.log10(found.half)))
    if digits > 6:
        return f"{found.mean:.3g} ± {found.half:.1g}"
    return f"{found.mean:.{digits}f} ± {found.half:.{digits}f}"


def _name(row: Row) -> str:
    """The layer's name, marked if it is the recipe's own."""
    return f"{row.layer} (own)" if row.own else row.layer
