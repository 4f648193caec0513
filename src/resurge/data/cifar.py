"""Sequential CIFAR-10: in grey, the Image task of the Long Range Arena, or in colour."""

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
    images: ClassVar[str] = "cifar10_grey"
    """Their files' name."""
    channels: ClassVar[tuple[tuple[float, float], ...]] = ((122.6, 61.0),)
    """The mean and the deviation that each is standardised by."""

    n_val: int = 5_000
    """Training images held out for validation."""
    split_seed: int = 0
    """Which images they are."""

    def load(self) -> Splits:
        arrays, test = (
            read_npz(self.file(f"{self.images}/{self.images}_{part}.npz"), ["x", "y", "class_names"])
            for part in ("train", "test")
        )
        mean, std = map(list, zip(*self.channels, strict=True))
        spec = InputSpec(
            kind="values", d_input=len(mean), target="class", d_output=10, classes=arrays["class_names"].tolist(),
            mean=mean, std=std,
        )  # fmt: skip

        def part(x: NDArray[Any], y: NDArray[Any]) -> Sequences:
            return Sequences.of(x.reshape(len(x), 1024, -1), y, spec)

        x, y = arrays["x"], arrays["y"]
        train, val = hold_out(y, self.n_val, self.split_seed)
        return Splits(part(x[train], y[train]), part(x[val], y[val]), part(test["x"], test["y"]), spec)


@dataclass
class SCIFARColour(SCIFAR):
    """CIFAR-10 in colour, pixel by pixel: three channels a step, as `scifar` else.

    Channels (0 to 255) are standardised by means .4914, .4822, .4465 and deviations .247, .243, .261 of x / 255, as in
    arXiv 2303.06349 (LRU), whose sequential CIFAR this is.
    """

    name: ClassVar[str] = "scifar_colour"
    archive: ClassVar[str] = "cifar_colour"
    images: ClassVar[str] = "cifar10_colour"
    channels: ClassVar[tuple[tuple[float, float], ...]] = (
        (0.4914 * 255, 0.247 * 255), (0.4822 * 255, 0.243 * 255), (0.4465 * 255, 0.261 * 255),
    )  # fmt: skip
