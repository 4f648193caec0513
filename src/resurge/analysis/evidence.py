"""What a trained run does on its test data: confusions, predictions, samples of text, bits of every byte."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resurge.data.base import Split
from resurge.inference import decode, generate
from resurge.training import Run
from resurge.training.scores import InOrder


@torch.no_grad()
def outputs(run: Run, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """(outputs, targets) of every batch of a split, for a run with one answer a sequence."""
    for batch in InOrder(split, run.experiment.train.eval_batch_size, carry=False):
        yield run.model(batch.inputs, lengths=batch.lengths)[0], batch.targets


def confusion(run: Run, split: Split) -> np.ndarray[Any, Any]:
    """Counts (true class, predicted class) over a split."""
    n = run.spec.d_output
    counts = torch.zeros(n * n, dtype=torch.int64)
    for scores, targets in outputs(run, split):
        counts += torch.bincount(targets * n + scores.argmax(-1), minlength=n * n)
    return counts.view(n, n).numpy()


def predictions(run: Run, split: Split) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(true, predicted) values over a split, flat."""
    pairs = [(targets.flatten(), values.flatten()) for values, targets in outputs(run, split)]
    true, said = (torch.cat(part).double().numpy() for part in zip(*pairs, strict=True))
    return true, said


@torch.no_grad()
def surprise(run: Run, split: Split, length: int) -> tuple[list[int], list[float]]:
    """The first `length` tokens of a split of text, and the bits that each of them cost the model."""
    tokens: list[Tensor] = []
    bits: list[Tensor] = []
    state, found = None, 0
    for item in range(len(split)):
        batch = split.batch(torch.tensor([item]))
        logits, state = run.model(batch.inputs, state)
        tokens.append(batch.targets[0])
        bits.append(-torch.log_softmax(logits[0], -1).gather(1, batch.targets[0][:, None])[:, 0] / math.log(2))
        found += batch.targets.shape[1]
        if found >= length:
            break
    return torch.cat(tokens)[:length].tolist(), torch.cat(bits)[:length].tolist()


def samples(run: Run, prompt: str, length: int, seeds: range) -> list[str]:
    """Texts of `length` bytes that continue `prompt`, one a seed, at temperature 0.8."""
    offset = run.spec.d_input - 256
    start = [byte + offset for byte in prompt.encode()]
    model: Any = run.model
    return ["".join(decode(generate(model, start, length, temperature=0.8, seed=s), offset)) for s in seeds]
