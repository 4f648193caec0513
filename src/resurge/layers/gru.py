"""The GRU, on PyTorch's kernels."""

from typing import NamedTuple

import torch
from torch import Tensor

from resurge.nn.rnn import TorchRNN
from resurge.paper import Paper


class GRUState(NamedTuple):
    """The state h."""

    h: Tensor  # (B, N)


class GRU(TorchRNN):
    r"""Gated recurrent unit, followed by a linear map to d_model.

        r = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr),    z likewise
        n = tanh(W_in x_t + b_in + r ⊙ (W_hn h_{t-1} + b_hn))
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1},    y_t = W_out h_t

    Parameters have the names and the initialisation of `torch.nn.GRU`: uniform in ±1/sqrt(d_state).

    Args:
        d_model: width of inputs and outputs.
        d_state: width N of h.

    State: N numbers a row. Cost: 3 N (d_model + N) + N d_model multiplications a step, one step after the other.

    Source: "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
    arXiv 1406.1078, with the reset gate after the product, as PyTorch and cuDNN have it.
    """

    PAPER = Paper(
        "gru",
        "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
        "Kyunghyun Cho and Bart van Merrienboer and Caglar Gulcehre and Dzmitry Bahdanau and Fethi Bougares and "
        "Holger Schwenk and Yoshua Bengio",
        2014,
        "1406.1078",
    )
    OPS = ("torch.gru",)
    GATES = 3
    STATE = GRUState

    def kernel(self, x: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, h = torch.gru(x, state[0], weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
        return y, (h,)
