"""PyTorch's own nonlinear RNNs under the contract: initial states, resets and float32 states."""

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resurge.errors import at_least
from resurge.layer import RecurrentLayer


class TorchRNN(RecurrentLayer):
    """A recurrence with dense weights, run by PyTorch's kernel, followed by a linear map to d_model.

    Parameters have the names and the initialisation of `torch.nn.LSTM` and `GRU`: uniform in ±1/sqrt(d_state).
    A subclass gives the number of GATES, its STATE (a NamedTuple of (B, d_state) tensors) and `kernel`.
    """

    GATES: ClassVar[int]
    STATE: ClassVar[Any]

    def __init__(self, d_model: int, d_state: int = 64) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state})
        self.d_model, self.d_state = d_model, d_state
        bound, rows = 1 / math.sqrt(d_state), self.GATES * d_state
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, d_model).uniform_(-bound, bound))
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, d_state).uniform_(-bound, bound))
        self.bias_ih_l0 = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))
        self.bias_hh_l0 = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))
        self.out = nn.Linear(d_state, d_model, bias=False)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        return self.STATE(
            *(self.zeros(batch_size, self.d_state, device=device, dtype=dtype) for _ in self.STATE._fields)
        )

    def kernel(self, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, N) and the last state, each part with PyTorch's leading axis of layers: (1, B, N).

        cuDNN's kernels keep what their backward pass needs only when they are told that this is training, which for
        gradients in evaluation mode it is not: they are told whether gradients are on.
        """
        raise TypeError(f"{type(self).__name__} does not define kernel")

    def scan(self, x: Tensor, state: Any, reset: Tensor | None) -> tuple[Tensor, Any]:
        dtype = state[0].dtype
        weights = [p.to(dtype) for p in (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)]
        # the kernels know no resets: as many pieces are run as there are steps at which some row starts anew
        borders = [] if reset is None else reset.any(0).nonzero()[:, 0].tolist()
        outputs, parts = [], tuple(part[None] for part in state)
        with torch.autocast(x.device.type, enabled=False):  # the state is carried in float32
            for start, stop in pairwise(sorted({0, *borders, x.shape[1]})):
                if reset is not None:
                    kept = ~reset[:, start, None]
                    parts = tuple(torch.where(kept, part, torch.zeros_like(part)) for part in parts)
                h, parts = self.kernel(x[:, start:stop].to(dtype), parts, weights)
                outputs.append(h)
        return self.out(torch.cat(outputs, 1).to(x.dtype)), self.STATE(*(part[0] for part in parts))
