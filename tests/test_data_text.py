"""Text as windows of bytes: nothing is lost between windows, files are held out whole, no binary gets in."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resurge import ResurgeError
from resurge.data import BatchLoader, Text
from resurge.data.text import Windows


def content(split: object) -> bytes:
    assert isinstance(split, Windows)
    return bytes(split.content.tolist())


@given(st.integers(1, 9), st.integers(18, 80), st.integers(0, 50))
def test_windows_follow_each_other(length: int, size: int, epoch: int) -> None:
    text = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    windows = Windows(text, length)
    for split in (windows, windows.at_epoch(4, epoch)):
        batch = split.batch(torch.arange(len(split)))
        assert batch.lengths is None
        joined = batch.inputs.flatten().tolist()
        start = split.start
        assert joined == text[start : start + len(joined)].tolist()
        assert batch.targets.flatten().tolist() == text[start + 1 : start + 1 + len(joined)].tolist()
        assert len(text) - len(joined) <= 2 * length


def test_training_windows_move_with_the_epoch() -> None:
    windows = Windows(np.arange(256, dtype=np.uint8), 16)
    assert len({windows.at_epoch(0, epoch).start for epoch in range(20)}) > 8
    assert windows.at_epoch(3, 5).start == windows.at_epoch(3, 5).start
    assert len({len(windows.at_epoch(0, epoch)) for epoch in range(20)}) == 1
    first, second = ([batch.inputs for batch in BatchLoader(windows, 4, shuffle=True)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_standard_library_is_the_default() -> None:
    train, val, test, spec = Text().load()
    assert len(train) * 256 > 3_000_000
    assert min(len(val), len(test)) * 256 > 50_000
    assert (spec.target, spec.d_input, spec.d_output, spec.encoding) == ("next_token", 256, 256, "bytes")
    assert content(train).count(b"\ndef ") > 1000
    assert content(val)[:2000].decode()
    assert spec.encode("é".encode()).tolist() == [0xC3, 0xA9]


def test_whole_files_of_a_folder_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        folder = tmp_path / f"part{i % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.txt").write_text(f"<{i}>" * 50)
    (tmp_path / ".hidden").write_text("hidden" * 100)
    (tmp_path / "picture").write_bytes(b"\x00\x01")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").write_text("")
    splits = Text(path=str(tmp_path), length=8).load()
    found = [set(content(part).decode().strip("<>").split("><")) for part in splits[:3]]
    assert [len(part) for part in found] == [36, 2, 2]
    assert set.union(*found) == {str(i) for i in range(40)}
    assert found[1] | found[2] != {"0", "12", "15", "18"}  # the first by name: a hash chooses, not the alphabet
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "2 files are left out" in warnings[0]
    again = Text(path=str(tmp_path), length=8).load()
    assert [content(part) for part in again[:3]] == [content(part) for part in splits[:3]]


def test_a_single_file_is_cut_in_three(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = bytes(range(1, 101)) * 10
    path.write_bytes(bytes(byte % 128 for byte in text if byte % 128))
    size = path.stat().st_size
    splits = Text(path=str(path), length=8).load()
    assert b"".join(content(part) for part in splits[:3]) == path.read_bytes()
    assert [len(content(part)) / size for part in splits[:3]] == pytest.approx([0.9, 0.05, 0.05], abs=0.01)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "a.txt: is empty"),
        (b"text\x00more" * 100, "a.txt: is binary, with a NUL at byte 4"),
        (b"plain " * 100 + b"\xff", "a.txt: is not UTF-8: invalid start byte at byte 600"),
        (b"short", "windows of 256 need 512"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    with pytest.raises(ResurgeError, match=message):
        Text(path=str(path)).load()


def test_paths_and_options_are_checked(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("words")
    with pytest.raises(ResurgeError, match=r"bok.txt: no such file. Did you mean 'book.txt'"):
        Text(path=str(tmp_path / "bok.txt")).load()
    with pytest.raises(ResurgeError, match="has 1 text files, and to hold some out takes 3"):
        Text(path=str(tmp_path)).load()
    with pytest.raises(ResurgeError, match="length must be at least 1"):
        Text(length=0).load()
    with pytest.raises(ResurgeError, match="sum below 1"):
        Text(val_fraction=0.5, test_fraction=0.5).load()


def test_a_file_name_that_is_no_utf8_is_a_name_too(tmp_path: Path) -> None:
    for i in range(3):
        Path(os.fsdecode(os.fsencode(tmp_path) + f"/{i}".encode() + b"\xff.txt")).write_bytes(b"a line\n" * 10)
    assert len(Text(path=str(tmp_path), length=8).load().train) == 7
