"""In-context linear regression: pairs of inputs and outputs of an unknown linear function, then one more input."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from resurge.data.base import InputSpec
from resurge.data.drawn import DrawnTask, Item
from resurge.errors import at_least


def prompts(
    rng: np.random.Generator, rows: int, length: int, d_input: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prompts `(rows, length, d_input + 1)` and the values to tell `(rows, 1)`.

        w ~ N(0, I / d_input),    x_t ~ N(0, I),    y_t = wᵀ x_t

    Step t holds (x_t, y_t); the last one holds (x, 0), and its y is to be told. Each row has its own w. Always to say 0
    leaves a mean squared error of 1.
    """
    w = rng.standard_normal((rows, 1, d_input)) / np.sqrt(d_input)
    x = rng.standard_normal((rows, length, d_input))
    y = (w * x).sum(-1, keepdims=True)
    steps = np.concatenate([x, y], -1).astype(np.float32)
    steps[:, -1, -1] = 0
    return steps, y[:, -1].astype(np.float32)


def gradient_step(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """What one step of gradient descent from w = 0 on the pairs of each prompt tells of its last input, `(rows, 1)`.

        y = η Σ_t y_t x_tᵀ x,    η = 1 / (n + d_input + 1)    for n pairs

    This η is the best one, and leaves a mean squared error of (d_input + 1) / (n + d_input + 1). Nothing that is linear
    in products x_t y_t and in x does better on average.
    """
    n, d = steps.shape[1] - 1, steps.shape[2] - 1
    w = (steps[:, :-1, -1:] * steps[:, :-1, :-1]).sum(1) / (n + d + 1)
    value: NDArray[np.float32] = (w * steps[:, -1, :-1]).sum(-1, keepdims=True)
    return value


@dataclass
class InContextRegression(DrawnTask):
    """The next value of a linear function that only the prompt tells: 13 steps of four channels, one value to tell.

    `prompts` tells how they are drawn. Always to say 0 leaves a mean squared error of 1; one step of gradient descent
    (`gradient_step`) leaves (d + 1) / (length + d), 1/4 by default. Give the model's last output, not the mean of all.

    Source: the in-context task of arXiv 2309.01775 and 2212.07677, with normal inputs and one output.
    """

    name: ClassVar[str] = "regression"
    source: ClassVar[str] = "drawn on the fly"

    length: int = 13
    """Steps of a prompt, the question among them."""
    d_input: int = 3
    """Inputs of the function."""

    def shortest(self) -> int:
        at_least(1, {"d_input": self.d_input})
        return 2

    def spec(self) -> InputSpec:
        d = self.d_input + 1
        return InputSpec(kind="values", d_input=d, target="value", d_output=1, mean=[0.0] * d, std=[1.0] * d)

    def draw(self, rng: np.random.Generator) -> Item:
        steps, value = prompts(rng, 1, self.length, self.d_input)
        return steps[0], value[0]
