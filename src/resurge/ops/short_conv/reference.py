"""The meaning of the short convolution: a loop over time in plain PyTorch, in any dtype, differentiable."""

import torch
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """y_t = bias + Σ_k weight[:, K-1-k] x_{t-k}, with everything before a reset taken as 0; (y, last K-1 inputs).

    x (B, T, D), weight (D, K), bias (D,), state (B, K-1, D) the inputs before the first step, reset (B, T) bool.
    """
    window = list(state.unbind(1))
    outputs = []
    for t, x_t in enumerate(x.unbind(1)):
        if reset is not None:
            window = [torch.where(reset[:, t, None], torch.zeros_like(v), v) for v in window]
        window.append(x_t)
        y_t = bias
        for w, v in zip(weight.unbind(1), window, strict=True):
            y_t = y_t + w * v
        outputs.append(y_t)
        window = window[1:]
    return torch.stack(outputs, 1), torch.stack(window, 1)
