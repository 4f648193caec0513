"""Answers of a trained run to data that it has not seen: whole files, or standard input as it comes."""

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from resurge.data.base import InputSpec
from resurge.errors import ResurgeError
from resurge.inference.stream import Stream
from resurge.models import LanguageModel

Answer = dict[str, Any]

_STEPS = 64  # steps answered in one go when more are waiting: bounds memory
_LONGEST = 1 << 16  # bytes of a line


def answer(spec: InputSpec, output: Tensor) -> Answer:
    """What one output vector (n_outputs,) says: a class and its probability, or values."""
    if spec.target == "value":
        values = output.tolist()
        return {"value": values[0] if len(values) == 1 else values}
    probability, index = torch.softmax(output.double(), -1).max(-1)
    return {"class": spec.classes[int(index)] if spec.classes else int(index), "probability": float(probability)}


def lines(descriptor: int, *, cut: bool = False) -> Iterator[list[bytes]]:
    """Lines from a file descriptor as they come: at each turn all that are there, without waiting for more.

    Args:
        descriptor: an open file, pipe or terminal.
        cut: hand on a line that is longer than 64 kB in pieces, instead of refusing it.

    Raises:
        ResurgeError: such a line.
    """
    rest = b""
    while piece := os.read(descriptor, 4096):
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > _LONGEST:
            if not cut:
                raise ResurgeError(f"a line of standard input is longer than {_LONGEST} bytes: is this text?")
            whole, rest = [*whole, rest], b""
        if whole:
            yield whole
    if rest:
        yield [rest]
