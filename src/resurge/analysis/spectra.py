"""What the eigenvalues of a recurrence tell: how long it remembers, and at which rhythm."""

import torch
from torch import Tensor, nn


def eigenvalues(model: nn.Module) -> dict[str, Tensor]:
    """The eigenvalues (N,), complex, of every layer of `model` that has some of its own, by the layer's name.

    Layers whose recurrence depends on the input (RG-LRU) or is not linear (LSTM, GRU) have none.
    """
    found = {}
    for name, module in model.named_modules():
        own = getattr(module, "eigenvalues", None)
        if callable(own):
            with torch.no_grad():
                found[name] = torch.complex(*own().cpu().unbind(0))  # (2, N): real parts, imaginary parts
    return found


def time_scales(values: Tensor) -> Tensor:
    """τ = -1 / ln|λ| in steps, (N,): after τ steps a state has faded to 1/e of itself.

    Infinite on the unit circle, negative outside of it (the state grows).
    """
    log = torch.log(values.abs().double())
    return torch.where(log == 0, torch.inf, -1 / log)
