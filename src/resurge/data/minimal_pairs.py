"""Minimal pairs: sentences that differ in what makes one of them right and the other wrong, such as BLiMP's."""

import gzip
import json
import zlib
from pathlib import Path
from typing import NamedTuple

from resurge.data.folder import folder
from resurge.data.reading import read_bytes
from resurge.errors import ResurgeError


class MinimalPair(NamedTuple):
    """Two sentences, and what they are about."""

    good: str
    bad: str
    paradigm: str
    """The pattern that the pair is made by ("regular_plural_subject_verb_agreement_1")."""
    phenomenon: str
    """The part of grammar that the paradigm belongs to ("subject_verb_agreement")."""


def blimp(data_dir: str = "") -> list[MinimalPair]:
    """BLiMP, 1,000 minimal pairs of English sentences in each of 67 paradigms of 12 phenomena, from the data folder.

    Read are the files *.jsonl and *.jsonl.gz of its folder `blimp`, such as the 67 of the folder `data` of
    github.com/alexwarstadt/blimp. Source: arXiv 1912.00582.

    Args:
        data_dir: the data folder; by default $RESURGE_DATA, else `data` in the cache folder.

    Raises:
        ResurgeError: as `read_pairs`.
    """
    path = folder(data_dir) / "blimp"
    if not path.is_dir():
        raise ResurgeError(
            f"{path} is not there: name a data folder with data_dir or RESURGE_DATA, and put the files data/*.jsonl of"
            " github.com/alexwarstadt/blimp into its folder 'blimp'"
        )
    return read_pairs(path)


def read_pairs(path: str | Path) -> list[MinimalPair]:
    """The pairs in a file of JSON lines (.jsonl, or .jsonl.gz), or in all such files of a folder, by their names.

    A line is an object with `sentence_good` and `sentence_bad`; `UID` is its paradigm, by default the name of the file,
    and `linguistics_term` its phenomenon, by default the paradigm. Other keys are passed over.

    Raises:
        ResurgeError: there is no such file or folder, or none in it; or a line is not such an object: its number is
            given.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return _read(path)
    files = sorted(file for ending in ("*.jsonl", "*.jsonl.gz") for file in path.glob(ending))
    if not files:
        raise ResurgeError(f"{path}: has no files *.jsonl or *.jsonl.gz")
    return [pair for file in files for pair in _read(file)]


def _read(path: Path) -> list[MinimalPair]:
    raw = read_bytes(path)
    try:
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ResurgeError(f"{path}: is not lines of JSON in UTF-8, gzipped if it ends in .gz: {error}") from error
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return [_pair(line, f"{path}: line {i}", name) for i, line in enumerate(lines, 1) if line.strip()]


def _pair(line: str, where: str, name: str) -> MinimalPair:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ResurgeError(f"{where}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ResurgeError(f"{where}: must be an object, and is {line.strip()[:40]}")
    paradigm = values.get("UID", name)
    pair = {
        "sentence_good": values.get("sentence_good"),
        "sentence_bad": values.get("sentence_bad"),
        "UID": paradigm,
        "linguistics_term": values.get("linguistics_term", paradigm),
    }
    for key, value in pair.items():
        if not isinstance(value, str) or not value:
            raise ResurgeError(f"{where}: '{key}' must be some text, and is {value!r}")
    return MinimalPair(*pair.values())
