"""A user's own labelled series, from CSV, parquet, .npz or .ts files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from resurge.data.base import InputSpec, Splits, Task
from resurge.data.reading import number, read_npz
from resurge.data.sequences import Sequences, hold_out
from resurge.data.tables import Columns, SeriesFile, read_csv, read_parquet
from resurge.data.uea import read_ts
from resurge.errors import ResurgeError, unknown


@dataclass
class Series(Task):
    """Your own labelled series: one class, or one or more values, a series.

    The file may be

    - CSV (.csv, .tsv) or parquet, long: a row a time step, with a column of ids, perhaps one of times, one of labels
      (the same in all rows of a series), and a column a channel;
    - CSV or parquet, wide (if there is no id column): a row a series of one channel, a label and its steps in order;
    - .npz: `x` (N, T) or (N, T, d) and `y` (N,), (N, k) for values; for series of many lengths `x` (S,) or (S, d)
      with all of them joined and `offsets` (N + 1,), series i being `x[offsets[i]:offsets[i + 1]]`;
    - .ts, as in the UEA archive.

    Without a test file, a part of the series is held out. Channels are standardised by the training series. Classes
    are numbered in the order of their names.
    """

    name: ClassVar[str] = "series"
    source: ClassVar[str] = "a file of yours: --path"

    path: str = ""
    """The file with the series."""
    test_path: str = ""
    """A file with the test series; if empty and `path` is NAME_TRAIN.*, NAME_TEST.* beside it if it is there."""
    label: str = "label"
    """Column of the labels."""
    id: str = "id"
    """Column that tells which series a row belongs to."""
    time: str = "time"
    """Column that orders the rows of a series, if there is one."""
    target: Literal["class", "value"] = "class"
    """Whether a label is the name of a class or a number."""
    val_fraction: float = 0.1
    """Share of the training series held out for validation, at least one a class; 0: the training series validate."""
    test_fraction: float = 0.2
    """Share held out for the test, at least one a class, if there is no test file; 0: the validation series test."""
    max_length: int = 0
    """Steps of a series that are read, from its start; 0 for all."""
    data_seed: int = 0
    """Which series are held out."""

    def present(self) -> bool:
        return bool(self.path) and Path(self.path).expanduser().is_file()

    def load(self) -> Splits:
        self._check()
        file = self._read(self.path)
        train: NDArray[Any] = np.arange(len(file.series))
        test = train[:0]
        if test_path := self._test_path():
            test_file = self._read(test_path)
            test = np.arange(len(test_file.series)) + len(train)
            file = _joined(file, test_file, test_path)
        targets, classes = self._targets(file, train)
        if not len(test) and self.test_fraction:
            train, test = self._hold_out(train, targets, self.test_fraction)
        val = train
        if self.val_fraction:
            train, val = self._hold_out(train, targets, self.val_fraction)
        test = test if len(test) else val

        steps = np.concatenate([file.series[i] for i in train])
        mean, std = steps.mean(0), steps.std(0)
        spec = InputSpec(
            kind="values", d_input=steps.shape[1], target=self.target, classes=classes,
            d_output=len(classes) or targets.shape[1],
            mean=mean.tolist(), std=np.where(std > 1e-7 * np.abs(mean), std, 1.0).tolist(),  # 1 for what is constant
        )  # fmt: skip

        def part(items: NDArray[Any]) -> Sequences:
            return Sequences.of([file.series[i] for i in items], targets[items], spec)

        return Splits(part(train), part(val), part(test), spec)

    def _check(self) -> None:
        if not self.path:
            raise ResurgeError("'series' reads a file of yours: name it with --path")
        if self.target not in ("class", "value"):
            raise unknown("target", self.target, ["class", "value"])
        if (
            not 0 <= self.val_fraction < 1
            or not 0 <= self.test_fraction < 1
            or min(self.max_length, self.data_seed) < 0
        ):
            raise ResurgeError(
                "val_fraction and test_fraction must lie in [0, 1), max_length and data_seed be 0 or more; they are"
                f" {self.val_fraction}, {self.test_fraction}, {self.max_length} and {self.data_seed}"
            )

    def _test_path(self) -> str:
        path = Path(self.path).expanduser()
        beside = path.with_name(path.name.replace("_TRAIN.", "_TEST."))
        return self.test_path or (str(beside) if beside != path and beside.is_file() else "")

    def _read(self, path: str) -> SeriesFile:
        file = read_series(path, label=self.label, id=self.id, time=self.time, labelled=True)
        return file._replace(series=[one[: self.max_length or None] for one in file.series])

    def _targets(self, file: SeriesFile, train: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
        """What each series has to be told as, and the names of the classes."""
        assert file.labels is not None
        if self.target == "value":
            return _values(file), []
        if file.labels.ndim != 1:
            raise ResurgeError(f"{self.path}: one label a series is expected, and they have shape {file.labels.shape}")
        names = file.labels.astype(str)
        classes = sorted(set(names[train].tolist()))
        if len(classes) < 2:
            raise ResurgeError(
                f"{self.path}: all series have the label '{classes[0]}'; two classes at least are needed"
            )
        for i, name in enumerate(names):
            if name not in classes:
                raise ResurgeError(f"{file.names[i]}: class '{name}' occurs in the test file only")
        return np.searchsorted(classes, names), classes

    def _hold_out(
        self, indices: NDArray[Any], targets: NDArray[Any], share: float
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        labels = targets[indices] if self.target == "class" else np.zeros(len(indices))
        count = max(round(share * len(indices)), len(np.unique(labels)))
        kept, held = hold_out(labels, count, self.data_seed)
        return indices[kept], indices[held]


def read_series(
    path: str | Path, *, label: str = "label", id: str = "id", time: str = "time", labelled: bool = False
) -> SeriesFile:
    """The series of a file, in the formats of `Series`, as raw values.

    Args:
        path: a .csv, .tsv, .parquet, .pq, .npz or .ts file.
        label, id, time: names of columns, as in `Series`.
        labelled: labels must be there; without them, new series for a trained model can be read.

    Returns:
        The series, each float64 (T, d), T >= 1, what each is called, and the labels if there are any.

    Raises:
        ResurgeError: the file cannot be read or used; what is wrong and where is told.
    """
    path = Path(path).expanduser()
    columns = Columns(label, id, time, labelled)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        file = read_csv(path, columns)
    elif suffix in (".parquet", ".pq"):
        file = read_parquet(path, columns)
    elif suffix == ".npz":
        file = _read_npz(path, labelled)
    elif suffix == ".ts":
        file = read_ts(path)
    else:
        raise ResurgeError(f"{path}: a .csv, .tsv, .parquet, .pq, .npz or .ts file is expected")
    if not file.series:
        raise ResurgeError(f"{path}: has no series")
    if labelled and file.labels is None:
        raise ResurgeError(f"{path}: its series have no labels")
    for name, values in zip(file.names, file.series, strict=True):
        if not values.size:
            raise ResurgeError(f"{path}: series {name} has no steps")
    return file


def _read_npz(path: Path, labelled: bool) -> SeriesFile:
    arrays = read_npz(path, ["x", "y"] if labelled else ["x"], ["offsets", "y"])
    x, y, joined = arrays["x"], arrays.get("y"), "offsets" in arrays
    if x.dtype.kind not in "buif" or x.ndim + joined not in (2, 3):
        layout = "(S,) or (S, d) beside 'offsets'" if joined else "(N, T) or (N, T, d)"
        raise ResurgeError(f"{path}: 'x' must be numbers {layout}, and is {x.dtype} {x.shape}")
    x = x.astype(np.float64) if x.ndim + joined == 3 else x.astype(np.float64)[..., None]
    series = np.split(x, _cuts(path, arrays["offsets"], len(x))) if joined else list(x)
    if y is not None and y.shape[:1] != (len(series),):
        raise ResurgeError(f"{path}: there are {len(series)} series, and 'y' has shape {y.shape}")
    for i, values in enumerate(series):
        for t, c in np.argwhere(~np.isfinite(values))[:1]:
            raise ResurgeError(f"{path}: x of series {i}, step {t}, channel {c} is {values[t, c]} (all from 0)")
    if labelled and y is not None and y.dtype.kind == "f":
        for i, *_ in np.argwhere(~np.isfinite(y))[:1]:
            raise ResurgeError(f"{path}: y of series {i} (from 0) is {y[i]}")
    if y is not None and y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        y = y.astype(np.int64)  # classes saved as 1.0 and 2.0 are named 1 and 2
    return SeriesFile(series, [str(i) for i in range(len(series))], y)


def _cuts(path: Path, offsets: NDArray[Any], steps: int) -> NDArray[Any]:
    """Where series begin, but for the first."""
    if (
        offsets.dtype.kind not in "iu"
        or offsets.ndim != 1
        or len(offsets) < 2
        or offsets[0] != 0
        or offsets[-1] != steps
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        raise ResurgeError(f"{path}: 'offsets' must be integers that rise from 0 to the {steps} steps of 'x'")
    return offsets[1:-1]


def _joined(train: SeriesFile, test: SeriesFile, test_path: str) -> SeriesFile:
    """Both files as one, the series of the second named in full."""
    channels = train.series[0].shape[1], test.series[0].shape[1]
    if channels[0] != channels[1]:
        raise ResurgeError(f"{test_path}: has {channels[1]} channels, and the training series have {channels[0]}")
    assert train.labels is not None
    assert test.labels is not None
    if train.labels.shape[1:] != test.labels.shape[1:]:
        raise ResurgeError(f"{test_path}: has labels of another shape than the training series")
    names = [f"{test_path}: series {name}" for name in test.names]
    return SeriesFile(train.series + test.series, train.names + names, np.concatenate([train.labels, test.labels]))


def _values(file: SeriesFile) -> NDArray[np.float64]:
    """Labels as numbers (N, k)."""
    labels = np.asarray(file.labels)
    if labels.dtype.kind in "iufb":
        if not np.isfinite(labels).all():
            raise ResurgeError(f"the label of series {file.names[int(np.argmin(np.isfinite(labels)))]} is not finite")
        return labels.astype(np.float64).reshape(len(labels), -1)
    values = np.empty((len(labels), 1))
    for i, label in enumerate(labels.tolist()):
        try:
            values[i] = number(label)
        except ResurgeError as error:
            raise ResurgeError(f"the label of series {file.names[i]}: {error}") from None
    return values
