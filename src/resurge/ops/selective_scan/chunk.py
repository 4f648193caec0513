"""How time is cut: the steps between the states that are kept, and how pieces are joined, by whichever backend."""

from types import ModuleType

import torch
from torch import Tensor

from resurge.ops.diagonal.form import PLAIN

# Steps between the states that the forward pass keeps for the backward pass. Triton's backward kernel has the states of
# a whole chunk in registers, and spills for longer ones; numba's has them in the second-level cache, and is a tenth
# slower for shorter ones.
EVERY = {"numba": 32, "triton": 16}


def edges(diagonal: ModuleType, gain: Tensor, end: Tensor, edge: Tensor, *, backward: bool) -> Tensor:
    """What each piece starts from (B, pieces, N, D): the state before it, or `backward` the gradient from behind it.

    A piece makes gain ⊙ state + end of a state, both (B, pieces, N, D); `edge` (B, N, D) is what the first, or
    `backward` the last, starts from. `diagonal` holds the kernels of the diagonal scan, which joins them.
    """
    across, _ = diagonal.forward(gain.flatten(2), end.flatten(2), edge.flatten(1), None, backward, PLAIN)
    across = across.view(gain.shape)
    parts = (across[:, 1:], edge[:, None]) if backward else (edge[:, None], across[:, :-1])
    return torch.cat(parts, 1)
