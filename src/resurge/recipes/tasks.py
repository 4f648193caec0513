"""Small synthetic tasks on which several systems show what they claim."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from resurge.layer import RecurrentLayer
from resurge.models import LanguageModel, Stack
from resurge.recipes.trial import minimise

_DATA, _BLANK, _ASK = 8, 8, 9  # tokens 0 to 7 are data, then the blank and the question mark


@dataclass
class Copying:
    """Selective copying: four data tokens at random places among blanks, to be repeated in order at the end."""

    seed: int = 0
    device: str = "cpu"
    steps: int = 1200
    batch_size: int = 32
    length: int = 48
    d_model: int = 96
    lr: float = 5e-3


def copying(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (rows, length + 4), the last four of which ask, and the four answers (rows, 4)."""
    answers = torch.randint(_DATA, (rows, 4), generator=generator)
    tokens = torch.full((rows, length + 4), _BLANK)
    tokens[:, length:] = _ASK
    places = torch.rand(rows, length, generator=generator).argsort(1)[:, :4].sort(1).values
    return tokens.scatter_(1, places, answers), answers


def copying_accuracy(config: Copying, layer: Callable[[], RecurrentLayer]) -> tuple[float, float]:
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
