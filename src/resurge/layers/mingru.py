"""minGRU: a GRU whose gate and candidate see the input alone."""

import torch
from torch import Tensor, nn

from resurge.nn.gated import wide
from resurge.nn.minimal import MinimalRNN


class MinGRU(MinimalRNN):
    r"""Minimal GRU, an average whose weight the input sets:

        z_t = σ(W_z x_t + b_z)
        h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ g(W_h x_t + b_h)

    with the candidate made positive by g(v) = v + 1/2 for v >= 0, σ(v) for v < 0: the form that the paper trains. So
    0 <= h, and each h_t lies between h_{t-1} and its candidate. With `expand` = 1, y_t = h_t, otherwise y_t = W_o h_t.
    Parameters start as those of `torch.nn.Linear`.

    Args:
        d_model: width of inputs and outputs.
        expand: width N of the state over d_model.

    State: N = expand d_model numbers a row, zero at the start. (In the paper's listing an initial state goes through g,
    so that its 0 is a 1/2.) Cost: 2 N d_model multiplications a step, N d_model more for W_o; the scan one pass over
    memory.

    Raises:
        ResurgeError: a size below 1.

    Source: section 3 and appendix B of "Were RNNs All We Needed?", arXiv 2410.01201. That code scans in log space,
    which loses digits linearly in T; the same recurrence is scanned here as it stands.
    """

    def __init__(self, d_model: int, expand: int = 1) -> None:
        super().__init__(d_model, expand)
        self.linear_z = nn.Linear(d_model, self.d_state)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k = wide(self.linear_z(x))
        # 1 - z as σ(-k) keeps its digits where z is near 1
        return torch.sigmoid(-k), torch.sigmoid(k) * self.candidate(x)
