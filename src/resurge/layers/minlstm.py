"""minLSTM: an LSTM whose gates and candidate see the input alone, and whose gates add up to 1."""

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from resurge.nn.gated import wide
from resurge.nn.minimal import MinimalRNN


class MinLSTM(MinimalRNN):
    r"""Minimal LSTM, an average whose weights are a forget gate and an input gate, normalised:

        f_t = σ(W_f x_t + b_f),    i_t = σ(W_i x_t + b_i)
        h_t = f_t / (f_t + i_t) ⊙ h_{t-1} + i_t / (f_t + i_t) ⊙ g(W_h x_t + b_h)

    with the candidate made positive by g(v) = v + 1/2 for v >= 0, σ(v) for v < 0: the form that the paper trains.
    With `expand` = 1, y_t = h_t, otherwise y_t = W_o h_t. Parameters start as those of `torch.nn.Linear`.

    Args:
        d_model: width of inputs and outputs.
        expand: width N of the state over d_model.

    State: N = expand d_model numbers a row, zero at the start. (In the paper's listing an initial state goes through g,
    so that its 0 is a 1/2.) Cost: 3 N d_model multiplications a step, N d_model more for W_o; the scan one pass over
    memory.

    Raises:
        ResurgeError: a size below 1.

    Source: section 3 and appendix B of "Were RNNs All We Needed?", arXiv 2410.01201, scanned as it stands in the
    place of log space.
    """

    def __init__(self, d_model: int, expand: int = 1) -> None:
        super().__init__(d_model, expand)
        self.linear_f = nn.Linear(d_model, self.d_state)
        self.linear_i = nn.Linear(d_model, self.d_state)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # f / (f + i) = σ(log f - log i): nothing is divided, and both shares keep their digits near 0 and 1
        d = logsigmoid(wide(self.linear_f(x))) - logsigmoid(wide(self.linear_i(x)))
        return torch.sigmoid(d), torch.sigmoid(-d) * self.candidate(x)
