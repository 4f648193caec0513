"""Labelled series in the .ts format of the UEA archive and sktime."""

from collections.abc import Callable
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
    header: dict[str, list[str]] = {}
    for i, line in lines:
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if not line.startswith("@"):
            raise ResurgeError(f"{path}: line {i}: a line of the header starts with '@', and @data ends it")
        header[words[0].lower()] = [str(i), *words[1:]]
        if words[0].lower() == "@data":
            break
    else:
        raise ResurgeError(f"{path}: has no line '@data'")
    if _flag(header, "@timestamps"):
        raise ResurgeError(f"{path}: line {header['@timestamps'][0]}: series with time stamps are not supported")
    labelled = _flag(header, "@classlabel") or _flag(header, "@targetlabel")
    classes = header.get("@classlabel", ["", "", ""])[2:]
    series, labels = [], []
    for i, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        at = f"{path}: line {i}"
        channels = line.strip().split(":")
        if labelled:
            labels.append(_label(at, channels.pop().strip(), classes))
        series.append(_channels(at, channels))
        if len(channels) != series[0].shape[1]:
            raise ResurgeError(f"{at}: has {len(channels)} channels, and the series before have {series[0].shape[1]}")
    names = [str(i) for i in range(1, len(series) + 1)]
    return SeriesFile(series, names, np.array(labels) if labelled else None)


def _flag(header: dict[str, list[str]], key: str) -> bool:
    return header.get(key, ["", "false"])[1:2] in (["true"], ["True"])


def _label(at: str, label: str, classes: list[str]) -> str:
    if not label:
        raise ResurgeError(f"{at}: the label after the last ':' is missing")
    if classes and label not in classes:
        raise ResurgeError(f"{at}: '{label}' is no class of the line @classLabel.{nearest(label, classes)}")
    return label


def _channels(at: str, channels: list[str]) -> NDArray[np.float64]:
    parsed = [_numbers(lambda c=c: f"{at}: channel {c}", text) for c, text in enumerate(channels, 1)]
    for c, values in enumerate(parsed, 1):
        if len(values) != len(parsed[0]):
            raise ResurgeError(f"{at}: channel {c} has {len(values)} steps, and channel 1 has {len(parsed[0])}")
    return np.stack(parsed, 1)


def _numbers(at: Callable[[], str], text: str) -> NDArray[np.float64]:
    values = []
    for t, word in enumerate(text.split(","), 1):
        try:
            values.append(number(word))
        except ResurgeError as error:
            raise ResurgeError(f"{at()}, step {t}: {error}") from None
    return np.array(values)
