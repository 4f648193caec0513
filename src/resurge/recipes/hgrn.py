"""Hierarchically Gated Recurrent Neural Network for Sequence Modeling, arXiv 2311.04823."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resurge.layers import HGRN, options_type
from resurge.models import Blocks, ResidualBlock, SequenceClassifier
from resurge.nn import LastPool
from resurge.recipes import experiments
from resurge.recipes.base import Check, Experiment
from resurge.recipes.trial import minimise

PAPER = HGRN.PAPER

CLAIM = (
    "Lower bounds of the forget gates that rise with depth give a stack both memories: the lower layer follows what is "
    "near and the upper one keeps what is far. With both bounds low the far is lost, with both high the near."
)


def text() -> Experiment:
    """The next byte of text; the layers learn their lower bounds together.

    One run: 2.93 bits a byte after 100 of its 1,000 steps.
    """
    return experiments.text(options_type("hgrn")())


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"text": text}

_SYMBOLS = 8
_ASK = 2 * _SYMBOLS  # tokens 0 to 7 are the stream, 8 to 15 may stand first, then the question mark


@dataclass
class NearAndFar:
    """The first symbol of a long stream and the last one, asked for at the end by stacks of two layers."""

    seed: int = 0
    device: str = "cpu"
    steps: int = 800
    batch_size: int = 32
    length: int = 64
    d_model: int = 32
    high: float = 0.98
    """The high lower bound: what a layer with it has heard fades no faster than by 2 % a step."""
    lr: float = 1e-2


def config(quick: bool) -> NearAndFar:
    """The claim's settings; quick: enough to see that it runs."""
    return NearAndFar(steps=20) if quick else NearAndFar()


def stream(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (rows, length), the last of which asks, and the symbols (rows, 2) at the start and before the question."""
    tokens = torch.randint(_SYMBOLS, (rows, length), generator=generator)
    answers = tokens[:, [0, -2]]
    tokens[:, 0] += _SYMBOLS
    tokens[:, -1] = _ASK
    return tokens, answers


def accuracy(config: NearAndFar, bounds: tuple[float, float]) -> tuple[float, float]:
    """Share of right answers about the near and the far symbol, after training with these lower bounds."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    layers = [HGRN(config.d_model, lower_bound=bound) for bound in bounds]
    stack = Blocks(ResidualBlock(layer, norm="layer") for layer in layers)
    encoder = nn.Embedding(_ASK + 1, config.d_model)
    model = SequenceClassifier(encoder, stack, 2 * _SYMBOLS, pool=LastPool()).to(config.device)

    def answer(rows: int) -> tuple[Tensor, Tensor]:
        tokens, answers = (v.to(config.device) for v in stream(rows, config.length, generator))
        return model(tokens)[0].unflatten(-1, (2, _SYMBOLS)), answers

    def loss() -> Tensor:
        logits, answers = answer(config.batch_size)
        return cross_entropy(logits.flatten(0, 1), answers.flatten())

    minimise(model, loss, steps=config.steps, lr=config.lr, lr_factor=1.0)
    model.eval()
    with torch.no_grad():
        logits, answers = answer(1024)
    far, near = (logits.argmax(-1) == answers).float().mean(0).tolist()
    return near, far


def run(config: NearAndFar) -> dict[str, float]:
    """Accuracies with bounds that rise, that are both low and both high."""
    numbers = {}
    for name, bounds in {
        "rising": (0.0, config.high),
        "low": (0.0, 0.0),
        "high": (config.high, config.high),
    }.items():
        numbers[f"{name}_near"], numbers[f"{name}_far"] = accuracy(config, bounds)
    return numbers


def check(numbers: dict[str, float]) -> Check:
    """Rising bounds find both symbols; two low ones only the near symbol, and two high ones only the far one.

    Nine seeds: every answer that the claim wants right was; of the others 11 to 15 % (low bounds, far symbol) and 11
    to 23 % (high bounds, near symbol) were right, where one in eight is chance.
    """
    n = numbers
    both = {name: min(n[f"{name}_near"], n[f"{name}_far"]) for name in ("rising", "low", "high")}
    hierarchy = n["low_near"] >= 0.95 and n["low_far"] <= 0.4 and n["high_far"] >= 0.95 and n["high_near"] <= 0.4
    return Check(
        holds=both["rising"] >= 0.95 and hierarchy,
        measured=both["rising"],
        baseline=max(both["low"], both["high"]),
        threshold=0.95,
        paper="WikiText-103, 47M parameters: perplexity 24.8; the claim itself is stated in words",
    )
