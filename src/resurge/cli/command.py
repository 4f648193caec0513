"""What all commands share: being parsed from words, and printing one JSON object a line."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import tyro

from resurge.cli.parsing import parse

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option that is off unless it is given."""


@dataclass
class Command:
    """A command is a dataclass of its options; its docstring is its help."""

    NAME: ClassVar[str]
    EXAMPLES: ClassVar[tuple[str, ...]]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """The command that `words` call for; see `parsing.parse`."""
        return parse(cls, words, f"resurge {cls.NAME}")

    def run(self) -> int:
        """Do it; the exit code."""
        raise TypeError(f"{type(self).__name__} does not define run")


def json_line(value: Mapping[str, Any]) -> str:
    """`value` as one line of JSON; infinite and undefined numbers, which JSON lacks, become null."""
    line = json.dumps(_finite(value), ensure_ascii=False)
    return line.encode(errors="backslashreplace").decode()  # an argument that is no UTF-8 holds halves of characters


def print_figures(figures: Mapping[str, float]) -> None:
    """One figure a line, names left, numbers aligned."""
    width = max((len(name) for name in figures), default=0)
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value
