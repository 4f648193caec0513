"""Batches in an order that is a function of (seed, epoch), from any position."""

from collections.abc import Iterator

import numpy as np
import torch

from resurge.data.base import Batch, Split
from resurge.errors import ResurgeError


class BatchLoader:
    """The batches of a split, epoch after epoch.

    Each iteration is one epoch, and ends by counting up to the next. There is no state but the position: after
    `load_state_dict` the next iteration goes on with exactly the batch that would have followed.

    Args:
        split: where the items come from.
        batch_size: items a batch; the last batch of an epoch may have fewer.
        shuffle: another order in each epoch, a function of (seed, epoch); or the order of the split.
        seed: of the order, 0 or more.
        drop_last: leave out a last batch that is not full.

    Raises:
        ResurgeError: a number out of range, or a split too small for a single batch.
    """

    def __init__(self, split: Split, batch_size: int, *, shuffle: bool, seed: int = 0, drop_last: bool = False) -> None:
        if batch_size < 1 or seed < 0:
            raise ResurgeError(f"batch_size must be at least 1 and seed 0, and they are {batch_size} and {seed}")
        self.split, self.batch_size, self.shuffle, self.seed = split, batch_size, shuffle, seed
        self._batches = len(split) // batch_size if drop_last else -(-len(split) // batch_size)
        if not self._batches:
            raise ResurgeError(f"{len(split)} items make no batch of {batch_size}")
        self._epoch = self._batch = self._start = 0

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._batches

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be epoch `epoch`, from its first batch."""
        self.load_state_dict({"epoch": epoch, "batch": 0})

    def state_dict(self) -> dict[str, int]:
        """The position: the epoch, and how many of its batches were handed out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start from a position, and finish that epoch.

        Raises:
            ResurgeError: no epoch has such a position.
        """
        epoch, batch = state["epoch"], state["batch"]
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ResurgeError(f"there is no batch {batch} of epoch {epoch}: an epoch has {len(self)} batches")
        self._epoch, self._batch, self._start = epoch, batch, batch

    def __iter__(self) -> Iterator[Batch]:
        epoch, start, self._start = self._epoch, self._start, 0
        split, items = self.split, torch.arange(len(self.split))
        if self.shuffle:
            split = split.at_epoch(self.seed, epoch)
            items = torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(len(split)))
        for batch in range(start, len(self)):
            self._batch = batch + 1
            yield split.batch(items[batch * self.batch_size : (batch + 1) * self.batch_size])
        self._epoch, self._batch = epoch + 1, 0
