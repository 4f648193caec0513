"""The adding problem: two numbers, any distance apart, are to be added up at the end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from resurge.data.base import InputSpec
from resurge.data.drawn import DrawnTask, Item


@dataclass
class Adding(DrawnTask):
    """The sum of the two marked numbers among many: 5,000 steps of two channels by default, one value to tell.

    Channel 0 is uniform in [0, 1]; channel 1 is 1 at two steps, one drawn from the first half of the series and one
    from the rest, and 0 elsewhere. The target is the sum of the two numbers marked. Always to say 1 leaves a mean
    squared error of 1/6. Let the last
    output answer, not the mean of all: a mean over time adds up without any memory.

    Source: Long Short-Term Memory (Hochreiter and Schmidhuber, 1997), with the markers of arXiv 1511.06464.
    """

    name: ClassVar[str] = "adding"
    source: ClassVar[str] = "drawn on the fly"

    length: int = 5_000
    """Steps of a series."""

    def shortest(self) -> int:
        return 2

    def spec(self) -> InputSpec:
        return InputSpec(kind="values", d_input=2, target="value", d_output=1, mean=[0.0, 0.0], std=[1.0, 1.0])

    def draw(self, rng: np.random.Generator) -> Item:
        half = self.length // 2
        steps = np.zeros((self.length, 2), np.float32)
        steps[:, 0] = rng.random(self.length, np.float32)
        marked = [rng.integers(half), rng.integers(half, self.length)]
        steps[marked, 1] = 1
        return steps, steps[marked, 0].sum(keepdims=True)
