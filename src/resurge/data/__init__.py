"""Tasks to learn, each a dataclass of options; one import line here is the whole registration of a task.

Everything is deterministic given the options. Nothing here needs Lightning but `resurge.data.module`.
"""

from typing import NamedTuple

from resurge.data.adding import Adding
from resurge.data.base import Batch, InputSpec, Split, Splits, Task
from resurge.data.cifar import SCIFAR, SCIFARColour
from resurge.data.copying import Copying
from resurge.data.digits import Digits
from resurge.data.folder import FolderTask
from resurge.data.imdb import IMDB
from resurge.data.listops import ListOps
from resurge.data.loader import BatchLoader
from resurge.data.mnist import PSMNIST, SMNIST
from resurge.data.passkey import Passkey
from resurge.data.pathfinder import Pathfinder
from resurge.data.reading import read_values
from resurge.data.regression import InContextRegression
from resurge.data.retrieval import Retrieval
from resurge.data.sequences import Sequences, hold_out
from resurge.data.series import Series, read_series
from resurge.data.tables import SeriesFile
from resurge.data.text import Text
from resurge.errors import unknown

__all__ = [
    "IMDB",
    "PSMNIST",
    "SCIFAR",
    "SMNIST",
    "Adding",
    "Batch",
    "BatchLoader",
    "Copying",
    "Description",
    "Digits",
    "InContextRegression",
    "InputSpec",
    "ListOps",
    "Passkey",
    "Pathfinder",
    "Retrieval",
    "SCIFARColour",
    "Sequences",
    "Series",
    "SeriesFile",
    "Split",
    "Splits",
    "Task",
    "Text",
    "describe",
    "hold_out",
    "prepare",
    "read_series",
    "read_values",
    "task",
    "tasks",
]

_TASKS: dict[str, type[Task]] = {
    cls.name: cls
    for cls in (
        *(Digits, Adding, Copying, Passkey, InContextRegression),
        *(Pathfinder, Retrieval, ListOps, SMNIST, PSMNIST, SCIFAR, SCIFARColour, IMDB, Text, Series),
    )
}


class Description(NamedTuple):
    """One line of `describe`."""

    name: str
    summary: str
    source: str
    present: bool
    """Whether it can be loaded at once: no network, no long work."""


def tasks() -> list[str]:
    """The names of all tasks."""
    return list(_TASKS)


def task(name: str) -> type[Task]:
    """The task called `name`.

    Raises:
        ResurgeError: there is none; the nearest name is given.
    """
    if name not in _TASKS:
        raise unknown("task", name, _TASKS)
    return _TASKS[name]


def describe() -> list[Description]:
    """All tasks: what they are, where the data comes from, and whether it is here."""
    return [
        Description(name, (cls.__doc__ or "").split("\n", 1)[0], cls.source, cls().present())
        for name, cls in _TASKS.items()
    ]


def prepare(name: str, data_dir: str = "") -> None:
    """Fetch or generate a task's data with its default options: what `resurge data get NAME` does.

    Args:
        name: of a task.
        data_dir: where downloads go, see `folder.folder`; what is generated goes to the cache folder.

    Raises:
        ResurgeError: an unknown name, no network, a full disk, or a task that reads a file of the user's.
    """
    cls = task(name)
    (cls(data_dir) if issubclass(cls, FolderTask) else cls()).prepare()
