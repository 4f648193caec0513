"""Errors a user can act on: one line that says what was wrong, what was expected and what was given."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class ResurgeError(ValueError):
    """Something the user gave is wrong. The message is one line; the command line prints it and exits with 2."""


class Diverged(ResurgeError):
    """A training has come to a loss that is not finite."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'lru'?"` for the choice nearest to `name`, or an empty string if none is near."""
    matches = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def at_least(least: int, numbers: Mapping[str, float]) -> None:
    """Refuse the first of the named `numbers` that is below `least`, infinite or NaN.

    Raises:
        ResurgeError: there is one.
    """
    for name, number in numbers.items():
        if not least <= number < math.inf:
            raise ResurgeError(f"{name} must be at least {least}, and is {number}")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes.

    Raises:
        ResurgeError: it is negative or has more than 32 bits.
    """
    if not 0 <= seed < 1 << 32:
        raise ResurgeError(f"seed must lie between 0 and {(1 << 32) - 1}, and is {seed}")


def unknown(what: str, name: str, choices: Iterable[str]) -> ResurgeError:
    """The error for a name that is none of `choices`."""
    known = sorted(choices)
    return ResurgeError(f"unknown {what} '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
