"""Norms, dropout and the gated linear unit of the residual block, for activations (B, T, D)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, glu

from resurge.errors import ResurgeError, unknown


class Norm(nn.Module):
    """Base of the norms: `forward(x, valid)`, x (B, T, D), valid (B, T) bool or None where every step is real."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define forward")


class BatchNorm(Norm):
    """Normalises each channel over batch and time in training, by running statistics in evaluation.

    Padding is left out of the statistics, and a batch of a single step, which has no variance, is normalised by the
    running ones. In training a step sees the whole batch, the future included; in
    evaluation it is a map of each step alone, so that streaming equals the whole.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(d_model)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is None or not self.training:
            return self._normalised(x.flatten(0, 1)).view(x.shape)
        return torch.zeros_like(x).masked_scatter(valid[..., None], self._normalised(x[valid]))

    def _normalised(self, rows: Tensor) -> Tensor:
        norm = self.norm
        if self.training and len(rows) < 2:
            return batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        y: Tensor = norm(rows)
        return y


class LayerNorm(Norm):
    """Normalises the channels of each step."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class RMSNorm(Norm):
    """Divides the channels of each step by their root mean square."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=1e-6)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        return y


_NORMS: dict[str, Callable[[int], Norm]] = {"batch": BatchNorm, "layer": LayerNorm, "rms": RMSNorm}


def norm(name: str, d_model: int) -> Norm:
    """The norm called "batch", "layer" or "rms"."""
    if name not in _NORMS:
        raise unknown("norm", name, _NORMS)
    return _NORMS[name](d_model)


class TiedDropout(nn.Module):
    """Dropout with one mask a sequence and channel, shared over time, as in the code of S5 and minimal-LRU.

    Raises:
        ResurgeError: a probability p outside [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ResurgeError(f"dropout must lie in [0, 1), and is {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.empty(x.shape[0], 1, x.shape[2], dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p))


class GatedLinear(nn.Module):
    """The gated linear unit y = (W1 x + b1) ⊙ σ(W2 x + b2), both products in one. Source: arXiv 1612.08083."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, 2 * d_model)

    def forward(self, x: Tensor) -> Tensor:
        return glu(self.linear(x), -1)


class HalfGatedLinear(nn.Module):
    """The gate alone: y = x ⊙ σ(W x + b), half the weights of `GatedLinear`. Source: the code of arXiv 2208.04933."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.linear(x))
