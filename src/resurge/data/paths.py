"""Images of dashed paths, compiled: two long ones, short ones to distract, and two discs at ends of the long ones."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurge.jit import jit

_FINE = 2  # lines and discs are drawn at so many times the resolution
_TRIALS = 3  # of a dash
_TRIES = 5  # of a short path


class Look(NamedTuple):
    """How the images of one size look."""

    dash: int
    """Length of a dash."""
    thickness: float
    """Its width."""
    margins: tuple[int, ...]
    """Distances that dashes keep from each other; each image has one of them."""
    continuity: float
    """The larger, the straighter the paths."""
    seed_distance: int
    """Between the starts of the two long paths."""
    radius: float
    """Of the discs."""
    distracting: int
    """Dashes of all short paths together."""
    contrast: tuple[float, float]
    """Of long and of short paths, beside discs of 1, as the benchmark's own description has them."""


LOOKS = {
    32: Look(2, 0.5, (1,), 1.0, 7, 1.5, 20, (1.5, 2.0)),
    64: Look(5, 1.0, (1,), 1.8, 12, 2.5, 22, (0.8, 0.8)),
    128: Look(5, 1.5, (2, 3), 1.8, 20, 3.0, 35, (0.9, 0.9)),
}
"""By the number of pixels along an edge."""


class Tables(NamedTuple):
    """All that depends on an angle. A dash starts at a pixel and has one of 360 + K angles, which it is known by.

    The first 360 are whole degrees from -180, of dashes drawn from the tail: the first of a path. The others are those
    from the previous dash to the K pixels on a circle; such dashes are drawn from the head, back to the tail.
    """

    size: int
    dashes: int
    """Of a long path."""
    short_dashes: int
    """Of a short one."""
    short_paths: int
    seed_distance: int
    contrast: tuple[float, float]
    lines: NDArray[np.float64]
    """(360 + K, S, S) the dash, its start in the middle."""
    masks: NDArray[np.float64]
    """(360 + K, S, S) what no other dash may touch."""
    pivots: NDArray[np.int64]
    """(360, 2) from the tail of a first dash to its pivot, `margin` behind it."""
    heads: NDArray[np.int64]
    """(360, 2) from its tail to its head."""
    begins: NDArray[np.bool_]
    """(360,) the angles at which a path can begin, see `_beginning`."""
    needs: NDArray[np.bool_]
    """(360, Q, Q) the pixels around its tail that must be free for that,"""
    boxes: NDArray[np.int64]
    """(360, 2, 2) and the least and greatest row and column of them."""
    steps: NDArray[np.int64]
    """(360 + K, 2) from the pivot of a dash to that of the next."""
    circle: NDArray[np.int64]
    """(K, 2) from a pivot to the heads that its dash may have."""
    weights: NDArray[np.float64]
    """(360 + K, K) how likely they are after a dash of each angle."""
    near: NDArray[np.int64]
    """(M, 2) a disc of radius `margin`."""
    disc: NDArray[np.float64]
    """(R, R) a marker."""


@cache
def tables(size: int, dashes: int, margin: int, contrast: tuple[float, float]) -> Tables:
    """The tables for images of `size` pixels, long paths of `dashes` dashes and one margin."""
    look = LOOKS[size]
    length = look.dash
    circle, toward = _circle(length + margin)
    degrees = np.radians(np.arange(-180.0, 180.0))
    headings = np.concatenate([degrees, toward])
    lines, masks = zip(
        *(_dash(angle, length, look.thickness, margin) for angle in [*degrees, *(toward + np.pi)]), strict=True
    )
    heads = _ceil(length, degrees)
    turned = np.abs(headings[:, None] - toward)
    turned = np.minimum(look.continuity * np.minimum(turned, 2 * np.pi - turned), np.pi / 2)
    begins, needs, boxes = zip(*(_beginning(mask, length + margin) for mask in masks[:360]), strict=True)
    short = dashes // 3
    return Tables(
        size, dashes, short, look.distracting // short, look.seed_distance, contrast,
        np.stack(lines), np.stack(masks),
        heads + _ceil(length + margin, degrees + np.pi), heads,
        np.array(begins), np.stack(needs), np.array(boxes),
        _ceil(length + 2 * margin, headings), circle, np.cos(turned) ** 2, np.argwhere(_round(margin)) - margin,
        _disc(look.radius),
    )  # fmt: skip


