"""Where downloaded data lies, and how it gets there."""

import gzip
import hashlib
import http.client
import io
import json
import os
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurge.data.base import Task
from resurge.data.progress import Progress
from resurge.data.reading import npz_bytes
from resurge.errors import ResurgeError, unknown
from resurge.files import cache_dir, write_atomic


def folder(data_dir: str = "") -> Path:
    """The data folder: `data_dir` if it is given, else `$RESURGE_DATA`, else `data` in the cache folder."""
    return Path(data_dir or os.environ.get("RESURGE_DATA") or cache_dir() / "data").expanduser()


@dataclass
class FolderTask(Task):
    """A task whose files lie in a data folder, or can be fetched into it."""

    archive: ClassVar[str]
    """Its name in `ARCHIVES`."""

    data_dir: str = ""
    """The data folder; by default $RESURGE_DATA, else `data` in the cache folder."""

    def present(self) -> bool:
        return all((folder(self.data_dir) / file).is_file() for file in ARCHIVES[self.archive].files)

    def prepare(self) -> None:
        """Download the files into the data folder, unless they are there."""
        if not self.present():
            fetch(self.archive, folder(self.data_dir))

    def file(self, name: str) -> Path:
        """The path of `name` in the data folder.

        Raises:
            ResurgeError: it is not there; how to get it is told.
        """
        path = folder(self.data_dir) / name
        if not path.is_file():
            raise ResurgeError(
                f"{path} is not there: name a data folder with --data-dir or RESURGE_DATA, or download it with"
                f" `resurge data get {self.name}`"
            )
        return path


class Archive(NamedTuple):
    """A public data set: what it becomes in a data folder, where it comes from (URL: MD5), and how it is converted."""

    files: tuple[str, ...]
    urls: dict[str, str]
    convert: Callable[[list[bytes]], dict[str, bytes | memoryview]]


def fetch(name: str, into: Path) -> list[Path]:
    """Download a data set and write it to the data folder `into`; the paths written.

    Args:
        name: "mnist", "cifar", "cifar_colour" or "imdb".
        into: laid out as `ARCHIVES` says.

    Raises:
        ResurgeError: an unknown name, no network, a download that is not what it should be, or a full disk.
    """
    if name not in ARCHIVES:
        raise unknown("data set to download", name, ARCHIVES)
    archive = ARCHIVES[name]
    files = archive.convert([_download(url, md5) for url, md5 in archive.urls.items()])
    for file, content in files.items():
        write_atomic(into / file, content)
    return [into / file for file in files]


def _download(url: str, md5: str) -> bytes:
    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with Progress(f"{url} (bytes)", size) as progress:
                while piece := response.read(1 << 20):
                    content += piece
                    progress(len(content))
    except (OSError, http.client.HTTPException) as error:  # URLError among them
        raise ResurgeError(f"{url} cannot be downloaded: {getattr(error, 'reason', error)}") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ResurgeError(f"{url} is not the file expected: its MD5 is {found}, and should be {md5}")
    return bytes(content)


def _mnist(downloads: list[bytes]) -> dict[str, bytes | memoryview]:
    """Four idx files, images before labels, to one .npz."""
    x_train, y_train, x_test, y_test = (np.frombuffer(gzip.decompress(file), np.uint8) for file in downloads)
    images = {"x_train": x_train[16:].reshape(-1, 28, 28), "x_test": x_test[16:].reshape(-1, 28, 28)}
    return {"mnist/mnist.npz": npz_bytes({**images, "y_train": y_train[8:], "y_test": y_test[8:]})}


def _cifar(downloads: list[bytes]) -> dict[str, bytes | memoryview]:
    """To grey."""

    def grey(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
        values: NDArray[np.uint8] = np.rint(np.einsum("c,npc->np", [0.2989, 0.587, 0.114], colours)).astype(np.uint8)
        return values

    return _cifar_images(downloads, "cifar10_grey", grey)


def _cifar_colour(downloads: list[bytes]) -> dict[str, bytes | memoryview]:
    """As it is, pixel by pixel."""
    return _cifar_images(downloads, "cifar10_colour", np.ascontiguousarray)


def _cifar_images(
    downloads: list[bytes], name: str, convert: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> dict[str, bytes | memoryview]:
    """The binary version: records of a label, then 1,024 red, green and blue bytes; `convert` takes (N, 1024, 3)."""
    with tarfile.open(fileobj=io.BytesIO(downloads[0])) as tar:
        parts = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
        contents = {name: file.read() for name, file in parts.items() if file is not None}
    batches = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    names = np.array(contents["batches.meta.txt"].decode().split())
    files: dict[str, bytes | memoryview] = {}
    for part, members in batches.items():
        records = np.frombuffer(b"".join(contents[member] for member in members), np.uint8).reshape(-1, 3073)
        colours = records[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
        files[f"{name}/{name}_{part}.npz"] = npz_bytes(
            {"x": convert(colours), "y": records[:, 0], "class_names": names}
        )
    return files


def _imdb(downloads: list[bytes]) -> dict[str, bytes | memoryview]:
    """Files aclImdb/{train,test}/{neg,pos}/<id>_<rating>.txt to a gzipped line of JSON each."""
    reviews: dict[str, list[tuple[int, int, int, str]]] = {"train": [], "test": []}
    with tarfile.open(fileobj=io.BytesIO(downloads[0])) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if len(parts) == 4 and parts[1] in reviews and parts[2] in ("neg", "pos"):
                number, rating = map(int, Path(parts[3]).stem.split("_"))
                text = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
                reviews[parts[1]].append((int(parts[2] == "pos"), number, rating, text))
    return {
        f"imdb/imdb_{part}.jsonl.gz": gzip.compress(
            "".join(
                json.dumps({"id": number, "label": label, "rating": rating, "text": text}, ensure_ascii=False) + "\n"
                for label, number, rating, text in sorted(rows)
            ).encode(),
            mtime=0,
        )
        for part, rows in reviews.items()
    }


_CIFAR = {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"

ARCHIVES = {
    "mnist": Archive(
        ("mnist/mnist.npz",),
        {
            _MNIST + "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            _MNIST + "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            _MNIST + "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            _MNIST + "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        _mnist,
    ),
    "cifar": Archive(("cifar10_grey/cifar10_grey_train.npz", "cifar10_grey/cifar10_grey_test.npz"), _CIFAR, _cifar),
    "cifar_colour": Archive(
        ("cifar10_colour/cifar10_colour_train.npz", "cifar10_colour/cifar10_colour_test.npz"), _CIFAR, _cifar_colour
    ),
    "imdb": Archive(
        ("imdb/imdb_train.jsonl.gz", "imdb/imdb_test.jsonl.gz"),
        {"https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz": "7c2ac02c03563afcf9b574c7e56c153a"},
        _imdb,
    ),
}
