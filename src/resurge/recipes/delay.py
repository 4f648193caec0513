"""Recall after a delay: give a smooth signal back as it was some time ago. What a linear memory is for."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resurge.layers import LSSL, S4DInv, S4DLegS, S4DLin
from resurge.recipes.trial import minimise

Convolutional = LSSL | S4DLin | S4DInv | S4DLegS  # layers that are convolutions too


@dataclass
class Delay:
    """Signals are sums of `waves` random waves, the fastest with 0.8 `waves` turns; the target is `delay` steps old."""

    seed: int = 0
    device: str = "cpu"
    steps: int = 300
    batch_size: int = 16
    length: int = 256
    delay: int = 100
    waves: int = 8
    d_model: int = 16
    d_state: int = 16
    lr: float = 1e-2


class Recall(nn.Module):
    """A layer between two linear maps: x (B, T) to (B, T)."""

    def __init__(self, layer: Convolutional) -> None:
        super().__init__()
        self.encoder, self.layer, self.decoder = nn.Linear(1, layer.d_model), layer, nn.Linear(layer.d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        """By the convolution."""
        y: Tensor = self.decoder(self.layer.convolution(self.encoder(x[..., None])))
        return y[..., 0]

    def recurrent(self, x: Tensor, dt: Tensor | None = None) -> Tensor:
        """Step by step, which may take any time dt (B, T)."""
        y: Tensor = self.decoder(self.layer(self.encoder(x[..., None]), dt=dt)[0])
        return y[..., 0]


def signals(config: Delay, rows: int, generator: torch.Generator) -> Tensor:
    """Band-limited random signals (rows, length) of variance 1, which do not repeat within their length."""
    t = torch.arange(1, config.length + 1) / config.length
    angle = 2 * math.pi * 0.8 * torch.arange(1, config.waves + 1)[:, None] * t
    waves = torch.cat([torch.sin(angle), torch.cos(angle)])
    return torch.randn(rows, 2 * config.waves, generator=generator) @ waves / math.sqrt(config.waves)


def residual(y: Tensor, x: Tensor, delay: int) -> Tensor:
    """The mean square of y_t - x_(t - delay), in units of that of the target."""
    return (y[:, delay:] - x[:, :-delay]).square().mean() / x[:, :-delay].square().mean()


def trained(config: Delay, layer: Callable[[float, float], Convolutional]) -> tuple[Recall, Tensor, float]:
    """A model trained by convolution, 64 new signals, and the share of their variance that it does not give back.

    `layer` is called with the range of step sizes: features see from all of the signal to a tenth of it.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = Recall(layer(1 / config.length, 10 / config.length)).to(config.device)

    def loss() -> Tensor:
        x = signals(config, config.batch_size, generator).to(config.device)
        return residual(model(x), x, config.delay)

    minimise(model, loss, steps=config.steps, lr=config.lr, lr_factor=0.1)
    x = signals(config, 64, generator).to(config.device)
    with torch.no_grad():
        return model, x, float(residual(model(x), x, config.delay))
