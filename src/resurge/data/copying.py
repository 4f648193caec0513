"""The copying problem: symbols are to be repeated, in order, a long time after they came."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from resurge.data.base import InputSpec
from resurge.data.drawn import DrawnTask, Item
from resurge.errors import at_least

_BLANK, _ASK = 0, 1
_FIRST = 2  # of the symbols


@dataclass
class Copying(DrawnTask):
    """Ten symbols to be repeated in order after a long pause: 1,000 steps, an answer at each of the last ten.

    The tokens are blanks (0), question marks (1) and `n_kinds` symbols. `n_symbols` symbols come at the start, or with
    `selective` at random places among the blanks; the item ends in as many question marks, at each of which one symbol
    is to be told. Who cannot remember is right once in `n_kinds` times. Selective copying is hard for a linear
    recurrence that treats all tokens alike.

    Source: arXiv 1511.06464 (Unitary Evolution Recurrent Neural Networks); selective copying, arXiv 2312.00752 (Mamba).
    """

    name: ClassVar[str] = "copying"
    source: ClassVar[str] = "drawn on the fly"

    n_symbols: int = 10
    """Symbols to remember."""
    n_kinds: int = 8
    """Kinds of symbols."""
    selective: bool = False
    """Symbols at random places, in place of the start."""

    def shortest(self) -> int:
        at_least(1, {"n_symbols": self.n_symbols})
        at_least(2, {"n_kinds": self.n_kinds})
        return 2 * self.n_symbols

    def spec(self) -> InputSpec:
        return InputSpec(kind="tokens", d_input=_FIRST + self.n_kinds, target="answers", d_output=_FIRST + self.n_kinds)

    def draw(self, rng: np.random.Generator) -> Item:
        asked = self.length - self.n_symbols
        symbols = rng.integers(_FIRST, _FIRST + self.n_kinds, self.n_symbols)
        tokens = np.full(self.length, _BLANK)
        places = np.sort(rng.permutation(asked)[: self.n_symbols]) if self.selective else np.arange(self.n_symbols)
        tokens[places] = symbols
        tokens[asked:] = _ASK
        answers = np.full(self.length, -100)
        answers[asked:] = symbols
        return tokens, answers
