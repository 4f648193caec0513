"""A user's own series: all formats give the same numbers, and whatever is wrong with a file is told in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_folder import data_folder
from hypothesis import given
from hypothesis import strategies as st

from resurge import ResurgeError
from resurge.data import Sequences, Series, read_series, read_values

LONG = """id,time,x,y,label
a,2,3.5,30,up
b,1,5,50,down
a,1,1.5,10,up
b,2,6,60,down
b,3,7,70,down
"""
WIDE = "s1,s2,label,s3\n1,2,up,3\n4,5,down,6\n"
TS = "#note\n@problemName Toy\n@timeStamps false\n@dimensions 2\n@classLabel true up down\n@data\n"


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def raw(split: object, splits: object) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Every series of a split as it was before standardisation."""
    assert isinstance(split, Sequences)
    batch = split.batch(torch.arange(len(split)))
    spec = split.spec
    lengths = split.lengths.tolist()
    rows = zip(batch.inputs.double().numpy(), lengths, strict=True)
    return [row[:n] * np.array(spec.std) + np.array(spec.mean) for row, n in rows]


def test_long_csv(tmp_path: Path) -> None:
    file = read_series(write(tmp_path, "a.csv", LONG))
    assert file.names == ["a", "b"]
    assert file.series[0].tolist() == [[1.5, 10], [3.5, 30]]
    assert file.series[1].tolist() == [[5, 50], [6, 60], [7, 70]]
    assert file.labels is not None
    assert file.labels.tolist() == ["up", "down"]


def test_wide_csv(tmp_path: Path) -> None:
    file = read_series(write(tmp_path, "a.csv", "\ufeff" + WIDE.replace(",", ";")))
    assert [one[:, 0].tolist() for one in file.series] == [[1, 2, 3], [4, 5, 6]]
    assert file.labels is not None
    assert file.labels.tolist() == ["up", "down"]
    unlabelled = read_series(write(tmp_path, "b.csv", "0,1,2\n1,2,3\n\n4,5,6\n"))
    assert unlabelled.labels is None
    assert [one[:, 0].tolist() for one in unlabelled.series] == [[1, 2, 3], [4, 5, 6]]


def test_dates_order_the_rows(tmp_path: Path) -> None:
    text = "id,time,x\na,2024-02-01,2\na,2023-12-31,1\na,2024-10-01,3\n"
    assert read_series(write(tmp_path, "a.csv", text)).series[0][:, 0].tolist() == [1, 2, 3]


