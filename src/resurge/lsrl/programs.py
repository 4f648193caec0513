"""Programs that are told by their prompt what to compute: any function of numbers, any map of words."""

from collections.abc import Callable

import torch
from torch import Tensor

from resurge.errors import ResurgeError
from resurge.lsrl.language import Program, concat, relu, state, token
from resurge.lsrl.sugar import (
    Select,
    all_of,
    between,
    cycle,
    equal,
    gated_select,
    negate,
    step,
    steps_so_far,
    total,
)


def majority() -> Program:
    """One channel of zeros and ones in; out, at each step, whether there have been more ones than zeros."""
    x = token(1)
    return Program(x, step(state(2 * x - 1)))


def function_of_cells(d: int, *, select: Select = gated_select) -> Program:
    """Approximates whatever function of (0, 1]^d the prompt describes, cell by cell.

    The first token is the query (x, 0, 0), each other one a cell (lower corner, width, value). The last output is the
    value of the cell that holds x: a prompt of n^d cells brings any function with Lipschitz constant L to
    L sqrt(d) / (2 n) of its values, whatever the function; `cells_prompt` makes it.

    Args:
        d: number of arguments.
        select: how the program chooses, see `ReLUSelect` for one without products.

    Raises:
        ResurgeError: d is below 1.
    """
    _check("d", d)
    tokens = token(d + 2)
    place, width, value = tokens[:d], tokens[d], tokens[d + 1]
    first = relu(2 - steps_so_far())
    query = state(select(first, place, 0))
    inside = between(query - place, 0, width)
    in_all = inside[0]
    for i in range(1, d):
        in_all = select(inside[i], in_all, 0)
    return Program(tokens, state(select(in_all, value, 0)))


def cells_prompt(queries: Tensor, f: Callable[[Tensor], Tensor], n: int) -> Tensor:
    """Prompts (B, 1 + n^d, d + 2) for `function_of_cells`: queries (B, d), and f at the centres of n^d cells.

    f takes points (..., d) and gives values (...).
    """
    B, d = queries.shape
    edges = torch.arange(n, dtype=torch.float64) / n
    corners = torch.cartesian_prod(*[edges] * d).reshape(-1, d)
    cells = torch.cat([corners, torch.full((len(corners), 1), 1 / n), f(corners + 0.5 / n)[:, None]], 1)
    first = torch.cat([queries.double(), torch.zeros(B, 2)], 1)
    return torch.cat([first[:, None], cells.expand(B, -1, -1)], 1)


def word_map(length: int, *, select: Select = gated_select) -> Program:
    """Looks a word up in the dictionary of the prompt: words are `length` whole numbers >= 0, one a step.

    The prompt is the word to look up, then pairs of a word and its translation; `words_prompt` makes it. After the last
    pair the `length` outputs are the translation of the first word, zeros if it was not there. Each word is to be there
    once.

    Letters that agree add to a trace that halves at each step: at the end of a word it is 1 + 1/2 + ... + 2^(1-length)
    if all did. In the translation that follows, k steps on, it is 2^-k of that.

    Args:
        length: of all words.
        select: how the program chooses, see `ReLUSelect` for one without products.

    Raises:
        ResurgeError: length is below 1.
    """
    _check("length", length)
    letter = token(1)
    place = cycle(2 * length)
    asked = step(length + 0.5 - steps_so_far())
    # the question is the first word; so keys stand in the second half of the cycle, translations in the first
    question = state(select(all_of(asked, place[:length]), letter, 0))
    expected = total(select(place[length:], question, 0))
    agrees = all_of(equal(letter, expected), total(place[length:]))
    trace = state(agrees, [[0.5]])
    full = 2 - 2.0 ** (1 - length)
    least = full - 2.0**-length
    found = concat(step(trace - 2.0 ** -(k + 1) * least) for k in range(length))
    told = all_of(found, place[:length], negate(asked))
    return Program(letter, state(select(told, letter, 0)))


def words_prompt(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Prompts (B, length (1 + 2 n), 1) for `word_map`: words to look up (B, length), keys and values (B, n, length)."""
    pairs = torch.stack([keys, values], 2).flatten(1)
    return torch.cat([query, pairs], 1)[..., None].double()


def _check(name: str, number: int) -> None:
    if number < 1:
        raise ResurgeError(f"{name} must be at least 1, and is {number}")
