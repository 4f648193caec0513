"""Sequential MNIST: the digits of 28 x 28 pixels, one pixel a step, in order or in a fixed random order."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resurge.data.base import InputSpec, Splits
from resurge.data.folder import FolderTask
from resurge.data.reading import read_npz
from resurge.data.sequences import Sequences, hold_out


@dataclass
class SMNIST(FolderTask):
    """MNIST pixel by pixel: 60,000 + 10,000 series of 784 steps, 10 classes.

    The validation set is cut from the training set. Pixels (0 to 255) are standardised by the usual .1307 and .3081
    of x / 255. Source: arXiv 1504.00941 (IRNN).
    """

    name: ClassVar[str] = "smnist"
    source: ClassVar[str] = "data folder, or download (11 MB)"
    archive: ClassVar[str] = "mnist"

    n_val: int = 5_000
    """Training digits held out for validation."""
    split_seed: int = 0
    """Which digits they are."""

    def order(self) -> NDArray[np.int64]:
        """Which pixel of the image comes at each step."""
        return np.arange(784)

    def load(self) -> Splits:
        arrays = read_npz(self.file("mnist/mnist.npz"), ["x_train", "y_train", "x_test", "y_test"])
        spec = InputSpec(
            kind="values", d_input=1, target="class", d_output=10, classes=[str(digit) for digit in range(10)],
            mean=[0.1307 * 255], std=[0.3081 * 255],
        )  # fmt: skip

        def part(x: NDArray[Any], y: NDArray[Any]) -> Sequences:
            return Sequences.of(x.reshape(-1, 784, 1)[:, self.order()], y, spec)

        x, y = arrays["x_train"], arrays["y_train"]
        train, val = hold_out(y, self.n_val, self.split_seed)
        test = part(arrays["x_test"], arrays["y_test"])
        return Splits(part(x[train], y[train]), part(x[val], y[val]), test, spec)


@dataclass
class PSMNIST(SMNIST):
    """MNIST pixel by pixel in one random order: its structure lies at long distances.

    As `smnist` else. Source: arXiv 1504.00941 (IRNN).
    """

    name: ClassVar[str] = "psmnist"

    permutation_seed: int = 0
    """Which order it is."""

    def order(self) -> NDArray[np.int64]:
        return np.random.default_rng(self.permutation_seed).permutation(784)
