"""Items that are drawn when a batch asks for them: nothing is stored, however many there are and however long."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resurge.data.base import Batch, InputSpec, Split, Splits, Task
from resurge.errors import ResurgeError, at_least, check_seed

Item = tuple[NDArray[Any], NDArray[Any]]
"""The raw steps of one item, and its target."""


class Drawn(Split):
    """`count` items of one length, item i a pure function of (key, epoch, i). Training draws others in each epoch.

    Args:
        draw: makes an item from a generator.
        count: number of items, of an epoch where they are trained on.
        key: two numbers that no other split of the task has.
        spec: how raw steps become inputs.
    """

    def __init__(
        self, draw: Callable[[np.random.Generator], Item], count: int, key: tuple[int, int], spec: InputSpec
    ) -> None:
        self.draw, self.count, self.key, self.spec = draw, count, key, spec
        self.epoch = (0, 0)

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor) -> Batch:
        items = [self.draw(np.random.default_rng((*self.key, *self.epoch, i))) for i in indices.tolist()]
        raw, targets = (torch.from_numpy(np.stack(part)) for part in zip(*items, strict=True))
        return Batch(self.spec.inputs(raw), targets.float() if self.spec.target == "value" else targets.long(), None)

    def at_epoch(self, seed: int, epoch: int) -> "Drawn":
        split = Drawn(self.draw, self.count, self.key, self.spec)
        split.epoch = (seed, epoch + 1)  # (0, 0) is no epoch: the items before one is asked for
        return split


@dataclass
class DrawnTask(Task):
    """A task whose items are drawn on the fly."""

    length: int = 1_000
    """Steps of an item."""
    n_train: int = 10_000
    """Items of an epoch of training, other ones in each."""
    n_val: int = 1_000
    """For validation."""
    n_test: int = 1_000
    """For the test."""
    data_seed: int = 0
    """Another seed, other items."""

    def load(self) -> Splits:
        at_least(1, {"n_train": self.n_train, "n_val": self.n_val, "n_test": self.n_test})
        check_seed(self.data_seed)
        if self.length < self.shortest():
            raise ResurgeError(f"length must be at least {self.shortest()} here, and is {self.length}")
        spec = self.spec()
        counts = (self.n_train, self.n_val, self.n_test)
        train, val, test = (Drawn(self.draw, count, (self.data_seed, part), spec) for part, count in enumerate(counts))
        return Splits(train, val, test, spec)

    @abstractmethod
    def shortest(self) -> int:
        """The least length that the other options allow; they are checked."""

    @abstractmethod
    def spec(self) -> InputSpec:
        """How items enter a model."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Item:
        """One item."""
