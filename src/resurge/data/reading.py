"""Reading files that may be anything: whatever is wrong with them becomes one line that says what and where."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resurge.errors import ResurgeError, nearest


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        ResurgeError: there is no such file (the nearest one is named), it cannot be read, or it is empty.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ResurgeError(f"{path}: no such file.{nearest(path.name, beside)}") from error
    except OSError as error:
        raise ResurgeError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not raw:
        raise ResurgeError(f"{path}: is empty")
    return raw


def read_utf8(path: Path) -> bytes:
    """The bytes of a text file.

    Raises:
        ResurgeError: as `read_bytes`, or it is binary or not UTF-8; the place of the first such byte is given.
    """
    raw = read_bytes(path)
    if (place := raw.find(0)) >= 0:
        raise ResurgeError(f"{path}: is binary, with a NUL at byte {place}; a text file in UTF-8 is expected")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise ResurgeError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error
    return raw


def read_npz(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name. Python objects in it (pickles) are never loaded.

    Raises:
        ResurgeError: as `read_bytes`; or it is no .npz file, is damaged, or lacks a required array.
    """
    if not zipfile.is_zipfile(path):
        read_bytes(path)
        raise ResurgeError(f"{path}: is no .npz file, or is cut short")
    arrays: dict[str, NDArray[Any]] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in required:
                if name not in file:
                    known = f" It has: {', '.join(file.files)}."
                    raise ResurgeError(f"{path}: has no array '{name}'.{nearest(name, file.files)}{known}")
            for name in [*required, *(name for name in optional if name in file)]:
                arrays[name] = file[name]
    except ResurgeError:
        raise
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise ResurgeError(f"{path}: array '{name}' holds Python objects (a pickle): never loaded") from error
        raise ResurgeError(f"{path}: array '{name}' cannot be read: {error}") from error
    return arrays


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> memoryview:
    """What an .npz file with these arrays holds, not compressed."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getbuffer()


def number(text: str) -> float:
    """`text` as a finite number, or the reason why it is none.

    Raises:
        ResurgeError: the reason alone; the caller adds the place.
    """
    try:
        value = float(text if "_" not in text else "")  # to Python, and to it alone, 1_0 is ten
    except ValueError:
        raise ResurgeError(f"'{text.strip()}' is not a number") from None
    if not math.isfinite(value):
        raise ResurgeError(f"{text.strip()} is not a finite number")
    return value


def read_values(lines: Iterable[str], d: int) -> Iterator[list[float]]:
    """The time steps in lines of text, as the lines come: d numbers a line, between commas or spaces.

    An empty line, or the word "reset", gives an empty list: a new series starts.

    Raises:
        ResurgeError: a line without exactly d finite numbers; its number, from 1, is given.
    """
    for i, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if words == ["reset"]:
            words = []
        if words and len(words) != d:
            raise ResurgeError(f"line {i}: {d} numbers are expected, and there are {len(words)}")
        try:
            yield [number(word) for word in words]
        except ResurgeError as error:
            raise ResurgeError(f"line {i}: {error}") from None
