"""Film reviews as bytes, the Text task of the Long Range Arena."""

import gzip
import json
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resurge.data.base import InputSpec, Splits
from resurge.data.folder import FolderTask
from resurge.data.sequences import Sequences, hold_out
from resurge.errors import ResurgeError


@dataclass
class IMDB(FolderTask):
    """Whether a film review is positive, from its bytes: 25,000 + 25,000 series of up to 4,096 steps, 2 classes.

    Tokens are 1 to 256 for the bytes and 0 for padding. The benchmark has no validation set, and its published
    figures were chosen by the test set; here a part of the training set is cut off for that, so that the test set
    says something about new reviews. Source: Maas et al. 2011; arXiv 2011.04006 (Long Range Arena).
    """

    name: ClassVar[str] = "imdb"
    source: ClassVar[str] = "data folder, or download (84 MB)"
    archive: ClassVar[str] = "imdb"

    max_length: int = 4_096
    """Bytes of a review that are read, from its start."""
    val_fraction: float = 0.05
    """Share of the training reviews held out for validation."""
    split_seed: int = 0
    """Which reviews they are."""

    def load(self) -> Splits:
        if self.max_length < 1 or not 0 < self.val_fraction < 1:
            raise ResurgeError(
                "max_length must be at least 1 and val_fraction lie within (0, 1), and they are"
                f" {self.max_length} and {self.val_fraction}"
            )
        spec = InputSpec(
            kind="tokens", d_input=257, target="class", d_output=2, classes=["negative", "positive"], encoding="bytes"
        )
        texts, labels = self._read("train")
        train, val = hold_out(labels, round(self.val_fraction * len(labels)), self.split_seed)

        def part(items: NDArray[Any]) -> Sequences:
            return Sequences.of([texts[i] for i in items], labels[items], spec)

        return Splits(part(train), part(val), Sequences.of(*self._read("test"), spec), spec)

    def _read(self, part: str) -> tuple[list[NDArray[np.uint8]], NDArray[Any]]:
        path = self.file(f"imdb/imdb_{part}.jsonl.gz")
        try:
            with gzip.open(path) as lines:
                reviews = [json.loads(line) for line in lines]
            texts = [review["text"].encode()[: self.max_length] for review in reviews]
            labels = np.array([review["label"] for review in reviews])
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise ResurgeError(f"{path}: is not the reviews as gzipped lines of JSON: {error}") from error
        return [np.frombuffer(text, np.uint8) for text in texts], labels
