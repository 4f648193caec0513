"""One picture an op: time against T at constant B T D, every contestant a line, the hardware's limit a dashed one."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks import results
from benchmarks.catalogue import OPS
from benchmarks.ops import LIMIT, OURS, PASSES
from benchmarks.timing import in_words

_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f4f24", "#6c757d", "#9d4edd"]


def draw_ops(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw every op of a result of `benchmarks ops` that was measured at two sizes or more."""
    drawn = []
    device = "cuda" if "gpu" in result["machine"] else "cpu"
    for op, dtype in results.unique((row["op"], row["dtype"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["op"], row["dtype"]) == (op, dtype)]
        size = max(row["B"] * row["T"] * row["D"] for row in rows)
        rows = [row for row in rows if row["B"] * row["T"] * row["D"] == size]
        if len({row["T"] for row in rows}) > 1:
            path = folder / f"{op}-{device}-{dtype}.png"
            _draw(rows, f"{OPS[op].title} ({dtype}, B T D = {size:,})", in_words(result["machine"]), path)
            drawn.append(path)
    return drawn


def _draw(rows: list[dict[str, Any]], title: str, machine: str, path: Path) -> None:
    names = results.unique(row["contestant"] for row in rows)
    names = [OURS, LIMIT, *(name for name in names if name not in (OURS, LIMIT))]
    steps = sorted({row["T"] for row in rows})
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    for panel, direction in zip(panels, PASSES, strict=True):
        for i, name in enumerate(names):
            points = sorted(
                (row["T"], row["seconds"] * 1e3)
                for row in rows
                if (row["contestant"], row["direction"]) == (name, direction)
            )
            style: dict[str, Any] = {"color": _COLOURS[(i - 1) % len(_COLOURS)], "marker": "o", "markersize": 4}
            if name == OURS:
                style |= {"color": "black", "linewidth": 2.5, "zorder": 5}
            elif name == LIMIT:
                style |= {"color": "black", "linestyle": "--", "marker": "", "linewidth": 1.2}
            if points:
                panel.plot(*zip(*points, strict=True), label=name, **style)
        panel.set(title=direction, xlabel="T, with B T D constant", xscale="log", yscale="log")
        panel.set_xticks(steps, [results.power(T) for T in steps])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.grid(axis="y", color="#dddddd", linewidth=0.7)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("milliseconds (log)")
    figure.suptitle(title, fontsize=12)
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    figure.supxlabel(machine, fontsize=7, color="#666666")
    figure.savefig(path, dpi=130)
    plt.close(figure)
