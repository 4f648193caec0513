"""Sequential CIFAR-10 in grey, the Image task of the Long Range Arena."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from resurge.data.base import InputSpec, Splits
from resurge.data.folder import FolderTask
from resurge.data.reading import read_npz
from resurge.data.sequences import Sequences, hold_out


@dataclass
class SCIFAR(FolderTask):
    """CIFAR-10 in grey, pixel by pixel: 50,000 + 10,000 series of 1,024 steps, 10 classes.

    The validation set is cut from the training set. Pixels (0 to 255) are standardised as (x - 122.6) / 61. Source:
    arXiv 2011.04006 (Long Range Arena), normalised as in arXiv 2111.00396 (S4).
    """

    name: ClassVar[str] = "scifar"
    source: ClassVar[str] = "data folder, or download (162 MB)"
    archive: ClassVar[str] = "cifar"

    n_val: int = 5_000
    """Training images held out for validation."""
    split_seed: int = 0
    """Which images they are."""

    def load(self) -> Splits:
        arrays, test = (
            read_npz(self.file(f"cifar10_grey/cifar10_grey_{part}.npz"), ["x", "y", "class_names"])
            for part in ("train", "test")
        )
        spec = InputSpec(
            kind="values", d_input=1, target="class", d_output=10, classes=arrays["class_names"].tolist(),
            mean=[122.6], std=[61.0],
        )  # fmt: skip

        def part(x: NDArray[Any], y: NDArray[Any]) -> Sequences:
            return Sequences.of(x[..., None], y, spec)

        x, y = arrays["x"], arrays["y"]
        train, val = hold_out(y, self.n_val, self.split_seed)
        return Splits(part(x[train], y[train]), part(x[val], y[val]), part(test["x"], test["y"]), spec)
