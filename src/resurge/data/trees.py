"""Random ListOps expressions, compiled: trees are grown, evaluated and written in one pass, without recursion."""

import numpy as np
from numpy.typing import NDArray

from resurge.data.encoding import LISTOPS
from resurge.errors import ResurgeError
from resurge.jit import jit

OPERATOR, CLOSE, ZERO = LISTOPS.index("[MIN"), LISTOPS.index("]"), LISTOPS.index("0")
_HOPELESS = 100_000  # trees grown in a row without one of the right length


@jit
def _apply(operator, values):  # type: ignore[no-untyped-def]
    if operator == 0:
        return values.min()
    if operator == 1:
        return values.max()
    if operator == 2:
        return int(np.median(values))  # the mean of the two in the middle, cut to an integer
    return values.sum() % 10


@jit
def _grow(rng, tokens, limit, max_depth, max_args):  # type: ignore[no-untyped-def]
    """Writes one tree to `tokens`; its length, or 0 if that reaches `limit`, and its value."""
    operators, wanted, got = np.zeros((3, max_depth), np.int64)
    values = np.zeros((max_depth, max_args), np.int64)
    depth = length = 0  # of nodes that are open; of what is written
    while length < limit:
        if depth + 1 < max_depth and rng.random() <= 0.25:
            operators[depth], wanted[depth], got[depth] = rng.integers(0, 4), rng.integers(2, max_args + 1), 0
            tokens[length] = OPERATOR + operators[depth]
            depth, length = depth + 1, length + 1
            continue
        value = rng.integers(0, 10)
        tokens[length] = ZERO + value
        length += 1
        while depth > 0:
            parent = depth - 1
            values[parent, got[parent]] = value
            got[parent] += 1
            if got[parent] < wanted[parent]:
                break
            if length == limit:
                return 0, 0
            value = _apply(operators[parent], values[parent, : got[parent]])
            tokens[length] = CLOSE
            depth, length = parent, length + 1
        if depth == 0:
            return (length if length < limit else 0), value
    return 0, 0


@jit
def _fill(rng, tokens, lengths, answers, min_length, max_length, max_depth, max_args):  # type: ignore[no-untyped-def]
    written = failed = 0
    for i in range(len(lengths)):
        while lengths[i] == 0:
            length, value = _grow(rng, tokens[written:], max_length, max_depth, max_args)
            failed += 1
            if length > min_length:
                lengths[i], answers[i], failed = length, value, 0
            elif failed > _HOPELESS:
                return -1
        written += lengths[i]
    return written


def grow_block(
    seed: tuple[int, int], n: int, min_length: int, max_length: int, max_depth: int, max_args: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    """`n` trees with more than `min_length` and fewer than `max_length` tokens: a function of the arguments alone.

    Runs without the GIL.

    Returns:
        All tokens, joined; the lengths (n,); the values (n,).

    Raises:
        ResurgeError: such trees hardly ever grow.
    """
    tokens = np.zeros(n * max_length, np.uint8)
    lengths, answers = np.zeros(n, np.int64), np.zeros(n, np.uint8)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    written = _fill(rng, tokens, lengths, answers, min_length, max_length, max_depth, max_args)
    if written < 0:
        raise ResurgeError(
            f"no expression of more than {min_length} and fewer than {max_length} tokens in {_HOPELESS:,} drawn with"
            f" max_depth {max_depth} and max_args {max_args}: allow other lengths, or deeper and wider ones"
        )
    return tokens[:written].copy(), lengths, answers
