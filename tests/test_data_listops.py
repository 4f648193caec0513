"""ListOps: answers by an evaluator of its own, the sheet's statistics, the same data on any number of threads."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resurge import ResurgeError
from resurge.data import ListOps, Sequences, Splits
from resurge.data.encoding import LISTOPS, encode_listops
from resurge.data.trees import grow_block

PUBLISHED = {"min_length": 500, "max_length": 2000, "max_depth": 10, "max_args": 10}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def value(text: str) -> tuple[int, int]:
    """The value of an expression, and the depth of its deepest digit."""
    words = iter(text.split())

    def node(word: str, depth: int) -> tuple[int, int]:
        if not word.startswith("["):
            return int(word), depth
        parts = []
        while (part := next(words)) != "]":
            parts.append(node(part, depth + 1))
        assert 2 <= len(parts) <= 10
        values = [part[0] for part in parts]
        operators = {
            "MIN": min,
            "MAX": max,
            "MED": lambda v: math.floor(statistics.median(v)),
            "SM": lambda v: sum(v) % 10,
        }
        return operators[word[1:]](values), max(part[1] for part in parts)

    result = node(next(words), 1)
    assert next(words, None) is None
    return result


def texts(split: Sequences) -> list[tuple[str, int]]:
    batch = split.batch(torch.arange(len(split)))
    rows = [row[row > 0].tolist() for row in batch.inputs]
    return [(" ".join(LISTOPS[token] for token in row), int(y)) for row, y in zip(rows, batch.targets, strict=True)]


def small(**changes: int) -> ListOps:
    return ListOps(**{"n_train": 700, "n_val": 40, "n_test": 60, "min_length": 5, "max_length": 80, **changes})


def parts(splits: Splits) -> list[list[tuple[str, int]]]:
    return [texts(part) for part in splits[:3] if isinstance(part, Sequences)]


@pytest.mark.parametrize(
    "changes", [{}, {"max_depth": 3, "max_args": 4, "max_length": 20}, {"min_length": 1, "max_length": 6}]
)
def test_answers_lengths_and_uniqueness(cache: Path, changes: dict[str, int]) -> None:
    task = small(**changes)
    splits = parts(task.load())
    assert [len(part) for part in splits] == [700, 40, 60]
    everything = [pair for part in splits for pair in part]
    assert len({text for text, _ in everything}) == 800
    for text, answer in everything:
        found, depth = value(text)
        assert found == answer
        assert depth <= task.max_depth
        assert task.min_length < len(text.split()) < task.max_length


def test_the_evaluator_knows_the_paper_s_example() -> None:
    assert value("[MAX 2 9 [MIN 4 7 ] 0 ]") == (9, 3)
    assert value("[MED 1 2 [SM 9 9 9 ] 8 ]")[0] == 4  # 4.5, cut


def test_statistics_are_those_of_the_sheet() -> None:
    tokens, lengths, answers = grow_block((0, 0), 4000, **PUBLISHED)
    # The sheet counted 3,000 samples; 4 % of the mean is about twice the error of two such counts.
    assert lengths.mean() == pytest.approx(1064, rel=0.04)
    assert np.quantile(lengths, [0.05, 0.25, 0.5, 0.75, 0.95]) == pytest.approx([540, 723, 995, 1347, 1819], rel=0.05)
    shares = np.bincount(tokens, minlength=16) / len(tokens)
    assert shares[0] == 0
    assert shares[1:5] == pytest.approx([0.035] * 4, abs=0.001)
    assert shares[5] == pytest.approx(0.142, abs=0.001)
    assert shares[6:] == pytest.approx([0.072] * 10, abs=0.001)
    answer = np.bincount(answers, minlength=10) / len(answers)
    assert answer[[0, 9]] == pytest.approx([0.171] * 2, abs=0.02)
    assert answer[1:9].min() > 0.062
    assert answer[1:9].max() < 0.105
    roots = tokens[np.cumsum([0, *lengths])[:-1]]
    assert np.bincount(roots, minlength=5)[1:] / len(roots) == pytest.approx([0.25] * 4, abs=0.03)


def test_the_same_data_on_any_number_of_threads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents(task: ListOps, folder: str) -> bytes:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache / folder))
        task.load()
        return task.file.read_bytes()

    one, three = contents(small(n_train=2500, workers=1), "one"), contents(small(n_train=2500, workers=3), "three")
    assert one == three
    assert contents(small(n_train=2500, data_seed=1), "other") != one
    # The same stream of expressions, cut elsewhere.
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "one"))
    long, short = ([pair for part in parts(small(n_train=n).load()) for pair in part] for n in (2500, 300))
    assert long[:400] == short


def test_the_cache_is_used_and_mended(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = small()
    assert not task.present()
    expected = parts(task.load())
    assert task.present()
    assert not small(max_args=9).present()
    content = task.file.read_bytes()
    with monkeypatch.context() as context:
        context.setattr(ListOps, "_generate", lambda self: pytest.fail("the cache was not used"))
        assert parts(small(workers=2).load()) == expected
    task.file.write_bytes(content[: len(content) // 2])
    assert parts(task.load()) == expected
    assert task.file.read_bytes() == content
    assert [path.name for path in task.file.parent.iterdir()] == [task.file.name]


@given(st.integers(0, 2**32), st.integers(0, 300), st.integers(2, 200), st.integers(2, 8), st.integers(2, 6))
def test_blocks_keep_their_bounds(seed: int, low: int, width: int, max_depth: int, max_args: int) -> None:
    try:
        tokens, lengths, answers = grow_block((seed, 0), 20, low, low + width, max_depth, max_args)
    except ResurgeError as error:
        refusal = str(error)
        assert f"more than {low} and fewer than {low + width}" in refusal
        return
    assert low < lengths.min() <= lengths.max() < low + width
    ends = np.cumsum(lengths)
    assert ends[-1] == len(tokens)
    for end, length, answer in zip(ends, lengths, answers, strict=True):
        found, depth = value(" ".join(LISTOPS[token] for token in tokens[end - length : end]))
        assert (found, depth <= max_depth) == (answer, True)


def test_impossible_wishes_are_refused(cache: Path) -> None:
    with pytest.raises(ResurgeError, match=r"no expression of more than 500 and fewer than 2000 tokens .* max_depth 2"):
        small(min_length=500, max_length=2000, max_depth=2).load()
    with pytest.raises(ResurgeError, match="hardly more than 10 such expressions"):
        small(min_length=0, max_length=3).load()
    with pytest.raises(ResurgeError, match="min_length below max_length"):
        small(min_length=80).load()
    with pytest.raises(ResurgeError, match="max_args 2"):
        small(max_args=1).load()


def test_expressions_as_text() -> None:
    tokens = encode_listops(b"( ( ( [MAX 2 ) 9 ) X )")
    assert [LISTOPS[token] for token in tokens] == ["[MAX", "2", "9", "]"]
    assert encode_listops(b"[MAX 2 9]").tolist() == tokens.tolist()
    with pytest.raises(ResurgeError, match=r"unknown ListOps token '\[MIX'. Did you mean '\[MI?A?[NX]'"):
        encode_listops(b"[MIX 2 9 ]")
