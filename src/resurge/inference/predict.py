"""Answers of a trained run to data that it has not seen: whole files, or a stream for as long as it comes."""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from resurge.data.base import InputSpec
from resurge.data.reading import read_utf8, read_values
from resurge.data.retrieval import Pairs, Retrieval, read_pairs
from resurge.data.series import Series, read_series
from resurge.errors import ResurgeError
from resurge.inference.stream import Stream
from resurge.models import LanguageModel

if TYPE_CHECKING:
    from resurge.training import Run

Answer = dict[str, Any]
"""What is known of a sequence: "class" and "probability", "value", or "bits" and "bits_per_byte"."""

_PIECE = 4096  # bytes read, and bytes of text answered, in one go
_STEPS = 64  # steps of values answered in one go when more are waiting; with _PIECE it bounds the memory
_LONGEST = 1 << 16  # bytes of a line
_BATCH = 1 << 16  # steps of series in a batch, padding included


def answer(spec: InputSpec, output: Tensor) -> Answer:
    """What one output vector (n_outputs,) says."""
    if spec.target == "value":
        values = output.tolist()
        return {"value": values[0] if len(values) == 1 else values}
    probability, index = torch.softmax(output.double(), -1).max(-1)
    return {"class": spec.classes[int(index)] if spec.classes else str(int(index)), "probability": float(probability)}


def answer_file(run: "Run", path: Path) -> Iterator[list[Answer]]:
    """Answers to a file: one a series, one a line of ListOps or of pairs of texts, or one for a whole text.

    Raises:
        ResurgeError: the file cannot be read, or holds something else than the model takes.
    """
    spec = run.spec
    if spec.pairs:
        yield from _pairs(run, path)
    elif spec.encoding == "bytes":
        text = read_utf8(path)
        pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
        *_, (last,) = _texts(run, ([piece] for piece in pieces))
        yield [{name: value for name, value in last.items() if name != "bits"}]
    elif spec.kind == "tokens":
        yield from _texts(run, [read_utf8(path).splitlines()])
    else:
        yield from _series(run, path)


def answer_stream(run: "Run", descriptor: int) -> Iterator[list[Answer]]:
    """Answers to an open file, pipe or terminal, one a line, at once; lists of as many as could be read together.

    Values: a line is a time step, the answer is for all steps so far; an empty line or the word "reset" starts a new
    series, and has no answer. ListOps: a line is an expression. Bytes: a line, or 64 kB of a longer one, is a piece of
    the text; classifiers answer for all of it so far, language models with the bits of the piece and the bits per byte
    so far.

    Raises:
        ResurgeError: a line is not what the model takes; its number is given.
    """
    spec = run.spec
    if spec.kind == "tokens":
        yield from _texts(run, lines(descriptor, cut=spec.encoding == "bytes"))
        return
    stream = Stream(run.model, spec=spec)
    waiting: deque[bytes] = deque()
    steps = read_values((waiting.popleft().decode(errors="replace") for _ in iter(int, 1)), spec.d_input)
    for some in lines(descriptor):
        waiting.extend(some)
        piece: list[list[float]] = []
        for left in reversed(range(len(some))):
            try:
                step = next(steps)
            except ResurgeError:  # the lines before it have their answers
                if piece:
                    yield [answer(spec, output) for output in stream.push_each([piece])[0]]
                raise
            if step:
                piece.append(step)
            if piece and (not step or not left or len(piece) == _STEPS):
                yield [answer(spec, output) for output in stream.push_each([piece])[0]]
                piece = []
            if not step:
                stream.reset()