def _ceil(length: float, angles: NDArray[np.float64]) -> NDArray[np.int64]:
    """`length` along each angle as whole pixels (row, column), rounded up."""
    along = length * np.stack([np.sin(angles), np.cos(angles)], -1)
    return np.ceil(along.round(9)).astype(np.int64)  # so that the sine of 180 degrees is 0


def _circle(radius: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The pixels on a circle around (0, 0), one a pixel of arc, rounded down, and their angles."""
    arc = np.arange(0, 2 * np.pi, 1 / radius)
    points = np.floor((radius * np.stack([np.sin(arc), np.cos(arc)], -1)).round(9)).astype(np.int64)
    points = np.unique(points, axis=0)
    return points, np.arctan2(points[:, 0], points[:, 1])


def _round(radius: float) -> NDArray[np.bool_]:
    reach = int(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disc: NDArray[np.bool_] = x**2 + y**2 <= radius**2
    return disc


def _reduced(fine: NDArray[np.bool_], size: int) -> NDArray[np.float64]:
    """A square image at `size` pixels along an edge, by Lanczos' filter of three lobes, cut to [0, 1]."""
    scale = len(fine) / size
    x = (np.arange(len(fine)) + 0.5) / scale - (np.arange(size)[:, None] + 0.5)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
    weights /= weights.sum(1, keepdims=True)
    image = fine.astype(np.float64)
    for _ in range(2):  # along rows, then along columns; whole grey values in between
        image = np.rint(255 * (weights @ image.T).clip(0, 1)) / 255
    return image


def _dash(angle: float, length: int, thickness: float, margin: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A dash from the middle of a square image, and all that lies within `margin` of it."""
    reach = length + int(np.ceil(thickness)) + margin
    middle, width = _FINE * reach, _FINE * thickness
    end = _ceil(_FINE * length, np.array([angle]))[0]
    far = np.hypot(*end)
    cross, along = end / far, np.mgrid[-middle : middle + 1, -middle : middle + 1]
    y, x = along
    over, ahead = y * cross[1] - x * cross[0], y * cross[0] + x * cross[1]
    half = (width - 1 + np.abs(cross).max()) / 2  # a line of width 1 has one pixel in each row or column
    fine = (over > 1e-9 - half) & (over < half + 1e-9) & (ahead > -0.5) & (ahead < far + 0.5)
    wide = np.zeros_like(fine)
    for dy, dx in np.argwhere(_round(_FINE * margin)) - _FINE * margin:
        wide |= np.roll(fine, (dy, dx), (0, 1))
    return _reduced(fine, 2 * reach + 1), _reduced(wide, 2 * reach + 1)


def _beginning(mask: NDArray[np.float64], reach: int) -> tuple[bool, NDArray[np.bool_], list[list[int]]]:
    """Of a first dash: whether a path can begin at its angle, and the pixels that must be free, also as a box.

    These are the whole pixels of its mask, up to `reach` from its tail, moved one pixel down and right. That, and that
    they must lie on all sides of the tail, is an oversight of the original generator, whose search fails where it
    cannot tell about some pixel at the border. It matters: at 32 pixels one first dash in twelve passes, which
    points up and left, and most short paths stay away.
    """
    middle = mask.shape[0] // 2
    y, x = (np.argwhere(mask >= 1) - middle + 1).T
    near = np.maximum(np.abs(y), np.abs(x)) <= reach
    y, x = y[near], x[near]
    around = all((((a * y) >= 0) & ((b * x) >= 0)).any() for a in (-1, 1) for b in (-1, 1))
    needs = np.zeros((2 * reach + 1, 2 * reach + 1), np.bool_)
    needs[y + reach, x + reach] = True
    box = [[int(c.min()), int(c.max())] for c in (y, x)] if around else [[0, 0], [0, 0]]
    return around, needs, box


def _disc(radius: float) -> NDArray[np.float64]:
    reach = int(np.ceil(radius)) + 3
    y, x = np.ogrid[: _FINE * (2 * reach + 1), : _FINE * (2 * reach + 1)]
    middle = _FINE * reach
    return _reduced((x - middle) ** 2 + (y - middle) ** 2 <= (_FINE * radius) ** 2, 2 * reach + 1)


@jit
def _inside(y, x, size):  # type: ignore[no-untyped-def]
    return 0 <= y < size and 0 <= x < size


@jit
def _stamp(image, stamp, y, x, contrast):  # type: ignore[no-untyped-def]
    """image = max(image, contrast * stamp), the middle of the stamp at (y, x)."""
    size, reach = len(image), len(stamp) // 2
    for i in range(max(0, y - reach), min(size, y + reach + 1)):
        for j in range(max(0, x - reach), min(size, x + reach + 1)):
            image[i, j] = max(image[i, j], contrast * stamp[i - y + reach, j - x + reach])


@jit
def _meets(mask, stamp, y, x, limit):  # type: ignore[no-untyped-def]
    """Whether mask + stamp reaches `limit` anywhere."""
    size, reach = len(mask), len(stamp) // 2
    for i in range(max(0, y - reach), min(size, y + reach + 1)):
        for j in range(max(0, x - reach), min(size, x + reach + 1)):
            if mask[i, j] + stamp[i - y + reach, j - x + reach] >= limit:
                return True
    return False


@jit
def _begins(dash, tip, angle, y, x, t):  # type: ignore[no-untyped-def]
    """Lets a path begin at tail (y, x), if head and pivot of its first dash are inside. `tip`: pivot and angle."""
    dash[0], dash[1], dash[2] = angle, y, x
    tip[0], tip[1], tip[2] = y + t.pivots[angle, 0], x + t.pivots[angle, 1], angle
    return _inside(y + t.heads[angle, 0], x + t.heads[angle, 1], t.size) and _inside(tip[0], tip[1], t.size)


@jit
def _grows(rng, mask, path, k, tip, t, total):  # type: ignore[no-untyped-def]
    """Adds dash k to a path, if there is room; only then the dash before it enters the mask."""
    size, last = t.size, int(tip[2])
    y, x = tip[0] + t.steps[last, 0], tip[1] + t.steps[last, 1]
    reached = 0.0
    for c in range(len(t.circle)):
        i, j = y + t.circle[c, 0], x + t.circle[c, 1]
        weight = t.weights[last, c] if _inside(i, j, size) else 0.0
        if weight > 0:
            taken = 0.0
            for m in range(len(t.near)):
                v, w = i + t.near[m, 0], j + t.near[m, 1]
                if _inside(v, w, size):
                    taken = max(taken, mask[v, w])
            weight *= 1 - taken
        reached += weight
        total[c] = reached
    if reached < 1e-4:
        return False
    for _ in range(_TRIALS):
        c = min(np.searchsorted(total, reached * rng.random(), side="right"), len(total) - 1)
        i, j = y + t.circle[c, 0], x + t.circle[c, 1]
        if not _meets(mask, t.masks[360 + c], i, j, 1.8):
            _stamp(mask, t.masks[path[k - 1, 0]], path[k - 1, 1], path[k - 1, 2], 1.0)
            path[k, 0], path[k, 1], path[k, 2] = 360 + c, i, j
            tip[0], tip[1], tip[2] = y, x, 360 + c
            return True
    return False


@jit
def _two_begin(rng, paths, tips, t):  # type: ignore[no-untyped-def]
    """The first dashes of both long paths: one in the middle, one at the seed distance from it."""
    for trial in range(_TRIALS + 1):
        angle = rng.integers(0, 360)
        first, last = 2 * t.seed_distance, t.size - 1 - 2 * t.seed_distance
        y0, x0 = first - t.boxes[angle, 0, 0], first - t.boxes[angle, 1, 0]
        rows, columns = last - t.boxes[angle, 0, 1] - y0 + 1, last - t.boxes[angle, 1, 1] - x0 + 1
        if trial == _TRIALS or not t.begins[angle] or rows <= 0 or columns <= 0:
            return False
        if _begins(paths[0, 0], tips[0], angle, y0 + rng.integers(0, rows), x0 + rng.integers(0, columns), t):
            break
    for _ in range(_TRIALS):
        angle, way = rng.integers(0, 360), np.pi / 180 * rng.integers(0, 360)
        y = paths[0, 0, 1] + int(np.rint(t.seed_distance * np.sin(way)))
        x = paths[0, 0, 2] + int(np.rint(t.seed_distance * np.cos(way)))
        if _begins(paths[1, 0], tips[1], angle, y, x, t):
            return True
    return False


@jit
def _two_paths(rng, mask, paths, tips, t, total):  # type: ignore[no-untyped-def]
    """Both long paths, dash by dash in turn; False if one comes to a dead end."""
    mask[:] = 1
    mask[1:-1, 1:-1] = 0
    if not _two_begin(rng, paths, tips, t):
        return False
    for k in range(1, t.dashes):
        for path, tip in zip(paths, tips):  # noqa: B905  # numba knows no `strict`
            if not _grows(rng, mask, path, k, tip, t, total):
                return False
    for path in paths:
        _stamp(mask, t.masks[path[-1, 0]], path[-1, 1], path[-1, 2], 1.0)
    return True


@jit
def _short_path(rng, mask, path, tip, t, total, free):  # type: ignore[no-untyped-def]
    """One short path, anywhere; False if there is no room. The mask is left half done then."""
    size, reach = t.size, t.needs.shape[1] // 2
    if np.sum(mask <= 0.3) < 0.01 * size * size:
        return False
    taken = mask > 0.3
    taken[0], taken[-1], taken[:, 0], taken[:, -1] = True, True, True, True
    for trial in range(_TRIALS + 1):
        angle, n = rng.integers(0, 360), 0
        if trial == _TRIALS or not t.begins[angle]:
            return False
        (top, bottom), (left, right) = t.boxes[angle]
        for y in range(1, size - 1):
            for x in range(1, size - 1):
                blocked = False
                for i in range(max(0, y + top), min(size, y + bottom + 1)):
                    for j in range(max(0, x + left), min(size, x + right + 1)):
                        if taken[i, j] and t.needs[angle, i - y + reach, j - x + reach]:
                            blocked = True
                            break
                    if blocked:
                        break
                if not blocked:
                    free[n] = y * size + x
                    n += 1
        if n == 0:
            return False
        y, x = divmod(free[rng.integers(0, n)], size)
        if _begins(path[0], tip, angle, y, x, t):
            break
    for k in range(1, len(path)):
        if not _grows(rng, mask, path, k, tip, t, total):
            return False
    _stamp(mask, t.masks[path[-1, 0]], path[-1, 1], path[-1, 2], 1.0)
    return True


@jit
def _draw(rng, t, label, paths, image):  # type: ignore[no-untyped-def]
    """Fills `paths` (2, dashes, 3) and `image`; which of the two long paths has the first disc."""
    size = t.size
    mask, total = np.empty((size, size)), np.empty(len(t.circle))
    tips = np.empty((2, 3), np.int64)
    while not _two_paths(rng, mask, paths, tips, t, total):
        pass
    grey = np.zeros((size, size))
    for path in paths:
        for angle, y, x in path:
            _stamp(grey, t.lines[angle], y, x, t.contrast[0])
    path, tip, free = np.empty((t.short_dashes, 3), np.int64), tips[0], np.empty(size * size, np.int64)
    for _ in range(t.short_paths):
        for _ in range(_TRIES):
            tried = mask.copy()
            if _short_path(rng, tried, path, tip, t, total, free):
                mask = tried
                for angle, y, x in path:
                    _stamp(grey, t.lines[angle], y, x, t.contrast[1])
                break
    origin = rng.integers(0, 2)
    _stamp(grey, t.disc, paths[origin, 0, 1], paths[origin, 0, 2], 1.0)
    end = origin if label else 1 - origin
    _stamp(grey, t.disc, paths[end, -1, 1], paths[end, -1, 2], 1.0)
    image[:] = np.rint(grey * (255 / grey.max()))
    return origin


class Picture(NamedTuple):
    """An image, and what it was drawn from."""

    image: NDArray[np.uint8]
    """(size, size) grey."""
    label: int
    """1 if both discs are at ends of one path."""
    paths: NDArray[Any]
    """(2, dashes, 3) of both long paths: angle in `Tables`, row and column where each dash starts."""
    origin: int
    """The path at whose tail the first disc is; the other disc is at the head of path `origin` if label, or else of
    the other one."""


def picture(seed: int, index: int, kinds: tuple[Tables, ...]) -> Picture:
    """Image `index` of the images of `seed`: a function of the arguments alone. Runs without the GIL.

    Its label is a fair coin, and its tables one of `kinds`, all as likely.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index))))
    label, kind = int(rng.integers(0, 2)), kinds[int(rng.integers(0, len(kinds)))]
    image = np.empty((kind.size, kind.size), np.uint8)
    paths = np.empty((2, kind.dashes, 3), np.int64)
    return Picture(image, label, paths, int(_draw(rng, kind, label, paths, image)))
