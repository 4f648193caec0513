"""Labelled series in the .ts format of the UEA archive and sktime."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resurge.data.reading import number, read_utf8
from resurge.data.tables import SeriesFile
from resurge.errors import ResurgeError, nearest


def read_ts(path: Path) -> SeriesFile:
    """The series of a .ts file. Channels may differ in length between series, not within one.

    Raises:
        ResurgeError: as `read_utf8`, or a line is not what the format asks for; its number is given.
    """
    lines = enumerate(read_utf8(path).decode("utf-8-sig").splitlines(), 1)
    header = _header(path, lines)
    labelled = header.get("@classlabel", header.get("@targetlabel", [""]))[:1] == ["true"]
    classes = header.get("@classlabel", [])[1:]
    series: list[NDArray[np.float64]] = []
    labels: list[str] = []
    for i, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        at = f"{path}: line {i}"
        channels = line.strip().split(":")
        if labelled:
            labels.append(_label(at, channels.pop().strip(), classes))
        if series and len(channels) != series[0].shape[1]:
            raise ResurgeError(f"{at} has {len(channels)} channels, and the series before have {series[0].shape[1]}")
        series.append(_values(at, channels))
    names = [str(i) for i in range(1, len(series) + 1)]
    return SeriesFile(series, names, np.array(labels) if labelled else None)


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> dict[str, list[str]]:
    """What follows each keyword, up to @data."""
    header: dict[str, list[str]] = {}
    for i, line in lines:
        key, *words = line.split() or ["#"]
        if key.startswith("#"):
            continue
        if not key.startswith("@"):
            raise ResurgeError(f"{path}: line {i}: a line '@keyword ...' is expected before the line '@data'")
        if key.lower() == "@timestamps" and words == ["true"]:
            raise ResurgeError(f"{path}: line {i}: series with time stamps are not supported")
        if key.lower() == "@data":
            return header
        header[key.lower()] = words
    raise ResurgeError(f"{path}: has no line '@data'")


def _label(at: str, label: str, classes: list[str]) -> str:
    if not label:
        raise ResurgeError(f"{at}: the label after the last ':' is missing")
    if classes and label not in classes:
        raise ResurgeError(f"{at}: '{label}' is no class of the line '@classLabel'.{nearest(label, classes)}")
    return label


def _values(at: str, channels: list[str]) -> NDArray[np.float64]:
    """One series (T, d), from the text of its channels."""
    parsed: list[list[float]] = []
    for c, channel in enumerate(channels, 1):
        parsed.append([])
        for t, word in enumerate(channel.split(",") if channel else [], 1):
            try:
                parsed[-1].append(number(word))
            except ResurgeError as error:
                raise ResurgeError(f"{at}, channel {c}, step {t}: {error}") from None
        if len(parsed[-1]) != len(parsed[0]):
            raise ResurgeError(f"{at}: channel {c} has {len(parsed[-1])} steps, and channel 1 has {len(parsed[0])}")
    return np.array(parsed).T