def lines(descriptor: int, *, cut: bool = False) -> Iterator[list[bytes]]:
    """Lines as they come: at each turn all that are there, without waiting for more.

    Args:
        descriptor: an open file, pipe or terminal.
        cut: hand on a line of more than 64 kB in pieces, instead of refusing it.

    Raises:
        ResurgeError: such a line.
    """
    rest = b""
    while piece := os.read(descriptor, _PIECE):
        *whole, rest = (rest + piece).split(b"\n")
        whole = [line + b"\n" for line in whole]
        if len(rest) > _LONGEST:
            if not cut:
                raise ResurgeError(f"a line of more than {_LONGEST} bytes came: is this text?")
            whole, rest = [*whole, rest], b""
        if whole:
            yield whole
    if rest:
        yield [rest]


def _series(run: "Run", path: Path) -> Iterator[list[Answer]]:
    spec, task = run.spec, run.experiment.data
    if isinstance(task, Series):
        found = read_series(path, label=task.label, id=task.id, time=task.time)
        found = found._replace(series=[values[: task.max_length or None] for values in found.series])
    else:
        found = read_series(path)
    for name, values in zip(found.names, found.series, strict=True):
        if values.shape[1] != spec.d_input:
            raise ResurgeError(
                f"{path}: series '{name}' has {values.shape[1]} channels, and the model takes {spec.d_input}"
            )
    start = 0
    while start < len(found.series):
        stop, longest = start, 0
        while stop < len(found.series) and (stop == start or (stop + 1 - start) * longest <= _BATCH):
            longest = max(longest, len(found.series[stop]))
            stop += 1
        series = [spec.inputs(torch.from_numpy(values)) for values in found.series[start:stop]]
        with torch.inference_mode():
            outputs, _ = run.model(
                pad_sequence(series, batch_first=True), lengths=torch.tensor([len(values) for values in series])
            )
        names = found.names[start:stop]
        yield [{"series": name, **answer(spec, output)} for name, output in zip(names, outputs, strict=True)]
        start = stop


def _pairs(run: "Run", path: Path) -> Iterator[list[Answer]]:
    task = run.experiment.data
    assert isinstance(task, Retrieval)
    pairs = Pairs(read_pairs(path, task.length), run.spec)
    for some in torch.arange(len(pairs)).split(max(1, _BATCH // (2 * task.length))):
        batch = pairs.batch(some)
        with torch.inference_mode():
            outputs, _ = run.model(batch.inputs, lengths=batch.lengths)
        yield [{"line": i + 1, **answer(run.spec, output)} for i, output in zip(some.tolist(), outputs, strict=True)]


def _texts(run: "Run", groups: Iterable[list[bytes]]) -> Iterator[list[Answer]]:
    """One answer a piece of text; ListOps' pieces are expressions of their own, other pieces follow each other."""
    spec, stream = run.spec, Stream(run.model)
    cost = _Cost() if isinstance(run.model, LanguageModel) else None
    line = 0
    for group in groups:
        answers = []
        for piece in group:
            line += 1
            try:
                tokens = spec.encode(piece)
            except ResurgeError as error:
                raise ResurgeError(f"line {line}: {error}") from None
            if not len(tokens):
                continue
            if spec.encoding == "listops":
                stream.reset()
            outputs = stream.push(tokens[None])[0]
            answers.append(answer(spec, outputs) if cost is None else cost.add(outputs, tokens))
        yield answers


class _Cost:
    """The bits that a text costs a language model, from its second byte on: nothing stands before the first."""

    def __init__(self) -> None:
        self.bits, self.bytes = 0.0, 0
        self.next: Tensor | None = None  # log-probabilities of the next token

    def add(self, logits: Tensor, tokens: Tensor) -> Answer:
        """The bits of the next `tokens` (T,), and the bits per byte of all so far; logits (T, vocabulary) are after."""
        scores = torch.log_softmax(logits.double(), -1)
        before = scores[:-1] if self.next is None else torch.cat([self.next[None], scores[:-1]])
        bits = -float(before.gather(1, tokens[-len(before) :, None]).sum()) / math.log(2) if len(before) else 0.0
        self.bits += bits
        self.bytes += len(before)
        self.next = scores[-1].clone()
        return {"bits": bits, "bits_per_byte": self.bits / max(self.bytes, 1)}
