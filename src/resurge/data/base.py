"""What every task gives: splits that make batches, and what a trained model must remember of its inputs."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from resurge.data import encoding
from resurge.errors import ResurgeError, unknown


class Batch(NamedTuple):
    """What a model sees at once.

    inputs are values (B, T, d) float32 or tokens (B, T) int64, rows padded on the right with zeros; targets are
    classes (B,) int64, values (B, k) float32, next tokens (B, T) int64, or answers (B, T) int64, -100 at steps where
    none is asked; lengths (B,) int64 tells how many steps of a row are real, None that all are. Where an item is a pair
    of series, inputs are (B, 2, T) or (B, 2, T, d), and lengths (B, 2).
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None

    @property
    def steps(self) -> int:
        """Number of steps of all rows, padding included."""
        return self.inputs[..., 0].numel() if self.inputs.is_floating_point() else self.inputs.numel()


@dataclass(frozen=True)
class InputSpec:
    """What a trained run remembers of its data, so that it can serve new data. Plain JSON values only."""

    kind: Literal["values", "tokens"]
    """Real channels, or tokens."""
    d_input: int
    """Number of channels, or of kinds of tokens."""
    target: Literal["class", "value", "next_token", "answers"]
    """What is to be told: one class a series, k real values a series, each next token, or a token at some steps."""
    d_output: int
    """Number of classes, of values, or of kinds of tokens."""
    mean: list[float] = field(default_factory=list)
    """Of each channel; a raw value v enters as (v - mean) / std. Empty for tokens."""
    std: list[float] = field(default_factory=list)
    """Of each channel."""
    classes: list[str] = field(default_factory=list)
    """The names of the classes, in the order of their numbers."""
    encoding: Literal["", "bytes", "listops"] = ""
    """How raw text becomes tokens."""
    pairs: bool = False
    """An item is two series, and the class is of both together."""

    def inputs(self, raw: Tensor) -> Tensor:
        """What a model takes, from raw values (..., d_input) or raw tokens (...), as data sets keep them.

        Values are standardised per channel. Bytes are shifted by one where 0 is padding (`d_input` 257).
        """
        if self.kind == "tokens":
            return raw.long() + (self.d_input - 256 if self.encoding == "bytes" else 0)
        exact = (
            raw.dtype if raw.dtype == torch.float64 else torch.float32
        )  # float32 would lose values with a large mean
        return ((raw.to(exact) - torch.tensor(self.mean, dtype=exact)) / torch.tensor(self.std, dtype=exact)).float()

    def encode(self, text: bytes) -> Tensor:
        """The tokens (T,) that a model takes for raw text.

        Raises:
            ResurgeError: the inputs are values, or the text is not what the encoding expects.
        """
        if not self.encoding and self.kind == "tokens":
            raise ResurgeError(f"this model takes series of {self.d_input} kinds of tokens, and was given text")
        if not self.encoding:
            raise ResurgeError(f"this model takes series of {self.d_input} values a step, and was given text")
        return self.inputs(encoding.ENCODERS[self.encoding](text))

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ResurgeError: a key is unknown or missing.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("key of the input spec", key, known)
        try:
            return cls(**values)
        except TypeError as error:
            raise ResurgeError(f"the input spec is not complete: {error}") from error


class Split(ABC):
    """Items in a compact form, made into batches on the fly."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def batch(self, indices: Tensor) -> Batch:
        """The items `indices` (B,) int64 as one batch."""

    def at_epoch(self, seed: int, epoch: int) -> "Split":
        """The items as training sees them in epoch `epoch`: as many in each, and a pure function of both numbers."""
        return self


class Splits(NamedTuple):
    """A task's data, and how it enters a model."""

    train: Split
    val: Split
    test: Split
    spec: InputSpec


@dataclass
class Task(ABC):
    """A task. The fields of its dataclass are its options, and determine its data."""

    name: ClassVar[str]
    source: ClassVar[str]
    """Where the data comes from, in a few words."""

    @abstractmethod
    def load(self) -> Splits:
        """The data. A function of the fields alone."""

    def present(self) -> bool:
        """Whether `load` needs neither a network nor long work."""
        return True

    def prepare(self) -> None:
        """Fetch or generate what `load` needs."""
        self.load()
