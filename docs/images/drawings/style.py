"""How the pictures of systems look: the style of the report, in colours for a light and for a dark screen."""

import io
import re
from pathlib import Path
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from resurge.analysis.figures import AFTER, BEFORE, INK, MARK, MUTED, RULE, drawing

GREEN, PURPLE, PAPER = "#1f8a5b", "#8a3fb0", "#fdfdfe"
COLOURS = (AFTER, MARK, GREEN, PURPLE, BEFORE)
HEAT = LinearSegmentedColormap.from_list("heat", [PAPER, "#a9c0ef", AFTER, "#0e2355"])
WIDTH = 8.4  # inches: at the width of a page's column, letters have the size of its text

# each colour, its name as a CSS variable, and what stands for it on a dark screen
_DARK = {
    INK: ("ink", "#e8ebf0"),
    MUTED: ("muted", "#aab4c1"),
    RULE: ("rule", "#3a4350"),
    BEFORE: ("before", "#7e8a99"),
    AFTER: ("after", "#7ea6ff"),
    MARK: ("mark", "#ff9a63"),
    GREEN: ("green", "#5fd3a0"),
    PURPLE: ("purple", "#cf9bee"),
    PAPER: ("paper", "#1b2029"),
}

__all__ = [
    "AFTER",
    "BEFORE",
    "COLOURS",
    "GREEN",
    "HEAT",
    "INK",
    "MARK",
    "MUTED",
    "PAPER",
    "PURPLE",
    "RULE",
    "WIDTH",
    "drawing",
    "panels",
    "save",
]


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure of the page's width, and its axes as an array (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06, hspace=0.08)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as an SVG whose text stays text, on paper of its own."""
    out = io.StringIO()
    for axes in figure.axes:
        axes.set_facecolor("none")
    figure.savefig(
        out,
        format="svg",
        metadata={"Date": None, "Creator": None},
        facecolor="none",
        bbox_inches="tight",
        pad_inches=0.14,
        dpi=110,
    )
    svg = out.getvalue()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"(\d\d\.\d|\d\.\d\d)\d+", r"\1", svg)  # a tenth of a point in a hundred is less than can be seen
    fonts = max(re.findall(r"font-family: ([^;]*);", svg), key=len, default="sans-serif")  # not that of formulas
    svg = re.sub(r" font-family: [^;]*;", "", svg)  # once, in the sheet
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    for colour, (name, _) in _DARK.items():
        svg = svg.replace(f": {colour}", f": var(--{name})")
    light, dark = (";".join(f"--{name}:{value}" for name, value in pairs) for pairs in _schemes())
    text = f"text{{font-family:{fonts}}}"
    text += "image{image-rendering:pixelated}"  # small images, of which each cell is to be seen
    sheet = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{text}</style>"
    start, rest = svg.split(">", 1)
    paper = '<rect width="100%" height="100%" rx="6" style="fill: var(--paper)"/>'
    path.write_text(f"{start}>\n{sheet}\n{paper}{rest}", encoding="utf-8")


def _schemes() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return [(name, colour) for colour, (name, _) in _DARK.items()], list(_DARK.values())
