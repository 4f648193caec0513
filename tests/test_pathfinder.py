"""Pathfinder: the sheet's statistics, labels that the stored paths prove, the same images on any number of threads."""

from collections import deque
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from resurge import ResurgeError
from resurge.data import Pathfinder, Splits, task
from resurge.data.paths import LOOKS, Picture, Tables, picture, tables

DASHES = {"easy": 6, "medium": 9, "hard": 14}


def kinds(size: int, difficulty: str, *, lra: bool = True) -> tuple[Tables, ...]:
    look = LOOKS[size]
    contrast = look.contrast if lra else (look.contrast[0], look.contrast[0])
    return tuple(tables(size, DASHES[difficulty], margin, contrast) for margin in look.margins)


def pictures(n: int, size: int, difficulty: str, *, lra: bool = True) -> list[Picture]:
    made = kinds(size, difficulty, lra=lra)
    return [picture(0, i, made) for i in range(n)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def small(**changes: int | str | bool) -> Pathfinder:
    return Pathfinder(**{"n_train": 120, "n_val": 20, "n_test": 10, "difficulty": "easy", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "difficulty", "mean", "share"),
    # of the sheet at 32 pixels; at 128, 12 images by the original program: 7.76 and 6.1 %, with an error of 3 % or so
    [(32, "easy", 12.7, 0.095), (32, "hard", 20.1, 0.16), (128, "hard", 7.76, 0.061)],
)
def test_statistics_are_those_of_the_original(size: int, difficulty: str, mean: float, share: float) -> None:
    images = np.stack([one.image for one in pictures(1000 if size == 32 else 40, size, difficulty)])
    assert images.mean() == pytest.approx(mean, rel=0.1)
    assert (images > 10).mean() == pytest.approx(share, rel=0.1)
    assert images.min() == 0
    assert (images.max((1, 2)) == 255).all()


def test_half_of_the_labels_are_1_and_tell_nothing_by_themselves() -> None:
    made = pictures(1000, 32, "easy")
    labels, origins = (np.array([getattr(one, name) for one in made]) for name in ("label", "origin"))
    for coin in (labels, origins, labels == origins):
        assert coin.mean() == pytest.approx(0.5, abs=0.06)  # four times the error of 1,000


def drawn(path: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """The pixels of straight lines between the points where dashes start, as thick as a step to a neighbour."""
    seen = np.zeros((size, size), np.bool_)
    for (y0, x0), (y1, x1) in pairwise(path):
        steps = 4 * max(abs(y1 - y0), abs(x1 - x0), 1)
        ways = np.linspace(0, 1, steps + 1)
        seen[np.rint(y0 + ways * (y1 - y0)).astype(int), np.rint(x0 + ways * (x1 - x0)).astype(int)] = True
    return seen


def filled(open_pixels: NDArray[np.bool_], start: tuple[int, int]) -> NDArray[np.bool_]:
    """All pixels that are reached from `start` by steps to one of four neighbours, or to one of four diagonal ones."""
    reached, waiting = np.zeros_like(open_pixels), deque([start])
    while waiting:
        y, x = waiting.popleft()
        if 0 <= y < len(reached) and 0 <= x < len(reached) and open_pixels[y, x] and not reached[y, x]:
            reached[y, x] = True
            waiting.extend((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1))
    return reached


@pytest.mark.parametrize(("size", "difficulty"), [(32, "easy"), (32, "hard"), (64, "hard"), (128, "hard")])
def test_a_flood_along_the_path_comes_from_disc_to_disc_if_the_label_says_so(size: int, difficulty: str) -> None:
    """At 32 pixels, a path may run over the very end of the other one, between two dashes: once in 100 images."""
    wrong, n = 0, 60 if size == 32 else 15
    for one in pictures(n, size, difficulty):
        start = tuple(one.paths[one.origin, 0, 1:].tolist())
        end = tuple(one.paths[one.origin if one.label else 1 - one.origin, -1, 1:].tolist())
        wrong += filled(drawn(one.paths[one.origin, :, 1:], size), start)[end] != bool(one.label)
        for y, x in (start, end):  # the discs are where they are said to be
            assert one.image[max(0, y - 1) : y + 1, max(0, x - 1) : x + 1].max() >= 200
        for path in one.paths:  # every dash has left a trace at its start
            ahead = one.image[path[1:, 1], path[1:, 2]]
            assert (ahead > 0).mean() > 0.9
    assert wrong <= 1


def around(dash: NDArray[np.int64], image: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """The part of an image that a dash may touch; the image has a frame of 30 pixels."""
    y, x = dash[1:] + 30
    return image[y - reach : y + reach + 1, x - reach : x + reach + 1]


def test_dashes_keep_their_distance() -> None:
    """A replay: no dash, with its margin, covers what dashes before the last one of its path have covered."""
    for size, difficulty in ((32, "hard"), (128, "easy")):
        look = kinds(size, difficulty)[0]
        reach, room = look.masks.shape[1] // 2, slice(30, 30 + size)
        for i in range(10):
            one = picture(7, i, (look,))
            covered = np.zeros((size + 60, size + 60))  # a frame around, which nothing is compared with
            for k in range(1, look.dashes):
                for path in one.paths:
                    new, last = path[k], path[k - 1]
                    inside = np.zeros_like(covered)
                    inside[room, room] = covered[room, room]
                    assert (around(new, inside, reach) + look.masks[new[0]]).max() < 1.8
                    place = around(last, covered, reach)
                    np.maximum(place, look.masks[last[0]], out=place)


def test_angles_and_steps_of_the_tables() -> None:
    (look,) = kinds(32, "hard")
    # head = tail + 2 along the angle, rounded up; the pivot 3 behind the head; the next pivot 4 on
    east, south = 180, 270  # 0 and 90 degrees, rows counting downwards
    assert look.heads[[east, south]].tolist() == [[0, 2], [2, 0]]
    assert look.pivots[[east, south]].tolist() == [[0, -1], [-1, 0]]
    assert look.steps[[east, south]].tolist() == [[0, 4], [4, 0]]
    # continuity 1: weights are the squared cosine of the turn, none for more than a right angle
    angles = np.arctan2(look.circle[:, 0], look.circle[:, 1])
    np.testing.assert_allclose(look.weights[east], np.maximum(np.cos(angles), 0) ** 2, atol=1e-12)
    assert set(map(tuple, look.circle.tolist())) >= {(0, 3), (-3, -1), (2, 1), (-3, 0)}
    assert len(look.circle) <= 19  # one a pixel of arc: 6 pi
    begins = set(np.nonzero(look.begins)[0].tolist())  # of the original: -150 to -121 degrees
    assert set(range(31, 59)) <= begins <= set(range(29, 62))
    assert all(kind.begins.mean() > 0.95 for kind in kinds(128, "hard"))


def test_targets_and_short_paths_are_as_bright_unless_asked_otherwise() -> None:
    for lra in (False, True):
        bright = np.concatenate([np.unique(one.image) for one in pictures(100, 32, "easy", lra=lra)])
        assert (bright == 255).any()
    equal, own = (np.stack([one.image for one in pictures(200, 32, "hard", lra=lra)]) for lra in (False, True))
    assert ((equal > 0) == (own > 0)).mean() > 0.99  # the same paths
    assert not np.array_equal(equal, own)


def test_the_same_images_on_any_number_of_threads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents(made: Pathfinder, folder: str) -> bytes:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache / folder))
        made.load()
        return made.file.read_bytes()

    one, three = contents(small(workers=1), "one"), contents(small(workers=3), "three")
    assert one == three
    assert contents(small(data_seed=1), "other") != one
    alone = picture(0, 130, kinds(32, "easy", lra=False))  # image 130 is the eleventh of validation
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "one"))
    batch = small().load().val.batch(torch.tensor([10]))
    np.testing.assert_allclose(batch.inputs[0, :, 0], alone.image.reshape(-1) / 127.5 - 1, atol=1e-6)
    assert batch.targets.tolist() == [alone.label]


