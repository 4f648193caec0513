"""Resurrecting Recurrent Neural Networks for Long Sequences: the Linear Recurrent Unit, arXiv 2303.06349."""

from collections.abc import Callable

from resurge import data
from resurge.layers import LRU, options_type
from resurge.recipes.base import Experiment, ModelConfig, TrainConfig

PAPER = LRU.PAPER
CLAIM = ""


def digits() -> Experiment:
    """Images of handwritten digits, pixel by pixel: bundled with scikit-learn, under a minute on two cores."""
    layer = options_type("lru")(d_state=64, r_min=0.5, r_max=0.99)
    return Experiment(
        data=data.task("digits")(),
        model=ModelConfig(layer, d_model=64, depth=2, dropout=0.1),
        train=TrainConfig(lr=4e-3, lr_factor=0.5, batch_size=32, epochs=25),
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"digits": digits}
