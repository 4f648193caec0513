"""The digits that come with scikit-learn: a real task for which nothing has to be downloaded."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resurge.data.base import InputSpec, Splits, Task
from resurge.data.sequences import Sequences, hold_out
from resurge.errors import ResurgeError


@dataclass
class Digits(Task):
    """Handwritten digits of 8 x 8 pixels, read pixel by pixel: 1,797 series of 64 steps, 10 classes.

    A fifth of each class is the test set, a tenth of the rest the validation set. Source: UCI, Optical Recognition of
    Handwritten Digits (Alpaydin and Kaynak, 1998), test part.
    """

    name: ClassVar[str] = "digits"
    source: ClassVar[str] = "comes with scikit-learn"

    split_seed: int = 0
    """Which digits are held out."""

    def load(self) -> Splits:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ResurgeError("'digits' needs scikit-learn: pip install 'resurge[train]'") from error
        images, labels = load_digits(return_X_y=True)
        pixels = images.astype(np.uint8)[..., None]
        rest, test = hold_out(labels, round(0.2 * len(labels)), self.split_seed)
        train, val = (rest[items] for items in hold_out(labels[rest], round(0.1 * len(rest)), self.split_seed))
        spec = InputSpec(
            kind="values", d_input=1, target="class", d_output=10, classes=[str(digit) for digit in range(10)],
            mean=[float(pixels[train].mean())], std=[float(pixels[train].std())],
        )  # fmt: skip

        def part(items: NDArray[Any]) -> Sequences:
            return Sequences.of(pixels[items], labels[items], spec)

        return Splits(part(train), part(val), part(test), spec)
