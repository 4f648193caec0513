"""Labelled series in files of rows and columns: CSV and parquet."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurge.data.reading import number, read_bytes, read_utf8
from resurge.errors import ResurgeError, nearest


class SeriesFile(NamedTuple):
    """What a file holds: series (T, d), what each is called, and their labels, None if the file has none."""

    series: list[NDArray[np.float64]]
    names: list[str]
    labels: NDArray[Any] | None


@dataclass(frozen=True)
class Columns:
    """Which columns of a table mean what; all others are channels (long layout) or time steps (wide layout)."""

    label: str = "label"
    id: str = "id"
    time: str = "time"
    labelled: bool = True  # the label column must be there


@dataclass(frozen=True)
class Table:
    """Columns of cells by name, and where in the file each row stands."""

    path: Path
    cells: Mapping[str, Sequence[Any]]
    rows: Sequence[int]
    unit: str  # what `rows` counts: "line" or "row"
    columns: Columns

    @property
    def channels(self) -> list[str]:
        """The columns that hold values."""
        label, id, time = self.columns.label, self.columns.id, self.columns.time
        return [name for name in self.cells if name not in ({label, id, time} if id in self.cells else {label})]

    def series(self) -> SeriesFile:
        """The series, in the long layout if the table has the id column, else in the wide one.

        Long: a row is a time step, rows with the same id are one series, in the order of the time column if there
        is one. Wide: a row is a series of one channel.

        Raises:
            ResurgeError: a column or label is missing, a series has two labels, or a cell is no finite number.
        """
        label = self.columns.label
        if self.columns.labelled and label not in self.cells:
            names = ", ".join(list(self.cells)[:20])
            raise ResurgeError(f"{self.path}: has no column '{label}'.{nearest(label, self.cells)} It has: {names}.")
        if not self.channels:
            raise ResurgeError(f"{self.path}: has no column of values beside {', '.join(self.cells)}")
        labels = self._labels() if label in self.cells else None
        values = np.stack([self._numbers(name) for name in self.channels], 1)
        if self.columns.id in self.cells:
            return self._long(values, labels)
        numbers = [str(i) for i in range(1, len(values) + 1)]
        return SeriesFile(list(values[..., None]), numbers, None if labels is None else np.array(labels))

    def _error(self, row: int, column: str, problem: str) -> ResurgeError:
        return ResurgeError(f"{self.path}: {self.unit} {self.rows[row]}, column '{column}': {problem}")

    def _numbers(self, column: str) -> NDArray[np.float64]:
        values = np.empty(len(self.rows))
        for row, cell in enumerate(self.cells[column]):
            try:
                values[row] = number(str(cell))
            except ResurgeError as error:
                raise self._error(row, column, f"{error} ({self._place(row, column)})") from None
        return values

    def _place(self, row: int, column: str) -> str:
        """Which step of which series a value is, both from 1."""
        if (ids := self.cells.get(self.columns.id)) is None:
            return f"series {row + 1}, step {1 + self.channels.index(column)}"
        return f"series '{ids[row]}', step {1 + list(ids[:row]).count(ids[row])}"

    def _labels(self) -> list[str]:
        column = self.columns.label
        labels = ["" if cell is None else str(cell).strip() for cell in self.cells[column]]
        for row, label in enumerate(labels):
            if label in ("", "nan"):
                raise self._error(row, column, "the label is missing")
        return labels

    def _long(self, values: NDArray[np.float64], labels: list[str] | None) -> SeriesFile:
        rows_of: dict[str, list[int]] = {}
        for row, cell in enumerate(self.cells[self.columns.id]):
            if cell is None or not str(cell).strip():
                raise self._error(row, self.columns.id, "the id is missing")
            rows_of.setdefault(str(cell).strip(), []).append(row)
        if labels is not None:
            self._check_labels(labels, rows_of)
        if times := self._times():
            rows_of = {name: sorted(rows, key=times.__getitem__) for name, rows in rows_of.items()}
        first = [rows[0] for rows in rows_of.values()]
        return SeriesFile(
            [values[rows] for rows in rows_of.values()],
            list(rows_of),
            None if labels is None else np.array([labels[row] for row in first]),
        )

    def _times(self) -> Sequence[Any]:
        """What orders the rows: numbers, or else text, as dates are in ISO 8601; empty without a time column."""
        cells = self.cells.get(self.columns.time, ())
        try:
            number(str(cells[0]))
        except (IndexError, ResurgeError):
            return [str(cell) for cell in cells]
        return list(self._numbers(self.columns.time))

    def _check_labels(self, labels: list[str], rows_of: dict[str, list[int]]) -> None:
        for name, (first, *others) in rows_of.items():
            for row in others:
                if labels[row] != labels[first]:
                    problem = f"series '{name}' has label '{labels[row]}' here and '{labels[first]}' before"
                    raise self._error(row, self.columns.label, problem)


def read_csv(path: Path, columns: Columns) -> SeriesFile:
    """The series of a CSV file: UTF-8, column names in line 1, cells between commas, semicolons or tabs.

    Raises:
        ResurgeError: as `read_utf8` and `Table.series`, or a row has more or fewer cells than there are names.
    """
    text = read_utf8(path).decode("utf-8-sig")
    first_line = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count), strict=True)
    header: list[str] = []
    lines, rows = [], []
    try:
        for row in reader:
            if not header:
                header = _header(path, row)
            elif row:
                if len(row) != len(header):
                    raise ResurgeError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, and the first line names {len(header)}"
                    )
                lines.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        raise ResurgeError(f"{path}: line {reader.line_num} is no CSV: {error}") from error
    if not rows:
        raise ResurgeError(f"{path}: has no row after the names of the columns")
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Table(path, cells, lines, "line", columns).series()


def _header(path: Path, row: list[str]) -> list[str]:
    names = [name.strip() for name in row]
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise ResurgeError(f"{path}: line 1 must name the columns, and has '{twice}' twice")
    try:
        steps = np.diff([float(name) for name in names])
    except ValueError:
        return names
    if not len(steps) or (steps != 1).any():  # numbers in a row, as 0, 1, 2, ..., may well be names
        raise ResurgeError(f"{path}: line 1 must name the columns, and has numbers")
    return names


def read_parquet(path: Path, columns: Columns) -> SeriesFile:
    """The series of a parquet file.

    Raises:
        ResurgeError: as `Table.series`, it is no parquet file, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ResurgeError(f"{path}: parquet files need pyarrow: pip install 'resurge[train]'") from error
    try:
        cells = pyarrow.parquet.read_table(pyarrow.BufferReader(read_bytes(path))).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise ResurgeError(f"{path}: is no parquet file: {str(error).splitlines()[0]}") from error
    n = len(next(iter(cells.values()), ()))
    if not n:
        raise ResurgeError(f"{path}: has no rows")
    return Table(path, cells, range(1, n + 1), "row", columns).series()
