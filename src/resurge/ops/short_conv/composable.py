"""The short convolution as K shifted products in plain PyTorch: the form for devices without a kernel of their own,
and the composable one (vmap, jvp, double backward) everywhere."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def convolve(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Same arguments and result as `reference.convolve`, all steps at once."""
    T, K = x.shape[1], weight.shape[1]
    inputs = torch.cat([state, x], 1)
    # which document each input belongs to: a product over the border between two is left out
    document = None if reset is None else pad(reset.long().cumsum(1), (K - 1, 0))
    y = bias
    for k, w in enumerate(weight.unbind(1)):
        tap = inputs[:, k : k + T]
        if document is not None:
            tap = _where(document[:, k : k + T] == document[:, K - 1 :], tap)
        y = y + w * tap
    last = inputs[:, T:]
    return y, last if document is None else _where(document[:, T:] == document[:, -1:], last)


def _where(condition: Tensor, rows: Tensor) -> Tensor:
    return torch.where(condition[..., None], rows, torch.zeros((), dtype=rows.dtype, device=rows.device))