def test_splits_and_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    assert not made.present()
    splits: Splits = made.load()
    assert [len(part) for part in splits[:3]] == [120, 20, 10]
    batch = splits.test.batch(torch.tensor([3, 0, 3]))
    assert batch.inputs.shape == (3, 1024, 1)
    assert batch.lengths is None
    assert batch.inputs.min() == -1
    assert batch.inputs.max() == 1
    assert torch.equal(batch.inputs[0], batch.inputs[2])
    assert made.present()
    assert not small(lra_contrast=True).present()
    content = made.file.read_bytes()
    with monkeypatch.context() as context:
        context.setattr(Pathfinder, "_generate", lambda self: pytest.fail("the cache was not used"))
        assert torch.equal(small(workers=2).load().test.batch(torch.tensor([3])).inputs, batch.inputs[:1])
    made.file.write_bytes(content[: len(content) // 2])
    assert torch.equal(made.load().test.batch(torch.tensor([3])).inputs, batch.inputs[:1])
    assert made.file.read_bytes() == content


def test_impossible_wishes_are_refused() -> None:
    for changes, words in (
        ({"size": 48}, "size must be 32, 64 or 128, and is 48"),
        ({"difficulty": "hrad"}, "unknown difficulty 'hrad'. Did you mean 'hard'"),
        ({"n_val": 0}, "n_val must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"data_seed": -1}, "seed must lie between 0"),
    ):
        with pytest.raises(ResurgeError, match=words):
            small(**changes).load()  # type: ignore[arg-type]
    assert task("pathfinder") is Pathfinder


def test_single_pixels_tell_nothing() -> None:
    """A linear classifier is at chance: what is to be learned is a relation, not a place."""
    made = pictures(3000, 32, "easy")
    x, y = np.stack([one.image.reshape(-1) / 255 for one in made]), np.array([one.label for one in made])
    linear = LogisticRegression(C=1e-2, max_iter=200).fit(x[:2000], y[:2000])
    assert linear.score(x[2000:], y[2000:]) < 0.55
