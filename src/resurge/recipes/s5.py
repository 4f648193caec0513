"""Simplified State Space Layers for Sequence Modeling: S5, arXiv 2208.04933."""

from collections.abc import Callable

from resurge.data import PSMNIST, Digits
from resurge.layers import S5, S4DInv, options_type
from resurge.recipes.base import Check, Experiment, ModelConfig, TrainConfig
from resurge.recipes.uneven import Uneven, accuracy

PAPER = S5.PAPER

CLAIM = (
    "A state-space layer that is discretised anew at every step reads unevenly sampled series: told the gaps between "
    "samples, S5 finds the frequency of noisy sinusoids, which it does not find without; and so does S4D, with a "
    "system for each feature."
)


def digits() -> Experiment:
    """Small images of digits, pixel by pixel."""
    return Experiment(
        data=Digits(),
        model=ModelConfig(options_type("s5")(d_state=64), d_model=64, depth=2, dropout=0.1),
        train=TrainConfig(lr=6e-3, lr_factor=0.25, batch_size=32, eval_batch_size=256, epochs=25),
    )


def psmnist() -> Experiment:
    """MNIST, pixel by pixel in a fixed random order."""
    return Experiment(
        data=PSMNIST(),
        model=ModelConfig(options_type("s5")(d_state=128), d_model=64, depth=3, dropout=0.05),
        train=TrainConfig(lr=6e-3, lr_factor=0.25, batch_size=20, epochs=3, val_steps=1000),
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"digits": digits, "psmnist": psmnist}


def config(quick: bool) -> Uneven:
    """The claim's settings; quick: enough to see that it runs."""
    return Uneven(steps=5, length=32, tests=100) if quick else Uneven()


def run(config: Uneven) -> dict[str, float]:
    """Accuracies with the gaps between samples and without them. Steps of 0.5 see some 2 samples, of 0.01 some 100."""
    d = config.d_model
    return {
        "s5": accuracy(config, lambda: S5(d, 32, dt_min=1e-2, dt_max=0.5), timed=True),
        "s5_untimed": accuracy(config, lambda: S5(d, 32, dt_min=1e-2, dt_max=0.5), timed=False),
        "s4d": accuracy(config, lambda: S4DInv(d, 8, dt_min=3e-2, dt_max=0.5), timed=True),
        "s4d_untimed": accuracy(config, lambda: S4DInv(d, 8, dt_min=3e-2, dt_max=0.5), timed=False),
    }


def check(numbers: dict[str, float]) -> Check:
    """Both layers are right on 90 % with the gaps, and 15 points below that without.

    Seven seeds: S5 97 to 99 % with the gaps and 66 to 72 % without, S4D 96 to 98 % and 64 to 71 %.
    """
    n = numbers
    return Check(
        holds=min(n["s5"], n["s4d"]) >= 0.9
        and n["s5_untimed"] <= n["s5"] - 0.15
        and n["s4d_untimed"] <= n["s4d"] - 0.15,
        measured=n["s5"],
        baseline=n["s5_untimed"],
        threshold=0.9,
        paper="section 6.3 reads the angle of a pendulum from images at irregular times; Long Range Arena: ListOps "
        "62.2 %, Path-X 98.6 %",
    )
