"""Experiments that several systems share, each around a layer of the system's own."""

from resurge.data import PSMNIST, Digits, Text
from resurge.layers import LayerOptions
from resurge.recipes.base import Experiment, ModelConfig, TrainConfig


def text(
    layer: LayerOptions, *, d_model: int = 128, norm: str = "rms", lr: float = 4e-3, lr_factor: float = 1.0
) -> Experiment:
    """The next byte of text, by default of Python's standard library: three blocks, 1,000 steps."""
    return Experiment(
        data=Text(),
        model=ModelConfig(layer, d_model=d_model, depth=3, norm=norm),
        train=TrainConfig(lr=lr, lr_factor=lr_factor, weight_decay=0.01, batch_size=16, max_steps=1000, val_steps=250),
    )


def digits(layer: LayerOptions, *, d_model: int = 64, lr_factor: float) -> Experiment:
    """Small images of digits, pixel by pixel: two blocks, 25 epochs."""
    return Experiment(
        data=Digits(),
        model=ModelConfig(layer, d_model=d_model, depth=2, dropout=0.1),
        train=TrainConfig(lr=6e-3, lr_factor=lr_factor, batch_size=32, eval_batch_size=256, epochs=25),
    )


def psmnist(layer: LayerOptions, *, lr: float = 6e-3, lr_factor: float) -> Experiment:
    """MNIST, pixel by pixel in a fixed random order: three blocks, three epochs."""
    return Experiment(
        data=PSMNIST(),
        model=ModelConfig(layer, d_model=64, depth=3, dropout=0.05),
        train=TrainConfig(lr=lr, lr_factor=lr_factor, batch_size=20, epochs=3, val_steps=1000),
    )
