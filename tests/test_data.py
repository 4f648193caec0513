"""Tasks, splits and loaders: the right items, normalised and padded as said, in an order that can be resumed."""

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import urllib.error
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from data_folder import data_folder
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from resurge import ResurgeError, data
from resurge.data import Batch, BatchLoader, InputSpec, Sequences, Split, progress
from resurge.data import folder as folder_module
from resurge.data.folder import fetch
from resurge.data.module import DataModule

VALUES = InputSpec(kind="values", d_input=2, target="class", d_output=3, mean=[1.0, -2.0], std=[2.0, 0.5])
BYTES = InputSpec(kind="tokens", d_input=257, target="class", d_output=2, encoding="bytes")


class Numbers(Split):
    """Items that are their own number, and the epoch they were made for."""

    def __init__(self, n: int, epoch: int = -1) -> None:
        self.n, self.epoch = n, epoch

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Tensor) -> Batch:
        return Batch(indices, torch.full_like(indices, self.epoch), None)

    def at_epoch(self, seed: int, epoch: int) -> "Numbers":
        return Numbers(self.n, epoch)


def items(batches: list[Batch]) -> list[tuple[list[int], list[int]]]:
    return [(batch.inputs.tolist(), batch.targets.tolist()) for batch in batches]


@given(n=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 99), epochs=st.integers(1, 3), data=st.data())
def test_a_loader_goes_on_from_any_position(n: int, size: int, seed: int, epochs: int, data: st.DataObject) -> None:
    loader = BatchLoader(Numbers(n), size, shuffle=True, seed=seed)
    whole = [batch for _ in range(epochs + 1) for batch in loader]
    done = data.draw(st.integers(0, epochs * len(loader)))

    first = BatchLoader(Numbers(n), size, shuffle=True, seed=seed)
    seen, states = [], [first.state_dict()]
    while len(seen) < done:
        for batch in first:
            seen.append(batch)
            states.append(json.loads(json.dumps(first.state_dict())))
            if len(seen) == done:
                break
    second = BatchLoader(Numbers(n), size, shuffle=True, seed=seed)
    second.load_state_dict(states[-1])
    while len(seen) < len(whole):
        seen += list(second)
    assert items(seen) == items(whole)


@given(n=st.integers(1, 40), size=st.integers(1, 12), drop_last=st.booleans())
def test_an_epoch_has_every_item_once_in_an_order_of_its_own(n: int, size: int, drop_last: bool) -> None:
    if drop_last and n < size:
        with pytest.raises(ResurgeError, match="no batch"):
            BatchLoader(Numbers(n), size, shuffle=True, drop_last=True)
        return
    loader = BatchLoader(Numbers(n), size, shuffle=True, seed=3, drop_last=drop_last)
    epochs = [list(loader), list(loader)]
    orders = [torch.cat([batch.inputs for batch in epoch]).tolist() for epoch in epochs]
    for number, (epoch, order) in enumerate(zip(epochs, orders, strict=True)):
        assert len(epoch) == len(loader)
        assert len(set(order)) == len(order) == (len(loader) * size if drop_last else n)
        assert {int(epoch) for batch in epochs[number] for epoch in batch.targets} == {number}
    assert loader.state_dict() == {"epoch": 2, "batch": 0}
    loader.set_epoch(0)
    assert torch.cat([batch.inputs for batch in loader]).tolist() == orders[0]
    if n > 12 and not drop_last:
        assert orders[0] != orders[1] != sorted(orders[1])


def test_an_iteration_given_up_starts_again() -> None:
    loader = BatchLoader(Numbers(10), 3, shuffle=True)
    first = items(list(islice(loader, 2)))
    assert items(list(islice(loader, 2))) == first
    in_order = BatchLoader(Numbers(5), 2, shuffle=False)
    assert [batch.inputs.tolist() for batch in in_order] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ResurgeError, match="no batch 9 of epoch 0: an epoch has 3"):
        in_order.load_state_dict({"epoch": 0, "batch": 9})


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), data=st.data())
def test_ragged_series_are_standardised_then_padded_with_zeros(lengths: list[int], data: st.DataObject) -> None:
    series = [np.arange(2 * n, dtype=np.float64).reshape(n, 2) + 100 * i for i, n in enumerate(lengths)]
    split = Sequences.of(series, np.arange(len(lengths)), VALUES)
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    batch = split.batch(torch.tensor(indices))
    assert batch.targets.tolist() == indices
    assert (batch.lengths is None) == (len(set(lengths)) == 1)
    assert batch.inputs.shape == (len(indices), max(lengths[i] for i in indices), 2)
    assert batch.inputs.dtype == torch.float32
    for row, i in zip(batch.inputs.numpy(), indices, strict=True):
        np.testing.assert_allclose(row[: lengths[i]], (series[i] - [1.0, -2.0]) / [2.0, 0.5])
        assert not row[lengths[i] :].any()
    if batch.lengths is not None:
        assert batch.lengths.tolist() == [lengths[i] for i in indices]


