"""Griffin: Mixing Gated Linear Recurrences with Local Attention, arXiv 2402.19427: its recurrence, the RG-LRU."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from resurge.data import Text
from resurge.layer import RecurrentLayer
from resurge.layers import LRU, RGLRU, options_type
from resurge.models import LanguageModel, Stack
from resurge.recipes.base import Check, Experiment, ModelConfig, TrainConfig
from resurge.recipes.trial import minimise

PAPER = RGLRU.PAPER

CLAIM = (
    "Gates that see the input let a linear recurrence choose what to remember: RG-LRU solves selective copying, and "
    "stays ahead at four times the length, where a recurrence without gates does not solve it."
)

_DATA, _BLANK, _ASK = 8, 8, 9  # tokens 0 to 7 are data, then the blank and the question mark


def text() -> Experiment:
    """The next byte of text, as in `lru/text`, by gated recurrences."""
    return Experiment(
        data=Text(),
        model=ModelConfig(options_type("rglru")(), d_model=192, depth=3, norm="rms"),
        train=TrainConfig(lr=4e-3, lr_factor=1.0, weight_decay=0.01, batch_size=16, max_steps=1000, val_steps=250),
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"text": text}


@dataclass
class CopyingConfig:
    """Selective copying: four data tokens at random places among blanks, to be repeated in order at the end."""

    seed: int = 0
    device: str = "cpu"
    steps: int = 1200
    batch_size: int = 32
    length: int = 48
    d_model: int = 96
    lr: float = 5e-3


def config(quick: bool) -> CopyingConfig:
    """The claim's settings; quick: enough to see that it runs."""
    return CopyingConfig(steps=20, d_model=16) if quick else CopyingConfig()


def copying(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (rows, length + 4), the last four of which ask, and the four answers (rows, 4)."""
    answers = torch.randint(_DATA, (rows, 4), generator=generator)
    tokens = torch.full((rows, length + 4), _BLANK)
    tokens[:, length:] = _ASK
    places = torch.rand(rows, length, generator=generator).argsort(1)[:, :4].sort(1).values
    return tokens.scatter_(1, places, answers), answers


def accuracy(config: CopyingConfig, layer: Callable[[], RecurrentLayer]) -> tuple[float, float]:
    """Share of answers that are right after training, at the length trained on and at four times it."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = LanguageModel(_ASK + 1, Stack(layer, 2, norm="layer")).to(config.device)

    def answer(rows: int, length: int) -> tuple[Tensor, Tensor]:
        tokens, answers = (v.to(config.device) for v in copying(rows, length, generator))
        return model(tokens)[0][:, -4:], answers

    def loss() -> Tensor:
        logits, answers = answer(config.batch_size, config.length)
        return cross_entropy(logits.flatten(0, 1), answers.flatten())

    minimise(model, loss, steps=config.steps, lr=config.lr, lr_factor=1.0, weight_decay=0.01)
    model.eval()
    shares = []
    with torch.no_grad():
        for length in (config.length, 4 * config.length):
            logits, answers = answer(512, length)
            shares.append(float((logits.argmax(-1) == answers).float().mean()))
    return shares[0], shares[1]


def run(config: CopyingConfig) -> dict[str, float]:
    """Accuracies of the gated recurrence, and of the LRU, which has no gates."""
    d = config.d_model
    gated, gated_long = accuracy(config, lambda: RGLRU(d))
    plain, plain_long = accuracy(config, lambda: LRU(d, d, r_min=0.9, r_max=0.999))
    return {"rglru": gated, "rglru_long": gated_long, "lru": plain, "lru_long": plain_long}


def check(numbers: dict[str, float]) -> Check:
    """The gated one solves the task with at most a fifth of the other's errors and leads far at four times the length.

    Six seeds: errors of 0.0 to 0.3 % against 6 to 17 %; at four times the length 65 to 93 % right against 25 to 29 %.
    """
    n = numbers
    return Check(
        holds=n["rglru"] >= 0.97 and 1 - n["rglru"] <= (1 - n["lru"]) / 5 and n["rglru_long"] >= n["lru_long"] + 0.2,
        measured=n["rglru"],
        baseline=n["lru"],
        threshold=0.97,
        paper="figure 6: Griffin and Hawk solve selective copying at length 1,024, and extrapolate beyond it",
    )
