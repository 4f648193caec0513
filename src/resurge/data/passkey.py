"""Passkey retrieval: a number somewhere in a long text that says nothing, to be told at its end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from resurge.data.base import InputSpec
from resurge.data.drawn import DrawnTask, Item
from resurge.errors import ResurgeError, at_least

_DIGITS = 10  # tokens 0 to 9
_KEY, _END, _ASK = 10, 11, 12
_FILLER = range(13, 29)  # the words of the filler


@dataclass
class Passkey(DrawnTask):
    """A key of five digits hidden in filler, to be told at the end: 1,000 steps, an answer at each of the last five.

    The tokens are ten digits, "the key is" (10), the end of the key (11), a question mark (12) and sixteen words of
    filler. The filler is one sentence of these words over and over, from a random one of its words on, or with
    `random_filler` any words. The key stands between its two marks; `n_digits` question marks end the item, at each of
    which one digit is to be told. Who cannot remember is right once in ten times. `resurge evaluate` tells the share of
    digits that are right.

    Source: arXiv 2305.16300 (Landmark Attention); keys, filler and depths as in arXiv 2410.07145 (Stuffed Mamba).
    """

    name: ClassVar[str] = "passkey"
    source: ClassVar[str] = "drawn on the fly"

    n_digits: int = 5
    """Digits of the key."""
    depth: float = -1.0
    """Where the key stands: share of the filler before it, 0 to 1; below 0: anywhere."""
    random_filler: bool = False
    """Filler without order, which is harder to tell from a key."""

    def shortest(self) -> int:
        at_least(1, {"n_digits": self.n_digits})
        if not self.depth <= 1:
            raise ResurgeError(f"depth must be at most 1, and is {self.depth}")
        return 2 * self.n_digits + 2

    def spec(self) -> InputSpec:
        return InputSpec(kind="tokens", d_input=_FILLER.stop, target="answers", d_output=_FILLER.stop)

    def draw(self, rng: np.random.Generator) -> Item:
        digits = rng.integers(_DIGITS, size=self.n_digits)
        room = self.length - 2 * self.n_digits - 2
        before = round(self.depth * room) if self.depth >= 0 else int(rng.integers(room + 1))
        n = len(_FILLER)
        words = rng.integers(n, size=room) if self.random_filler else (rng.integers(n) + np.arange(room)) % n
        filler = words + _FILLER.start
        tokens = np.concatenate([filler[:before], [_KEY], digits, [_END], filler[before:], [_ASK] * self.n_digits])
        answers = np.full(self.length, -100)
        answers[-self.n_digits :] = digits
        return tokens, answers
