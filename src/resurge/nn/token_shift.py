"""RWKV's token shift: each channel's mixture of the present input and the one before it."""

import torch
from torch import Tensor, nn


def shifted(x: Tensor, last: Tensor, reset: Tensor | None = None) -> Tensor:
    """x_{t-1} for each step t of x (B, T, D): `last` (B, D) before the first, and 0 where `reset` (B, T)."""
    previous = torch.cat([last[:, None].to(x.dtype), x], 1)[:, :-1]  # cut last: T - 1 would be a size of its own
    return previous if reset is None else previous.masked_fill(reset[..., None], 0)


def mixed(previous: Tensor, x: Tensor, mix: Tensor) -> Tensor:
    """μ ⊙ x + (1 - μ) ⊙ previous, in the dtype of x; autocast would not see to that."""
    return torch.lerp(previous.to(x.dtype), x, mix.to(x.dtype))


def mix_parameter(d_model: int, exponent: float, offset: float = 0.0) -> nn.Parameter:
    """μ (1, 1, d_model) as RWKV-4 starts it, rising from channel to channel: μ_i = (i / d_model)^exponent + offset.

    The mixture is μ ⊙ x_t + (1 - μ) ⊙ x_{t-1}.
    """
    i = torch.arange(d_model, dtype=torch.float64)
    return nn.Parameter(((i / d_model) ** exponent + offset).float()[None, None])
