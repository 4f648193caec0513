"""A line on the standard error output that counts, for work that turns out to be long."""

import sys
import time
from typing import Self

_PATIENCE = 2.0  # seconds before the first line


class Progress:
    """A context; call it with how much is done. It prints at most five times a second, or every ten to a file.

    Args:
        what: what is being done.
        total: how much there is to do; 0 if unknown.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, f" of {total:,}" if total else ""
        self._next = time.monotonic() + _PATIENCE
        self._shown = False

    def __call__(self, done: int) -> None:
        if time.monotonic() < self._next:
            return
        terminal = sys.stderr.isatty()
        print(f"{self.what}: {done:,}{self.total}", end="\r" if terminal else "\n", file=sys.stderr, flush=True)
        self._next = time.monotonic() + (0.2 if terminal else 10.0)
        self._shown = terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)
