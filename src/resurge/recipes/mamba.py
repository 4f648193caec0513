"""Mamba: Linear-Time Sequence Modeling with Selective State Spaces, arXiv 2312.00752."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resurge.data import Text
from resurge.layers import Mamba, options_type
from resurge.models import LanguageModel, Stack
from resurge.recipes.base import Check, Experiment, ModelConfig, TrainConfig
from resurge.recipes.trial import minimise

PAPER = Mamba.PAPER

CLAIM = (
    "Selectivity lets a state-space model choose what to remember: one Mamba layer keeps the symbol that was written "
    "last while symbols that do not matter pass, and stays ahead at four times the length. The same layer with step "
    "size, input and output maps that do not depend on the input errs many times as often."
)


def text() -> Experiment:
    """The next byte of text, as in `lru/text`, by selective state spaces."""
    return Experiment(
        data=Text(),
        model=ModelConfig(options_type("mamba")(), d_model=128, depth=3, norm="rms"),
        train=TrainConfig(lr=4e-3, lr_factor=1.0, weight_decay=0.01, batch_size=16, max_steps=1000, val_steps=250),
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"text": text}

_SYMBOLS = 8  # tokens 0 to 7 pass, tokens 8 to 15 write the same symbols


@dataclass
class FlipFlop:
    """A stream of symbols, few of which are written to a memory; the answer at each step is what was written last.

    The task is that of "Exposing Attention Glitches with Flip-Flop Language Modeling", arXiv 2306.00946, with the
    answer asked for at every step.
    """

    seed: int = 0
    device: str = "cpu"
    steps: int = 300
    batch_size: int = 32
    length: int = 64
    gap: int = 16
    """Mean number of steps from one write to the next."""
    d_model: int = 24
    d_state: int = 4
    lr: float = 1e-2


def config(quick: bool) -> FlipFlop:
    """The claim's settings; quick: enough to see that it runs."""
    return FlipFlop(steps=20) if quick else FlipFlop()


def stream(rows: int, length: int, gap: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (rows, length), the first of which writes, and the symbol written last at each step (rows, length)."""
    symbols = torch.randint(_SYMBOLS, (rows, length), generator=generator)
    writes = torch.rand(rows, length, generator=generator) < 1 / gap
    writes[:, 0] = True
    latest = torch.where(writes, torch.arange(length), 0).cummax(1).values
    return symbols + _SYMBOLS * writes, symbols.gather(1, latest)


class Constant(nn.Module):
    """A learned vector in the place of a map of the input. N(0, 1) at the start, as the B and C of diagonal S4."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(*x.shape[:-1], -1)


def unselective(layer: Mamba) -> Mamba:
    """The layer with [δ, B, C], and so Δ, cut off from its input."""
    layer.register_module("x_proj", Constant(layer.dt_rank + 2 * layer.d_state))
    return layer


def accuracy(config: FlipFlop, layer: Callable[[], Mamba]) -> tuple[float, float]:
    """Share of steps whose answer is right after training, at the length trained on, and where length and gap are four
    times as long."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = LanguageModel(2 * _SYMBOLS, Stack(layer, 1, norm="layer")).to(config.device)

    def answer(rows: int, times: int) -> tuple[Tensor, Tensor]:
        drawn = stream(rows, times * config.length, times * config.gap, generator)
        tokens, answers = (v.to(config.device) for v in drawn)
        return model(tokens)[0][..., :_SYMBOLS], answers

    def loss() -> Tensor:
        logits, answers = answer(config.batch_size, 1)
        return cross_entropy(logits.flatten(0, 1), answers.flatten())

    minimise(model, loss, steps=config.steps, lr=config.lr, lr_factor=1.0, weight_decay=0.01)
    shares = []
    with torch.no_grad():
        for times in (1, 4):
            logits, answers = answer(512, times)
            shares.append(float((logits.argmax(-1) == answers).float().mean()))
    return shares[0], shares[1]


def run(config: FlipFlop) -> dict[str, float]:
    """Accuracies of the selective layer and of the same layer without selection."""
    d, N = config.d_model, config.d_state
    selective, selective_long = accuracy(config, lambda: Mamba(d, N))
    constant, constant_long = accuracy(config, lambda: unselective(Mamba(d, N)))
    return {"mamba": selective, "mamba_long": selective_long, "constant": constant, "constant_long": constant_long}


def check(numbers: dict[str, float]) -> Check:
    """The selective layer errs at most a fifth as often as the other, and is ahead at four times the length.

    Seeds 0 to 4: errors of 0.04 to 0.17 % against 3.4 to 5.3 %; at four times the length 85 to 99 % right against 70
    to 75 %.
    """
    n = numbers
    return Check(
        holds=n["mamba"] >= 0.97
        and 1 - n["mamba"] <= (1 - n["constant"]) / 5
        and n["mamba_long"] >= n["constant_long"] + 0.1,
        measured=n["mamba"],
        baseline=n["constant"],
        threshold=0.97,
        paper="selective copying: 99.8 % by S6 in Mamba's block, 97.0 % by S6 without gate, 18.3 % by S4 without gate",
    )
