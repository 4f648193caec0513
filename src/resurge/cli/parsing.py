"""From words on the command line to a dataclass: tyro parses, and what it refuses is told in one line."""

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any, TypeVar

import tyro

from resurge.errors import ResurgeError, nearest

C = TypeVar("C")

_PLAINER = {
    r"could not convert string to float: (.*)": r"a number expected, \1 given",
    r"invalid literal for int\(\) with base 10: (.*)": r"an integer expected, \1 given",
    r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*?),?\)": r"\2: one of \3 expected, \1 given",
    r"Missing value for argument '(.*)'\..*": r"\1: a value expected after it",
    r"Missing from .*?: (\S+).*": r"\1 is needed, and was not given",
    r"Unrecognized options: (.*)": r"'\1' is one argument too many",
}


def parse(cls: type[C], words: Sequence[str], prog: str, default: C | None = None) -> C:
    """An instance of the dataclass `cls` from `words`; fields of nested dataclasses go by their own names alone.

    Raises:
        ResurgeError: an option that does not exist (the nearest one is named), a value of another type, a missing one.
        SystemExit: `--help` was asked for and printed.
    """
    config = (tyro.conf.OmitArgPrefixes,)
    instance: Any = tyro.MISSING_NONPROP if default is None else default
    problem = io.StringIO()
    try:
        with redirect_stderr(problem):
            parsed: C = tyro.cli(cls, args=words, prog=prog, config=config, default=instance)
            return parsed
    except SystemExit as stop:
        if not stop.code:
            raise
    help_text = io.StringIO()
    with redirect_stdout(help_text), suppress(SystemExit):
        tyro.cli(cls, args=["--help"], prog=prog, config=config, default=instance)
    known = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_text.getvalue())))
    raise ResurgeError(_misspelt(words, known) or _line(problem.getvalue())) from None


def _misspelt(words: Sequence[str], known: list[str]) -> str:
    """The message for the first option that does not exist."""
    for word in words:
        option = word.split("=")[0].replace("_", "-")
        if re.match(r"--[a-z]", option) and option not in known:
            return f"unknown option '{option}'.{nearest(option, known) or ' --help lists them all.'}"
    return ""


def _line(box: str) -> str:
    """The message inside tyro's box as one line: its first paragraph."""
    rows = [row.strip("│| ") for row in box.splitlines()[1:]]
    paragraph: list[str] = []
    for row in rows:
        if paragraph and (not row or set(row) <= set("─-╰╯+")):
            break
        paragraph.append(row)
    message = " ".join(paragraph).removeprefix("Error parsing ")
    for pattern, plainer in _PLAINER.items():
        message = re.sub(pattern, plainer, message)
    return message.rstrip(".") or "the options cannot be understood; --help explains them"
