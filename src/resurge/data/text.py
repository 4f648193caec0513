"""Text as bytes, each of which is to be foretold from all before it."""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from resurge.data.base import Batch, InputSpec, Split, Splits, Task
from resurge.data.reading import read_utf8
from resurge.errors import ResurgeError

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


@dataclass
class Text(Task):
    """The next byte of text: a file or a folder of yours, or the standard library of this Python.

    Of a folder, whole files are held out, chosen by a hash of their names; files that are no UTF-8 text are skipped,
    and so is what is hidden. A single file is cut into a beginning, a middle and an end. Text is cut into windows,
    for training at other places in each epoch.
    """

    name: ClassVar[str] = "text"
    source: ClassVar[str] = "the sources of Python's standard library, or --path"

    path: str = ""
    """A text file or a folder; by default Python's standard library (*.py)."""
    length: int = 256
    """Bytes of a window."""
    val_fraction: float = 0.05
    """Share of the files, or of the single file, held out for validation."""
    test_fraction: float = 0.05
    """Share held out for the test."""

    def load(self) -> Splits:
        if self.length < 1 or min(self.val_fraction, self.test_fraction) <= 0 or self._held_out() >= 1:
            raise ResurgeError(
                "length must be at least 1, and val_fraction and test_fraction positive with a sum below 1; they are"
                f" {self.length}, {self.val_fraction} and {self.test_fraction}"
            )
        root = Path(self.path).expanduser()
        if not self.path:
            parts = self._share(
                _files(Path(sysconfig.get_path("stdlib")), ".py", _NOT_LIBRARY), "Python's standard library"
            )
        elif root.is_dir():
            parts = self._share(_files(root), str(root))
        else:
            parts = self._cut(read_utf8(root))
        for part, content in zip(("training", "validation", "test"), parts, strict=True):
            if len(content) < 2 * self.length:
                raise ResurgeError(
                    f"{root if self.path else 'the standard library'}: the {part} part has {len(content)} bytes, and"
                    f" windows of {self.length} need {2 * self.length}: more text, a larger share or a smaller length"
                )
        spec = InputSpec(kind="tokens", d_input=256, target="next_token", d_output=256, encoding="bytes")
        train, val, test = (Windows(np.frombuffer(bytearray(part), np.uint8), self.length) for part in parts)
        return Splits(train, val, test, spec)

    def _held_out(self) -> float:
        return self.val_fraction + self.test_fraction

    def _cut(self, content: bytes) -> list[bytes]:
        """A beginning, a middle and an end."""
        a, b = (round((1 - share) * len(content)) for share in (self._held_out(), self.test_fraction))
        return [content[:a], content[a:b], content[b:]]

    def _share(self, files: dict[str, bytes], where: str) -> list[bytes]:
        """Whole files, each part in order of their names."""
        if len(files) < 3:
            raise ResurgeError(
                f"{where}: has {len(files)} text files, and to hold some out takes 3; a single file can be given"
            )
        ranked = sorted(files, key=lambda name: hashlib.blake2b(os.fsencode(name)).digest())
        n_val, n_test = (max(1, round(share * len(files))) for share in (self.val_fraction, self.test_fraction))
        parts = ranked[n_val + n_test :], ranked[:n_val], ranked[n_val : n_val + n_test]
        return [b"".join(files[name] for name in sorted(part)) for part in parts]


class Windows(Split):
    """Windows side by side in one text; item i starts at byte `start + i * length`, its targets one byte later."""

    def __init__(self, content: np.ndarray[tuple[int], np.dtype[np.uint8]], length: int, start: int = 0) -> None:
        self.content, self.length, self.start = torch.from_numpy(content), length, start

    def __len__(self) -> int:
        return (len(self.content) - self.length) // self.length  # as many for every start below `length`

    def batch(self, indices: Tensor) -> Batch:
        starts = self.start + indices * self.length
        window = self.content[starts[:, None] + torch.arange(self.length + 1)].long()
        return Batch(window[:, :-1], window[:, 1:], None)

    def at_epoch(self, seed: int, epoch: int) -> "Windows":
        start = int(np.random.default_rng((seed, epoch, 1)).integers(self.length))
        return Windows(self.content.numpy(), self.length, start)


def _files(root: Path, suffix: str = "", without: Collection[str] = ()) -> dict[str, bytes]:
    """The text files below `root` by relative name, but for hidden ones and folders in `without`.

    Files that are no text are left out, and counted in one line.
    """
    texts, left_out = {}, []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in without]
        for path in (Path(folder, name) for name in names if not name.startswith(".") and name.endswith(suffix)):
            try:
                if path.stat().st_size:
                    texts[path.relative_to(root).as_posix()] = read_utf8(path)
            except (ResurgeError, OSError) as error:
                left_out.append(str(error))
    if left_out:
        print(f"{root}: {len(left_out)} files are left out; {min(left_out)}", file=sys.stderr)
    return texts
