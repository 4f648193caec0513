"""Series in memory, of one length or of many, and how some of them are held out."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from resurge.data.base import Batch, InputSpec, Split
from resurge.errors import ResurgeError


class Sequences(Split):
    """Series joined in one raw array, normalised and padded only when a batch is made.

    Args:
        raw: all steps of all series, values (S, d) or tokens (S,), in whatever dtype the data came.
        offsets: (N + 1,); series i is `raw[offsets[i] : offsets[i + 1]]`, at least one step long.
        targets: (N,) classes, or (N, k) values.
        spec: how raw steps become inputs.
    """

    def __init__(self, raw: NDArray[Any], offsets: NDArray[Any], targets: NDArray[Any], spec: InputSpec) -> None:
        self.spec = spec
        self.raw = torch.from_numpy(raw)
        self.offsets = torch.from_numpy(offsets).long()
        self.lengths = self.offsets.diff()
        self.targets = torch.from_numpy(targets).to(torch.int64 if spec.target == "class" else torch.float32)
        self._same_length = bool((self.lengths == self.lengths[:1]).all())

    @classmethod
    def of(cls, series: Sequence[NDArray[Any]] | NDArray[Any], targets: NDArray[Any], spec: InputSpec) -> Self:
        """From a list of series, or one array whose first axis counts them."""
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in series])])
        raw = series.reshape(-1, *series.shape[2:]) if isinstance(series, np.ndarray) else np.concatenate(series)
        return cls(raw, offsets, targets, spec)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> Batch:
        lengths = self.lengths[indices]
        if self._same_length:
            steps = self.offsets[indices, None] + torch.arange(int(lengths[0]))
            return Batch(self.spec.inputs(self.raw[steps]), self.targets[indices], None)
        steps = torch.cat([torch.arange(*self.offsets[i : i + 2].tolist()) for i in indices.tolist()])
        rows = self.spec.inputs(self.raw[steps]).split(lengths.tolist())
        return Batch(pad_sequence(list(rows), batch_first=True), self.targets[indices], lengths)


def hold_out(labels: NDArray[Any], count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of what stays and of `count` items held out, both sorted, each class in its proportion.

    One by one, the class of which the smallest share is held out gives an item: so every class gives one before any
    gives two. No class gives its last item. Without classes, pass equal labels.

    Raises:
        ResurgeError: `count` is below 1, or there is no item to spare.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, shuffled within
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    share = (np.arange(len(order)) - np.repeat(starts, sizes)) / np.repeat(sizes, sizes)
    share[starts + sizes - 1] = np.inf
    spare = len(order) - len(sizes)
    if not 1 <= count <= len(order) or not spare:
        raise ResurgeError(f"{count} of {len(order)} items in {len(sizes)} classes cannot be held out")
    held = order[np.argsort(share, kind="stable")[: min(count, spare)]]
    return np.setdiff1d(np.arange(len(labels)), held), np.sort(held)