def test_bytes_leave_zero_to_padding() -> None:
    split = Sequences.of([np.frombuffer(b"\x00\xff", np.uint8), np.frombuffer(b"a", np.uint8)], np.array([1, 0]), BYTES)
    batch = split.batch(torch.tensor([0, 1]))
    assert batch.inputs.tolist() == [[1, 256], [98, 0]]
    assert batch.inputs.dtype == torch.int64
    assert BYTES.encode(b"\x00a").tolist() == [1, 98]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.data())
def test_what_is_held_out_is_stratified(labels: list[int], draw: st.DataObject) -> None:
    y = np.array(labels)
    classes, sizes = np.unique(y, return_counts=True)
    spare = len(y) - len(classes)
    if not spare:
        with pytest.raises(ResurgeError, match="cannot be held out"):
            data.hold_out(y, 1, 0)
        return
    count = draw.draw(st.integers(1, spare))
    kept, held = data.hold_out(y, count, seed=draw.draw(st.integers(0, 5)))
    assert sorted([*kept, *held]) == list(range(len(y)))
    assert len(held) == count
    for label, size in zip(classes, sizes, strict=True):
        taken = int((y[held] == label).sum())
        assert taken < size
        if count >= len(classes) and size > 1:
            assert taken >= 1
    one = np.zeros(1000)
    assert data.hold_out(one, 10, 0)[1].tolist() != data.hold_out(one, 10, 1)[1].tolist()


def test_class_shares_stay() -> None:
    y = np.repeat([0, 1, 2], [600, 300, 100])
    _, held = data.hold_out(y, 100, 0)
    assert np.bincount(y[held]).tolist() == [60, 30, 10]


def test_a_spec_survives_json() -> None:
    assert InputSpec.from_dict(json.loads(json.dumps(VALUES.to_dict()))) == VALUES
    with pytest.raises(ResurgeError, match="Did you mean 'd_input'"):
        InputSpec.from_dict({**VALUES.to_dict(), "d_inputs": 3})
    with pytest.raises(ResurgeError, match="not complete"):
        InputSpec.from_dict({"kind": "values"})
    with pytest.raises(ResurgeError, match="2 values a step, and was given text"):
        VALUES.encode(b"text")


def test_digits() -> None:
    from sklearn.datasets import load_digits

    splits = data.Digits().load()
    assert [len(part) for part in splits[:3]] == [1294, 144, 359]
    batches = [part.batch(torch.arange(len(part))) for part in splits[:3]]
    train = batches[0]
    assert train.inputs.shape == (1294, 64, 1)
    assert abs(float(train.inputs.mean())) < 1e-5
    assert abs(float(train.inputs.std()) - 1) < 1e-3
    raw = torch.cat([batch.inputs for batch in batches]) * splits.spec.std[0] + splits.spec.mean[0]
    images, labels = load_digits(return_X_y=True)
    found = {(*row.round().int().tolist(), int(label)) for row, label in zip(
        raw[..., 0], torch.cat([batch.targets for batch in batches]), strict=True)}  # fmt: skip
    assert found == {(*map(int, image), int(label)) for image, label in zip(images, labels, strict=True)}
    assert torch.bincount(batches[2].targets).tolist() == pytest.approx([36] * 10, abs=2)
    other = data.Digits(split_seed=1).load().test.batch(torch.arange(359))
    assert not torch.equal(other.inputs, batches[2].inputs)


