"""Gated recurrent neural networks discover attention, arXiv 2309.01775."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resurge.data import InContextRegression
from resurge.data.regression import gradient_step, prompts
from resurge.layer import RecurrentLayer
from resurge.layers import LRU, GatedLinearRNN, options_type
from resurge.recipes.base import Check, Experiment, ModelConfig, TrainConfig
from resurge.recipes.trial import minimise

PAPER = GatedLinearRNN.PAPER

CLAIM = (
    "A gated linear RNN can be linear self-attention exactly, and training finds the same algorithm in it: shown "
    "pairs of an unknown linear function, it learns to predict by one step of gradient descent on them, as soon as "
    "it has a unit for each weight; with one unit fewer it stops at the bound for that many, and a linear RNN "
    "without gates learns nothing."
)


def regression() -> Experiment:
    """In-context linear regression by a residual stack."""
    return Experiment(
        data=InContextRegression(),
        model=ModelConfig(options_type("gatedlinearrnn")(), d_model=32, depth=2, norm="layer", pool="last"),
        train=TrainConfig(lr=3e-3, lr_factor=1.0, weight_decay=0.0, batch_size=64, epochs=20),
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"regression": regression}


@dataclass
class Discovery:
    """In-context regression, learned by one layer alone: its last channel, at the last step, is the answer."""

    seed: int = 0
    device: str = "cpu"
    steps: int = 1000
    batch_size: int = 256
    length: int = 13
    d_input: int = 3
    d_gate: int = 32
    lr: float = 1e-2
    rows: int = 20_000
    """Prompts in the test."""


def config(quick: bool) -> Discovery:
    """The claim's settings; quick: enough to see that it runs."""
    return Discovery(steps=10, batch_size=16, rows=100) if quick else Discovery()


def construction_error(config: Discovery) -> float:
    """Largest relative error of both constructions, in float64, on random weights and a sequence of 100 steps."""
    generator = torch.Generator().manual_seed(config.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d, K = config.d_input + 1, 3
    x, W_Q, W_K, W_V = draw(4, 100, d), draw(K, d), draw(K, d), draw(d, d)
    scores = torch.tril(x @ W_Q.T @ (x @ W_K.T).mT)  # attention as it is usually written: no state anywhere
    y = scores @ (x @ W_V.T)
    made = (GatedLinearRNN.from_linear_attention, GatedLinearRNN.from_linear_attention_symmetric)
    return max(float((make(W_Q, W_K, W_V)(x)[0].detach() - y).abs().max() / y.abs().max()) for make in made)


def train(config: Discovery, layer: RecurrentLayer) -> tuple[float, float]:
    """The layer's mean squared error on new prompts, and how far its answers lie from those of a gradient step.

    The distance is the mean square of the difference over that of the gradient step's answers.
    """
    layer, rng = layer.to(config.device), np.random.default_rng(config.seed)

    def answer(steps: np.ndarray) -> Tensor:
        y: Tensor = layer(torch.from_numpy(steps).to(config.device))[0]
        return y[:, -1, -1:]

    def loss() -> Tensor:
        steps, value = prompts(rng, config.batch_size, config.length, config.d_input)
        return (answer(steps) - torch.from_numpy(value).to(config.device)).square().mean()

    minimise(layer, loss, steps=config.steps, lr=config.lr, lr_factor=1.0)
    steps, value = prompts(np.random.default_rng((config.seed, 1)), config.rows, config.length, config.d_input)
    with torch.no_grad():
        told = answer(steps).cpu().numpy()
    by_gradient = gradient_step(steps)
    return float(((told - value) ** 2).mean()), float(((told - by_gradient) ** 2).mean() / (by_gradient**2).mean())


def run(config: Discovery) -> dict[str, float]:
    """Errors of the constructions, and of layers with enough units, with one too few, and without gates."""
    d, n = config.d_input, config.length - 1
    steps, value = prompts(np.random.default_rng((config.seed, 1)), config.rows, config.length, d)
    torch.manual_seed(config.seed)
    gated, distance = train(config, GatedLinearRNN(d + 1, d, config.d_gate))
    few, _ = train(config, GatedLinearRNN(d + 1, d - 1, config.d_gate))
    plain, _ = train(config, LRU(d + 1, config.d_gate))
    return {
        "construction_error": construction_error(config),
        "gradient_step": float(((gradient_step(steps) - value) ** 2).mean()),
        "gated": gated,
        "distance": distance,
        "few": few,
        "few_bound": 1 - (d - 1) / d * n / (n + d + 1),
        "ungated": plain,
    }


def check(numbers: dict[str, float]) -> Check:
    """The constructions are exact; training reaches the error of a gradient step by the same answers, given the units.

    Seven seeds: constructions within 7e-16; the trained layer's error is 1.00 to 1.03 of that of the gradient step
    (which leaves 0.24 to 0.25), and its answers lie 0.2 to 0.6 % of their power from it; one unit fewer leaves 0.98 to
    1.03 of its bound of 0.5, no gates 0.97 to 1.02, as much as saying nothing.
    """
    n = numbers
    return Check(
        holds=n["construction_error"] <= 1e-10
        and n["gated"] <= 1.1 * n["gradient_step"]
        and n["distance"] <= 0.02
        and abs(n["few"] / n["few_bound"] - 1) <= 0.1
        and n["ungated"] >= 0.9,
        measured=n["gated"],
        baseline=n["ungated"],
        threshold=1.1 * n["gradient_step"],
        paper="in words: training instills in gated RNNs the algorithm in context that attention uses",
    )
