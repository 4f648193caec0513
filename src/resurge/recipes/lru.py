"""Resurrecting Recurrent Neural Networks for Long Sequences: the Linear Recurrent Unit, arXiv 2303.06349."""

from collections.abc import Callable

from resurge.data import IMDB, PSMNIST, SCIFAR, SMNIST, Digits, ListOps, Series, Text
from resurge.data.base import Task
from resurge.layers import LRU, LayerOptions, options_type
from resurge.recipes.base import Experiment, ModelConfig, TrainConfig

PAPER = LRU.PAPER
CLAIM = (
    "From a dense tanh RNN over a dense linear and a complex diagonal one to the LRU, each step of the paper's "
    "ablation does at least as well as the step before on a task where memory matters."
)


def _ring(d_state: int, r_min: float, r_max: float) -> LayerOptions:
    layer: LayerOptions = options_type("lru")(d_state=d_state, r_min=r_min, r_max=r_max)
    return layer


def digits() -> Experiment:
    """Small images of digits, pixel by pixel: comes with scikit-learn, under a minute on two cores."""
    return Experiment(
        data=Digits(),
        model=ModelConfig(_ring(64, 0.5, 0.99), d_model=64, depth=2, dropout=0.1),
        train=TrainConfig(lr=6e-3, lr_factor=0.5, batch_size=32, eval_batch_size=256, epochs=25),
    )


def _mnist(data: Task) -> Experiment:
    return Experiment(
        data=data,
        model=ModelConfig(_ring(64, 0.9, 0.999), d_model=64, depth=3, dropout=0.05),
        train=TrainConfig(lr=4e-3, lr_factor=0.25, batch_size=50, epochs=3),
    )


def smnist() -> Experiment:
    """MNIST, pixel by pixel: 784 steps."""
    return _mnist(SMNIST())


def psmnist() -> Experiment:
    """MNIST, pixel by pixel in a fixed random order."""
    return _mnist(PSMNIST())


def scifar() -> Experiment:
    """CIFAR-10 in grey, pixel by pixel. Table 9 of the paper, whose images are in colour; for a GPU."""
    return Experiment(
        data=SCIFAR(),
        model=ModelConfig(_ring(384, 0.9, 0.999), d_model=512, depth=6, dropout=0.1),
        train=TrainConfig(lr=4e-3, lr_factor=0.25, batch_size=50, max_steps=180_000, log_steps=100),
    )


def imdb() -> Experiment:
    """Film reviews, byte by byte: up to 4,096 steps. Table 9 of the paper; for a GPU."""
    return Experiment(
        data=IMDB(),
        model=ModelConfig(_ring(192, 0.5, 0.9), d_model=256, depth=6, dropout=0.1),
        train=TrainConfig(
            lr=4e-3, lr_factor=0.1, batch_size=32, eval_batch_size=32, max_steps=50_000, log_steps=100
        ),  # the paper leaves lr open; this is what S5 used
    )


def listops() -> Experiment:
    """Nested expressions of up to 2,000 tokens. Table 9 of the paper; for a GPU."""
    return Experiment(
        data=ListOps(),
        model=ModelConfig(_ring(256, 0.0, 0.99), d_model=128, depth=6),
        train=TrainConfig(lr=3e-3, lr_factor=0.5, batch_size=32, eval_batch_size=64, max_steps=80_000, log_steps=100),
    )


def text() -> Experiment:
    """The next byte of text; by default of Python's standard library, three minutes on two cores."""
    return Experiment(
        data=Text(),
        model=ModelConfig(_ring(128, 0.5, 0.99), d_model=128, depth=3, norm="rms"),
        train=TrainConfig(
            lr=6e-3, lr_factor=0.5, weight_decay=0.01, batch_size=16, eval_batch_size=64, max_steps=1200, val_steps=400
        ),
    )


def series() -> Experiment:
    """Labelled series of yours, from a file: `--path train.csv`."""
    return Experiment(
        data=Series(),
        model=ModelConfig(_ring(64, 0.5, 0.99), d_model=64, depth=2, dropout=0.1),
        train=TrainConfig(lr=4e-3, lr_factor=0.5, batch_size=16, max_steps=600, val_steps=30),
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {
    "digits": digits,
    "smnist": smnist,
    "psmnist": psmnist,
    "scifar": scifar,
    "imdb": imdb,
    "listops": listops,
    "text": text,
    "series": series,
}