def test_smnist_and_its_permutation() -> None:
    folder = data_folder("mnist/mnist.npz")
    arrays = np.load(folder / "mnist/mnist.npz")
    plain, mixed = (task(data_dir=str(folder)).load() for task in (data.SMNIST, data.PSMNIST))
    assert [len(part) for part in plain[:3]] == [55_000, 5_000, 10_000]
    batch, permuted = (splits.test.batch(torch.tensor([0, 77])) for splits in (plain, mixed))
    expected = (arrays["x_test"][77].reshape(784, 1) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(batch.inputs[1].numpy(), expected, atol=1e-6)
    assert batch.targets.tolist() == arrays["y_test"][[0, 77]].tolist()
    order = data.PSMNIST().order()
    assert sorted(order) == list(range(784))
    assert torch.equal(permuted.inputs, batch.inputs[:, order])
    assert not torch.equal(permuted.inputs, batch.inputs)
    targets = plain.val.batch(torch.arange(5_000)).targets
    assert torch.bincount(targets).tolist() == pytest.approx((np.bincount(arrays["y_train"]) / 12).tolist(), abs=1)


def test_scifar() -> None:
    folder = data_folder("cifar10_grey/cifar10_grey_train.npz", "cifar10_grey/cifar10_grey_test.npz")
    splits = data.SCIFAR(data_dir=str(folder)).load()
    assert [len(part) for part in splits[:3]] == [45_000, 5_000, 10_000]
    batch = splits.test.batch(torch.arange(3))
    raw = np.load(folder / "cifar10_grey/cifar10_grey_test.npz")["x"][:3, :, None]
    np.testing.assert_allclose(batch.inputs.numpy(), (raw / 255 - 122.6 / 255) / (61 / 255), atol=1e-5)
    assert splits.spec.classes[3] == "cat"


def test_imdb() -> None:
    folder = data_folder("imdb/imdb_train.jsonl.gz", "imdb/imdb_test.jsonl.gz")
    splits = data.IMDB(data_dir=str(folder), max_length=1000).load()
    assert [len(part) for part in splits[:3]] == [23_750, 1_250, 25_000]
    with gzip.open(folder / "imdb/imdb_test.jsonl.gz") as lines:
        reviews = [json.loads(line) for line in islice(lines, 20)]
    batch = splits.test.batch(torch.arange(20))
    for row, label, review in zip(batch.inputs, batch.targets, reviews, strict=True):
        text = review["text"].encode()[:1000]
        assert bytes(token - 1 for token in row[: len(text)].tolist()) == text
        assert not row[len(text) :].any()
        assert label == review["label"]
    assert batch.lengths is not None
    assert int(batch.lengths.max()) == 1000
    assert torch.bincount(splits.val.batch(torch.arange(1250)).targets).tolist() == [625, 625]


def test_missing_data_tells_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESURGE_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(ResurgeError, match=r"elsewhere.*--data-dir or RESURGE_DATA, .*`resurge data get smnist`"):
        data.SMNIST().load()
    with pytest.raises(ResurgeError, match=re.escape(str(tmp_path / "named" / "imdb"))):
        data.IMDB(data_dir=str(tmp_path / "named")).load()
    monkeypatch.delenv("RESURGE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder_module.folder() == tmp_path / "resurge" / "data"
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "mnist.npz").write_bytes(b"not a zip")
    with pytest.raises(ResurgeError, match=r"mnist.npz: is no .npz file"):
        data.SMNIST(data_dir=str(tmp_path)).load()


def test_describe_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESURGE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    described = {entry.name: entry for entry in data.describe()}
    assert list(described) == data.tasks()
    present = [name for name, entry in described.items() if entry.present]
    assert present == ["digits", "adding", "copying", "passkey", "regression", "retrieval", "text"]
    assert all(len(entry.summary) > 20 and entry.source for entry in described.values())
    assert data.task("digits") is data.Digits
    with pytest.raises(ResurgeError, match=r"unknown task 'digit'. Did you mean 'digits'"):
        data.task("digit")
    with pytest.raises(ResurgeError, match="--path"):
        data.prepare("series")


def test_a_data_module_loads_once() -> None:
    module = DataModule(data.Digits(), 32, 128, seed=1)
    module.prepare_data()
    module.setup("fit")
    splits = module.splits
    module.setup("test")
    assert module.splits is splits
    train, val, test = module.train_dataloader(), module.val_dataloader(), module.test_dataloader()
    assert [len(train), len(val), len(test)] == [41, 2, 3]
    assert not torch.equal(next(iter(train)).targets, splits.train.batch(torch.arange(32)).targets)


def test_progress_is_told_of_long_work_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Progress("items", 3000) as short:
        short(1000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with progress.Progress("items", 3000) as long:
        long(1000)
        long(2000)
    assert capsys.readouterr().err == "items: 1,000 of 3,000\n"


def test_nothing_optional_is_imported_with_the_tasks() -> None:
    code = "import sys, resurge.data; print(*{'sklearn', 'pyarrow', 'lightning', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def tar_gz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def serve(monkeypatch: pytest.MonkeyPatch, name: str, contents: list[bytes]) -> None:
    """Stand-in downloads for a data set, with checksums to match."""
    archive = folder_module.ARCHIVES[name]
    by_url = dict(zip(archive.urls, contents, strict=True))
    sums = {url: hashlib.md5(content, usedforsecurity=False).hexdigest() for url, content in by_url.items()}
    monkeypatch.setitem(folder_module.ARCHIVES, name, archive._replace(urls=sums))

    class Response(io.BytesIO):
        headers: dict[str, str] = {}  # noqa: RUF012

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Response(by_url[url]))


def test_downloads_become_the_layout_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 784), dtype=np.uint8)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 3)
    idx = [bytes(16) + images.tobytes(), bytes(8) + labels.tobytes()] * 2
    serve(monkeypatch, "mnist", [gzip.compress(file) for file in idx])
    data.prepare("smnist", str(tmp_path))
    splits = data.SMNIST(data_dir=str(tmp_path), n_val=10).load()
    raw = splits.test.batch(torch.arange(30)).inputs[..., 0].numpy() * 78.5655 + 33.3285
    np.testing.assert_allclose(raw, images, atol=1e-3)

    colours = rng.integers(0, 256, (20, 3, 1024), dtype=np.uint8)
    classes = np.repeat(np.arange(2, dtype=np.uint8), 10)
    records = b"".join(bytes([c]) + x.tobytes() for c, x in zip(classes, colours, strict=True))
    files = {f"data_batch_{i}.bin": records[(i - 1) * 4 * 3073 : i * 4 * 3073] for i in range(1, 6)}
    files |= {"test_batch.bin": records, "batches.meta.txt": b"cat\ndog\n"}
    serve(monkeypatch, "cifar", [tar_gz({f"cifar-10-batches-bin/{name}": file for name, file in files.items()})])
    data.prepare("scifar", str(tmp_path))
    splits = data.SCIFAR(data_dir=str(tmp_path), n_val=2).load()
    grey = splits.test.batch(torch.arange(20)).inputs[..., 0].numpy() * 61 + 122.6
    exact = 0.2989 * colours[:, 0] + 0.587 * colours[:, 1] + 0.114 * colours[:, 2]
    assert np.abs(grey - exact).max() <= 0.501
    assert splits.spec.classes == ["cat", "dog"]

    serve(monkeypatch, "cifar_colour", [tar_gz({f"cifar-10-batches-bin/{name}": file for name, file in files.items()})])
    data.prepare("scifar_colour", str(tmp_path))
    splits = data.SCIFARColour(data_dir=str(tmp_path), n_val=2).load()
    std, mean = [62.985, 61.965, 66.555], [125.307, 122.961, 113.8575]
    pixels = splits.test.batch(torch.arange(20)).inputs.numpy() * std + mean
    np.testing.assert_allclose(pixels, colours.transpose(0, 2, 1), atol=1e-3)
    assert splits.spec.d_input == 3

    reviews = {
        f"aclImdb/{part}/{kind}/{i}_{rating}.txt": f"{part} {kind} é {i}".encode()
        for part in ("train", "test")
        for kind, rating in (("pos", 9), ("neg", 2))
        for i in range(3)
    }
    serve(monkeypatch, "imdb", [tar_gz({**reviews, "aclImdb/train/unsup/0_0.txt": b"?", "aclImdb/README": b"?"})])
    data.prepare("imdb", str(tmp_path))
    splits = data.IMDB(data_dir=str(tmp_path), val_fraction=0.4).load()
    batch = splits.test.batch(torch.arange(6))
    assert batch.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert bytes(t - 1 for t in batch.inputs[4].tolist() if t) == "test pos é 1".encode()
    assert [len(splits.train), len(splits.val)] == [4, 2]


def test_downloads_that_fail_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(ResurgeError, match=r"https://ai.stanford.edu.* cannot be downloaded: no route to host"):
        fetch("imdb", tmp_path)
    with pytest.raises(ResurgeError, match="Did you mean 'mnist'"):
        fetch("mnits", tmp_path)
    sums = dict(folder_module.ARCHIVES["imdb"].urls)
    serve(monkeypatch, "imdb", [b"something else"])
    monkeypatch.setitem(folder_module.ARCHIVES, "imdb", folder_module.ARCHIVES["imdb"]._replace(urls=sums))
    with pytest.raises(ResurgeError, match="is not the file expected: its MD5 is"):
        fetch("imdb", tmp_path)
    assert not list(tmp_path.iterdir())
