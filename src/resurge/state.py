"""Recurrent states as values: nested tuples of tensors, batch first, of a size that does not depend on time.

Every function takes the state of a layer or of a whole model. Selecting rows gives a smaller batch, `save` and
`load` keep a stream across processes, `detach` ends the gradient at a border between pieces.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from resurge.errors import ResurgeError
from resurge.files import write_atomic

S = TypeVar("S")


def map_tensors(function: Callable[[Tensor], Tensor], state: S) -> S:
    """The same state with `function` applied to every tensor."""
    if isinstance(state, Tensor):
        return function(state)  # type: ignore[return-value]
    if isinstance(state, tuple):
        parts = [map_tensors(function, part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)  # type: ignore[return-value]
    raise ResurgeError(f"a state is made of tuples of tensors, and this one holds a {type(state).__name__}")


def named_tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) of every tensor of a state, such as ("blocks.0.h", ...)."""
    if isinstance(state, Tensor):
        yield prefix or "state", state
    else:
        names = getattr(state, "_fields", range(len(state)))
        for name, part in zip(names, state, strict=True):
            yield from named_tensors(part, f"{prefix}.{name}" if prefix else str(name))


def check(state: Any, like: Any, owner: str) -> None:
    """Refuse a state that is not of the type and shapes of `like`, an initial state of `owner` for the same batch.

    Raises:
        ResurgeError: it is the state of something else, or of another batch size.
    """
    if type(state) is not type(like):
        raise ResurgeError(f"state must be a {type(like).__name__} of {owner}, and is a {type(state).__name__}")
    for (name, given), (_, expected) in zip(named_tensors(state), named_tensors(like), strict=True):
        if given.shape != expected.shape:
            raise ResurgeError(
                f"state.{name} must have shape {tuple(expected.shape)} for a batch of {len(expected)}, "
                f"and has {tuple(given.shape)}"
            )


def detach(state: S) -> S:
    """The same values without their history: the gradient ends here (truncated backpropagation through time)."""
    return map_tensors(Tensor.detach, state)


def select(state: S, rows: Tensor | list[int] | slice) -> S:
    """The states of the batch rows `rows` (an index tensor, a list or a slice), in that order."""
    return map_tensors(lambda tensor: tensor[rows], state)


def where(condition: Tensor, first: S, second: S) -> S:
    """Row b of `first` where `condition[b]` (B,) is true, of `second` elsewhere."""
    pairs = zip(named_tensors(first), named_tensors(second), strict=True)
    chosen = iter([torch.where(condition.view(-1, *[1] * (a.dim() - 1)), a, b) for (_, a), (_, b) in pairs])
    return map_tensors(lambda _: next(chosen), first)


def nbytes(state: Any) -> int:
    """Bytes that the tensors of a state take."""
    return sum(tensor.nbytes for _, tensor in named_tensors(state))


def save(state: Any, path: str | Path) -> None:
    """Write a state to `path` (npz: plain arrays, nothing pickled), atomically."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in named_tensors(state)}
    np.savez(buffer, **arrays)
    write_atomic(Path(path), buffer.getvalue())


def load(path: str | Path, like: S) -> S:
    """Read a state from `path` into the structure, device and dtype of `like`, usually `initial_state(batch)`.

    Raises:
        ResurgeError: the file is no state, or the state of another layer, model or batch size.
    """
    try:
        with open(path, "rb") as file:
            arrays = dict(np.load(file, allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ResurgeError(f"{path} is not a saved state: {error}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in named_tensors(like)}
    given = {name: array.shape for name, array in arrays.items()}
    if given != expected:
        raise ResurgeError(f"{path} holds another state: it has {given}, and {expected} was expected")
    read = iter([(torch.from_numpy(arrays[name]), tensor) for name, tensor in named_tensors(like)])
    return map_tensors(lambda _: (lambda pair: pair[0].to(pair[1]))(next(read)), like)
