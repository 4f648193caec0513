"""Errors a user can act on: one line that says what was wrong, what was expected and what was given."""

from collections.abc import Iterable
from difflib import get_close_matches


class ResurgeError(ValueError):
    """Something the user gave is wrong. The message is one line; the command line prints it and exits with 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'lru'?"` for the choice nearest to `name`, or an empty string if none is near."""
    matches = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def unknown(what: str, name: str, choices: Iterable[str]) -> ResurgeError:
    """The error for a name that is none of `choices`."""
    known = sorted(choices)
    return ResurgeError(f"unknown {what} '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
