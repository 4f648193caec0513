"""Unevenly sampled series: the frequency of a noisy sinusoid whose samples lie at random gaps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resurge.layer import TimedLayer
from resurge.models import SequenceClassifier, Stack
from resurge.recipes.trial import minimise


@dataclass
class Uneven:
    """Sinusoids of random phase in noise, `classes` frequencies, `length` samples at gaps of mean 1."""

    seed: int = 0
    device: str = "cpu"
    steps: int = 400
    batch_size: int = 32
    length: int = 64
    classes: int = 8
    slowest: float = 0.08
    """Lowest frequency in radians a unit of time; they are evenly spaced in their logarithm."""
    fastest: float = 1.0
    """Highest frequency."""
    spread: float = 1.0
    """Standard deviation of a gap's logarithm; 0: even sampling."""
    noise: float = 0.3
    """Standard deviation, for sinusoids of amplitude 1."""
    tests: int = 1000
    """New series at the end."""
    d_model: int = 16
    lr: float = 1e-2


def sinusoids(config: Uneven, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Samples (rows, length), the gaps before them (rows, length), and the classes (rows,).

    The gaps are log-normal with mean 1: with a spread of 1, one in twenty is shorter than 0.12 or longer than 3.1.
    """
    shape = (rows, config.length)
    dt = torch.exp(config.spread * torch.randn(shape, generator=generator) - config.spread**2 / 2)
    label = torch.randint(config.classes, (rows,), generator=generator)
    omega = config.slowest * (config.fastest / config.slowest) ** (label / (config.classes - 1))
    phase = 2 * torch.pi * torch.rand(rows, 1, generator=generator)
    signal = torch.sin(omega[:, None] * torch.cumsum(dt, 1) + phase)
    return signal + config.noise * torch.randn(shape, generator=generator), dt, label


def accuracy(config: Uneven, layer: Callable[[], TimedLayer], *, timed: bool) -> float:
    """Share of new series that are told right, by a model that is told the gaps or is not."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    stack = Stack(layer, 1, norm="layer")
    model = SequenceClassifier(nn.Linear(1, config.d_model), stack, config.classes).to(config.device)

    def answer(rows: int) -> tuple[Tensor, Tensor]:
        x, dt, label = (v.to(config.device) for v in sinusoids(config, rows, generator))
        return model(x[..., None], dt=dt if timed else None)[0], label

    def loss() -> Tensor:
        return cross_entropy(*answer(config.batch_size))

    minimise(model, loss, steps=config.steps, lr=config.lr, lr_factor=1.0, weight_decay=0.01)
    with torch.no_grad():
        scores, label = answer(config.tests)
    return float((scores.argmax(-1) == label).float().mean())
