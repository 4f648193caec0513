"""Where results are kept, and how they become tables: on the terminal, and between marks of the documentation."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "runs" / "benchmarks"


def write(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Write a result as FOLDER/NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """The result of that name, or None if it was not measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def plain(table: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )


def markdown(table: Sequence[Sequence[str]], words: int = 1) -> str:
    """The table in markdown; its first row is the head, and its first `words` columns are no numbers."""
    head, *rows = table
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(path: Path, name: str, text: str) -> None:
    """Put `text` between the marks `<!-- NAME -->` and `<!-- end of NAME -->` of a page."""
    page = path.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
    if not marked.search(page):
        raise ValueError(f"{path} has no marks for {name}")
    path.write_text(marked.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page), encoding="utf-8")


def between(path: Path, name: str) -> str:
    """What stands between the marks."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", path.read_text(encoding="utf-8"), re.S)
    return found[1].strip() if found else ""


def power(number: int) -> str:
    """A number of steps in a heading: 512, 8,192, 1M."""
    return f"{number >> 20}M" if number >= 1 << 20 and number % (1 << 20) == 0 else f"{number:,}"


def unique(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of its first appearance."""
    return list(dict.fromkeys(values))
