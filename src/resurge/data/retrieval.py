"""Whether two long texts belong together, the Retrieval task of the Long Range Arena."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from resurge.data.base import Batch, InputSpec, Split, Splits
from resurge.data.drawn import DrawnTask, Item
from resurge.data.progress import Progress
from resurge.data.reading import number
from resurge.data.sequences import hold_out
from resurge.errors import ResurgeError, at_least

_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", np.uint8)


class Pair(NamedTuple):
    """Two texts, and whether they belong together."""

    texts: tuple[bytes, bytes]
    label: int


class Pairs(Split):
    """Pairs of byte texts of any length, padded only when a batch is made."""

    def __init__(self, pairs: Sequence[Pair], spec: InputSpec) -> None:
        self.pairs, self.spec = pairs, spec

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Tensor) -> Batch:
        pairs = [self.pairs[i] for i in indices.tolist()]
        texts = [torch.frombuffer(bytearray(text), dtype=torch.uint8) for pair in pairs for text in pair.texts]
        inputs = pad_sequence([self.spec.inputs(text) for text in texts], batch_first=True)
        lengths = torch.tensor([len(text) for text in texts])
        targets = torch.tensor([pair.label for pair in pairs])
        return Batch(inputs.unflatten(0, (-1, 2)), targets, lengths.view(-1, 2))


@dataclass
class Retrieval(DrawnTask):
    """Whether one of two texts cites the other, from their bytes: pairs of 4,000 steps, 2 classes.

    With `path`, the pairs of your own file, of lines "label, id 1, id 2, text 1, text 2" between tabs, as the
    benchmark's new_aan_pairs.train.tsv (147,086 pairs of papers, whose texts may not be passed on). Label is 0 or 1;
    of each text the first `length` bytes are read, and become tokens 1 to 256, 0 being padding.

    Without it, a substitute drawn on the fly: both texts are noise, words of letters drawn alone, with a key phrase at
    `n_copies` places of each, one of `n_keys`; the label tells whether both have the same. Who cannot find the phrases
    is right in half of the cases. It shows that a model can compare what it finds in two long texts, and says nothing
    about citations. Source: arXiv 2011.04006 (Long Range Arena).
    """

    name: ClassVar[str] = "retrieval"
    source: ClassVar[str] = "a file of yours: --path; or else drawn on the fly"

    length: int = 4_000
    """Bytes of a text: all of them if drawn, at most so many of a file."""
    path: str = ""
    """A .tsv file with the training pairs; empty for the substitute."""
    val_path: str = ""
    """With the validation pairs; if empty and `path` has train in its name, the file beside it with eval there."""
    test_path: str = ""
    """With the test pairs, found likewise by test. Where there is no file, a twentieth of the pairs is held out."""
    n_keys: int = 16
    """Key phrases of the substitute."""
    key_length: int = 12
    """Letters of a phrase."""
    n_copies: int = 8
    """Places of a text where its phrase is."""

    def shortest(self) -> int:
        at_least(1, {"key_length": self.key_length, "n_copies": self.n_copies})
        at_least(2, {"n_keys": self.n_keys})
        return self.n_copies * self.key_length

    def spec(self) -> InputSpec:
        return InputSpec(
            kind="tokens", d_input=257, target="class", d_output=2, classes=["apart", "together"], encoding="bytes",
            pairs=True,
        )  # fmt: skip

    def present(self) -> bool:
        return not self.path or Path(self.path).expanduser().is_file()

    def load(self) -> Splits:
        if not self.path:
            return super().load()
        at_least(1, {"length": self.length})
        spec = self.spec()
        path = Path(self.path).expanduser()
        train = read_pairs(path, self.length)
        spare, held = max(2, len(train) // 20), []
        for given, part in ((self.val_path, "eval"), (self.test_path, "test")):  # the benchmark's own names
            beside = path.with_name(path.name.replace("train", part))
            if given or (beside != path and beside.is_file()):
                held.append(read_pairs(given or beside, self.length))
            else:
                labels = np.array([pair.label for pair in train])
                stay, out = hold_out(labels, spare, self.data_seed)
                held.append([train[i] for i in out])
                train = [train[i] for i in stay]
        return Splits(Pairs(train, spec), Pairs(held[0], spec), Pairs(held[1], spec), spec)

    def phrases(self) -> NDArray[np.uint8]:
        """The key phrases (n_keys, key_length): a function of `data_seed`."""
        rng = np.random.default_rng((self.data_seed, 3))  # 0 to 2 are the splits
        return rng.choice(_LETTERS[:26], (self.n_keys, self.key_length))

    def draw(self, rng: np.random.Generator) -> Item:
        label, first = int(rng.integers(2)), int(rng.integers(self.n_keys))
        second = first if label else (first + int(rng.integers(1, self.n_keys))) % self.n_keys
        phrases, texts = self.phrases(), rng.choice(_LETTERS, (2, self.length))
        for text, key in zip(texts, (first, second), strict=True):
            spare = self.length - self.n_copies * self.key_length
            places = np.sort(rng.integers(0, spare + 1, self.n_copies)) + self.key_length * np.arange(self.n_copies)
            text[places[:, None] + np.arange(self.key_length)] = phrases[key]
        return texts, np.array(label)


def read_pairs(path: str | Path, length: int) -> list[Pair]:
    """The pairs of a file as `Retrieval` describes it, at most the first `length` bytes of each text.

    Raises:
        ResurgeError: the file cannot be read, has no pairs, or a line is none; its number is given.
    """
    path = Path(path).expanduser()
    pairs: list[Pair] = []
    try:
        with open(path, "rb") as lines, Progress(f"{path.name}: pairs", 0) as progress:
            for i, line in enumerate(lines, 1):
                pairs.append(_pair(line.rstrip(b"\r\n"), length, f"{path}: line {i}"))
                progress(i)
    except OSError as error:
        raise ResurgeError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not pairs:
        raise ResurgeError(f"{path}: has no pairs")
    return pairs


def _pair(line: bytes, length: int, place: str) -> Pair:
    fields: list[Any] = line.split(b"\t", 4)
    if len(fields) != 5:
        raise ResurgeError(f"{place}: 5 fields between tabs are expected, and there are {len(fields)}")
    texts = fields[3][:length], fields[4][:length]
    if not all(texts):
        raise ResurgeError(f"{place}: a text is empty")
    try:
        label = number(fields[0].decode(errors="replace"))
    except ResurgeError as error:
        raise ResurgeError(f"{place}: the label {error}") from None
    if label not in (0, 1):
        raise ResurgeError(f"{place}: the label must be 0 or 1, and is {label:g}")
    return Pair(texts, int(label))
