"""The LSTM, on PyTorch's kernels."""

from typing import NamedTuple

import torch
from torch import Tensor

from resurge.nn.rnn import TorchRNN
from resurge.paper import Paper


class LSTMState(NamedTuple):
    """Output h and cell c."""

    h: Tensor  # (B, N)
    c: Tensor  # (B, N)


class LSTM(TorchRNN):
    r"""Long short-term memory with a forget gate, followed by a linear map to d_model.

        i, f, g, o = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
        c_t = σ(f) ⊙ c_{t-1} + σ(i) ⊙ tanh(g)
        h_t = σ(o) ⊙ tanh(c_t),    y_t = W_out h_t

    Parameters have the names and the initialisation of `torch.nn.LSTM`: uniform in ±1/sqrt(d_state).

    Args:
        d_model: width of inputs and outputs.
        d_state: width N of h and of c.

    State: 2 N numbers a row. Cost: 4 N (d_model + N) + N d_model multiplications a step, one step after the other.

    Source: "Long Short-Term Memory", Neural Computation 9(8), 1997; the forget gate of Gers et al., 2000.
    """

    PAPER = Paper("lstm", "Long Short-Term Memory", "Sepp Hochreiter and Jürgen Schmidhuber", 1997)
    OPS = ("torch.lstm",)
    GATES = 4
    STATE = LSTMState

    def kernel(self, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, h, c = torch.lstm(x, state, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
        return y, (h, c)