@given(
    series=st.lists(
        st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=5), min_size=2, max_size=5
    )
)
def test_formats_agree(tmp_path_factory: pytest.TempPathFactory, series: list[list[tuple[float, float]]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("formats")
    labels = [("up", "down")[i % 2] for i in range(len(series))]
    rows = [(str(i), x, y, labels[i]) for i, one in enumerate(series) for x, y in one]
    columns = dict(zip(("id", "x", "y", "label"), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    write(folder, "a.csv", "id,x,y,label\n" + "".join(f"{i},{x!r},{y!r},{label}\n" for i, x, y, label in rows))
    flat = np.array([[x, y] for _, x, y, _ in rows])
    np.savez(folder / "a.npz", x=flat, y=np.array(labels), offsets=np.cumsum([0, *map(len, series)]))
    lines = [":".join(",".join(repr(step[c]) for step in one) for c in (0, 1)) for one in series]
    write(folder, "a.ts", TS + "".join(f"{line}:{label}\n" for line, label in zip(lines, labels, strict=True)))
    for name in ("a.csv", "a.parquet", "a.npz", "a.ts"):
        file = read_series(folder / name, labelled=True)
        assert [one.tolist() for one in file.series] == [[list(step) for step in one] for one in series], name
        assert file.labels is not None
        assert file.labels.tolist() == labels


def test_npz_of_one_length(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.int16)
    np.savez(tmp_path / "a.npz", x=x.reshape(4, 6), y=np.array([1.0, 0.0, 1.0, 0.0]))
    np.savez(tmp_path / "b.npz", x=x.reshape(4, 3, 2))
    file = read_series(tmp_path / "a.npz")
    assert [one.shape for one in file.series] == [(6, 1)] * 4
    assert file.series[1][:, 0].tolist() == [6, 7, 8, 9, 10, 11]
    assert file.labels is not None
    assert file.labels.astype(str).tolist() == ["1", "0", "1", "0"]
    assert read_series(tmp_path / "b.npz").series[3].tolist() == [[18, 19], [20, 21], [22, 23]]


def table(n: int, seed: int = 0) -> str:
    """`n` wide series of 5 steps in three classes, whose values tell which series they are."""
    rng = np.random.default_rng(seed)
    rows = [",".join(map(str, [*(rng.normal(size=5).round(3) + 10 * i), "abc"[i % 3]])) for i in range(n)]
    return "t1,t2,t3,t4,t5,label\n" + "\n".join(rows) + "\n"


def test_splits_are_whole_stratified_and_standardised(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", table(60))
    splits = Series(path=path).load()
    assert [len(part) for part in splits[:3]] == [43, 5, 12]
    found = [round(one.mean() / 10) for part in splits[:3] for one in raw(part, splits)]
    assert sorted(found) == list(range(60))
    train, val, test = (part.batch(torch.arange(len(part))) for part in splits[:3])
    assert abs(float(train.inputs.mean())) < 1e-6
    assert float(train.inputs.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert splits.spec.classes == ["a", "b", "c"]
    assert set(val.targets.tolist()) == {0, 1, 2}
    assert torch.bincount(test.targets).tolist() == [4, 4, 4]
    assert [number % 3 for number in found] == torch.cat([train.targets, val.targets, test.targets]).tolist()
    other = Series(path=path, data_seed=1).load()
    assert not torch.equal(other.test.batch(torch.arange(12)).inputs, test.inputs)


def test_a_share_of_zero_takes_the_part_before(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", table(12))
    splits = Series(path=path, val_fraction=0).load()
    assert splits.val.batch(torch.arange(4)).inputs.tolist() == splits.train.batch(torch.arange(4)).inputs.tolist()
    assert [len(part) for part in splits[:3]] == [9, 9, 3]
    assert [len(part) for part in Series(path=path, test_fraction=0).load()[:3]] == [9, 3, 3]
    assert [len(part) for part in Series(path=path, val_fraction=0, test_fraction=0).load()[:3]] == [12, 12, 12]


def test_a_test_file_is_found_by_its_name(tmp_path: Path) -> None:
    train, test = write(tmp_path, "toy_TRAIN.csv", table(30)), write(tmp_path, "toy_TEST.csv", table(9, seed=1))
    splits = Series(path=train).load()
    assert [len(part) for part in splits[:3]] == [27, 3, 9]
    expected = read_series(test).series
    for one, wanted in zip(raw(splits.test, splits), expected, strict=True):
        np.testing.assert_allclose(one, wanted, atol=1e-4)
    elsewhere = write(tmp_path, "other.csv", table(6))
    assert len(Series(path=train, test_path=elsewhere).load().test) == 6
    unseen = write(tmp_path, "unseen.csv", "t1,t2,label\n1,2,a\n1,2,z\n")
    with pytest.raises(ResurgeError, match=r"unseen.csv: series 2: class 'z' occurs in the test file only"):
        Series(path=train, test_path=unseen).load()


def test_values_as_targets(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "t1,t2,label\n" + "".join(f"{i},{i},{i / 2}\n" for i in range(20)))
    splits = Series(path=path, target="value").load()
    batch = splits.test.batch(torch.arange(4))
    assert batch.targets.dtype == torch.float32
    assert [float(y) for y in batch.targets[:, 0]] == [one[0, 0] / 2 for one in np.round(raw(splits.test, splits))]
    assert (splits.spec.d_output, splits.spec.classes) == (1, [])
    np.savez(tmp_path / "b.npz", x=np.random.default_rng(0).normal(size=(20, 7)), y=np.ones((20, 3)))
    assert Series(path=str(tmp_path / "b.npz"), target="value").load().spec.d_output == 3
    with pytest.raises(ResurgeError, match="the label of series 2: 'high' is not a number"):
        Series(path=write(tmp_path, "c.csv", "t1,label\n1,2\n1,high\n"), target="value").load()


def test_only_the_start_is_read(tmp_path: Path) -> None:
    splits = Series(path=write(tmp_path, "a.csv", table(12)), max_length=3).load()
    assert splits.train.batch(torch.arange(2)).inputs.shape == (2, 3, 1)


@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, -1e9 / 3])
def test_a_constant_channel_is_harmless(tmp_path: Path, constant: float) -> None:
    np.savez(tmp_path / "a.npz", x=np.full((12, 3), constant), y=np.arange(12) % 2)
    splits = Series(path=str(tmp_path / "a.npz")).load()
    assert splits.train.batch(torch.arange(4)).inputs.abs().max() < 1e-6


def test_a_large_mean_costs_no_precision(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 50))
    batches = []
    for mean in (0.0, 1e6):
        np.savez(tmp_path / "a.npz", x=x + mean, y=np.arange(12) % 2)
        batches.append(Series(path=str(tmp_path / "a.npz")).load().train.batch(torch.arange(4)).inputs)
    torch.testing.assert_close(batches[0], batches[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "channels", "sizes", "lengths"),
    [("JapaneseVowels", 12, [243, 27, 370], (7, 29)), ("BasicMotions", 6, [36, 4, 40], (100, 100))],
)
def test_uea_archive(name: str, channels: int, sizes: list[int], lengths: tuple[int, int]) -> None:
    folder = data_folder(f"ucr_uea/{name}/{name}_TRAIN.ts", f"ucr_uea/{name}/{name}_TEST.ts") / "ucr_uea" / name
    splits = Series(path=str(folder / f"{name}_TRAIN.ts")).load()
    assert [len(part) for part in splits[:3]] == sizes
    assert splits.spec.d_input == channels
    batch = splits.test.batch(torch.arange(sizes[2]))
    all_lengths = [n for part in splits[:3] if isinstance(part, Sequences) for n in part.lengths.tolist()]
    assert (min(all_lengths), max(all_lengths)) == lengths
    assert (batch.lengths is None) == (name == "BasicMotions")
    line = (folder / f"{name}_TEST.ts").read_text().split("@data")[1].split("\n")[5]
    *parts, label = line.split(":")
    values = np.array([part.split(",") for part in parts], dtype=np.float64).T
    np.testing.assert_allclose(raw(splits.test, splits)[4], values, atol=1e-5)
    assert splits.spec.classes[int(batch.targets[4])] == label
    validation = splits.val.batch(torch.arange(sizes[1])).targets
    assert torch.bincount(validation).tolist() == [sizes[1] // len(splits.spec.classes)] * len(splits.spec.classes)
    train = splits.train
    assert isinstance(train, Sequences)
    standardised = train.spec.inputs(torch.cat([train.raw[a:b] for a, b in train.offsets.unfold(0, 2, 1).tolist()]))
    np.testing.assert_allclose(standardised.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standardised.std(0, correction=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: is empty"),
        ("a.csv", "id,x,label\n", "has no row after the names"),
        ("a.csv", b"\x89PNG\x00", "is binary, with a NUL at byte 4"),
        ("a.csv", "id,x,label\na,1,gr\u00fcn\n".encode("latin-1"), "is not UTF-8: invalid start byte at byte 17"),
        ("a.csv", LONG + "b,4,8,down\n", r"a.csv: line 7 has 4 cells, and the first line names 5"),
        ("a.csv", LONG + '"b,4\n', r"line 7 is no CSV: unexpected end of data"),
        ("a.csv", LONG.replace("30", "3o"), r"line 2, column 'y': '3o' is not a number \(series 'a', step 1\)"),
        ("a.csv", LONG.replace("30", "3_0"), r"line 2, column 'y': '3_0' is not a number"),
        ("a.csv", LONG.replace("60", ""), r"line 5, column 'y': '' is not a number \(series 'b', step 2\)"),
        (
            "a.csv",
            LONG.replace("7,70", "7,NaN"),
            r"line 6, column 'y': NaN is not a finite number \(series 'b', step 3\)",
        ),
        ("a.csv", WIDE.replace("6", "-inf"), r"line 3, column 's3': -inf is not a finite number \(series 2, step 3\)"),
        ("a.csv", LONG.replace("b,2,6,60,down", "b,2,6,60,up"), "line 5, .* 'b' has label 'up' here and 'down' before"),
        ("a.csv", LONG.replace("b,2,6,60,down", "b,2,6,60,"), "line 5, column 'label': the label is missing"),
        ("a.csv", LONG.replace("b,2,", ",2,"), "line 5, column 'id': the id is missing"),
        ("a.csv", LONG.replace("label", "lable"), "has no column 'label'. Did you mean 'lable'"),
        ("a.csv", "1.5,2.5,1.25\n1,2,3\n", "has no column 'label'|line 1 must name the columns, and has numbers"),
        ("a.csv", "x,x,label\n1,2,a\n", "line 1 must name the columns, and has 'x' twice"),
        ("a.csv", "id,label\n1,a\n", "has no column of values beside id, label"),
        ("a.csv", "x,label\n1,a\n2,a\n", "all series have the label 'a'; two classes at least"),
        ("a.csv", "x,label\n1,a\n2,b\n", "cannot be held out"),
        ("a.ts", TS + "1,2:3,4:up\n1,2:3:down\n", "line 8: channel 2 has 1 steps, and channel 1 has 2"),
        ("a.ts", TS + "1,2:3,4:up\n1,2:down\n", "line 8 has 1 channels, and the series before have 2"),
        ("a.ts", TS + "1,2:3,4:up\n1,?:3,4:down\n", r"line 8, channel 1, step 2: '\?' is not a number"),
        ("a.ts", TS + "1,2:3,nan:up\n", "line 7, channel 2, step 2: nan is not a finite number"),
        ("a.ts", TS + "1,2:3,4:upp\n", "line 7: 'upp' is no class .* Did you mean 'up'"),
        ("a.ts", TS + "1,2:3,4:\n", "line 7: the label .* is missing"),
        ("a.ts", TS + "::up\n", "a.ts: series 1 has no steps"),
        ("a.ts", TS, "a.ts: has no series"),
        ("a.ts", TS.replace("@data\n", ""), "has no line '@data'"),
        ("a.ts", "1,2:up\n", "line 1: a line '@keyword ...' is expected"),
        ("a.ts", TS.replace("Stamps false", "Stamps true"), "line 3: series with time stamps are not supported"),
        ("a.ts", TS.replace("true up down", "false") + "1,2\n", "its series have no labels"),
        ("a.npz", b"PK not really", "is no .npz file, or is cut short"),
        ("a.parquet", b"no parquet", "a.parquet: is no parquet file"),
        ("a.xls", b"x", "a .csv, .tsv, .parquet, .pq, .npz or .ts file is expected"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ResurgeError, match=message) as caught:
        Series(path=write(tmp_path, name, content)).load()
    assert "\n" not in str(caught.value)


X, Y = np.ones((3, 4)), np.array(["a", "b", "a"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": X, "y": Y}, "has no array 'x'. It has: X, y"),
        ({"x": X}, "has no array 'y'"),
        ({"x": X, "y": Y[:2]}, r"there are 3 series, and 'y' has shape \(2,\)"),
        ({"x": X, "y": np.array(["a", None, 3], dtype=object)}, r"array 'y' holds Python objects \(a pickle\): never"),
        ({"x": X[0], "y": Y}, r"'x' must be numbers \(N, T\) or \(N, T, d\), and is float64 \(4,\)"),
        ({"x": Y[:, None], "y": Y}, "'x' must be numbers .* and is <U1"),
        ({"x": X, "y": np.array([1.0, np.nan, 2.0])}, r"y of series 1 \(from 0\) is nan"),
        ({"x": X, "y": np.array([1.0, 2.0, np.inf])}, r"y of series 2 \(from 0\) is inf"),
        ({"x": X[:, :0], "y": Y}, "series 0 has no steps"),
        ({"x": X.ravel(), "y": Y, "offsets": np.array([0, 4, 4, 12])}, "series 1 has no steps"),
        ({"x": X.ravel(), "y": Y, "offsets": np.array([0, 4, 8, 13])}, "rise from 0 to the 12 steps"),
        ({"x": np.where(np.arange(4) == 2, np.nan, X), "y": Y}, "series 0, step 2, channel 0 is nan"),
    ],
)
def test_what_is_wrong_with_arrays_is_told(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:  # type: ignore[type-arg]
    np.savez(tmp_path / "a.npz", **arrays, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(ResurgeError, match=message):
        Series(path=str(tmp_path / "a.npz")).load()


def test_a_damaged_npz_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ResurgeError, match="array 'x' cannot be read: Bad CRC"):
        Series(path=str(tmp_path / "a.npz")).load()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (lambda p: Series(), "name it with --path"),
        (lambda p: Series(path=p.replace("a.csv", "ab.csv")), r"no such file. Did you mean 'a.csv'"),
        (lambda p: Series(path=p, target="klass"), "unknown target 'klass'. Did you mean 'class'"),
        (lambda p: Series(path=p, val_fraction=1.0), r"must lie in \[0, 1\)"),
        (lambda p: Series(path=p, label="lbl"), "Did you mean 'label'"),
    ],
)
def test_options_are_checked(tmp_path: Path, task: Callable[[str], Series], message: str) -> None:
    path = write(tmp_path, "a.csv", table(12))
    with pytest.raises(ResurgeError, match=message):
        task(path).load()


def test_lines_become_steps_as_they_come() -> None:
    def lines() -> object:
        yield "1, 2\n"
        yield "3 4.5"
        yield "  \n"
        yield "-1e3,2"
        yield "reset"
        raise AssertionError("read ahead")

    steps = read_values(lines(), 2)  # type: ignore[arg-type]
    assert [next(steps) for _ in range(5)] == [[1, 2], [3, 4.5], [], [-1000, 2], []]
    for line, message in [
        ("1", "line 2: 2 numbers are expected, and there are 1"),
        ("1,x", "line 2: 'x' is not a number"),
        ("inf 1", "line 2: inf is not a finite number"),
    ]:
        with pytest.raises(ResurgeError, match=message):
            list(read_values(["1 1", line], 2))
