"""The gated linear RNN that can be linear self-attention, and the weights with which it is."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer
from resurge.nn.diagonal import sample_ring
from resurge.nn.recurrence import Recurrence
from resurge.ops import decay_scan
from resurge.paper import Paper


class GatedLinearRNNState(NamedTuple):
    """The real state h_t."""

    h: Tensor  # (B, N)


class GatedLinearRNN(RecurrentLayer):
    r"""Linear recurrence between two multiplicative gates.

        h_t = λ ⊙ h_{t-1} + (W_m x_t) ⊙ (W_x x_t),    y_t = D ((V_m x_t) ⊙ (V_x h_t)),    λ = exp(-exp(ν_log))

    λ is real and constant, 0 <= λ <= 1; λ = 1 is ν_log = -inf. There are no biases: a channel that is always 1 gives
    them. λ starts uniform by area on the ring [r_min, r_max], the weights as N(0, 1/fan-in), W_x with a factor
    sqrt(1 - λ²) in its rows, so that white noise gives states of variance near 1.

    Linear self-attention y_t = Σ_{s<=t} W_V x_s (W_K x_s)ᵀ (W_Q x_t) is one setting of these weights, with λ = 1:
    `from_linear_attention` gives it with a unit for each entry of the matrix Σ v kᵀ, and
    `from_linear_attention_symmetric` with one for each pair of inputs.

    Args:
        d_model: width of inputs and outputs.
        d_state: number N of units.
        d_gate: number G of products in the output gate.
        r_min, r_max: ring of λ at the start, 0 <= r_min < r_max <= 1.

    State: N numbers a row. Cost: 2 (N + G) d_model + G N multiplications a step, the scan one pass over memory.

    Raises:
        ResurgeError: a size below 1, or a radius out of range.

    Source: section 3 of "Gated recurrent neural networks discover attention", arXiv 2309.01775. There the output gate
    sees x_t through units with λ = 0; here it sees it directly.
    """

    PAPER = Paper(
        "gated_rnn_attention",
        "Gated recurrent neural networks discover attention",
        "Nicolas Zucchet and Seijin Kobayashi and Yassir Akram and Johannes von Oswald and Maxime Larcher and "
        "Angelika Steger and João Sacramento",
        2023,
        "2309.01775",
    )
    OPS = ("diagonal_scan",)
    RECURRENT = ("nu_log",)

    def __init__(
        self, d_model: int, d_state: int = 64, d_gate: int = 64, *, r_min: float = 0.9, r_max: float = 0.999
    ) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state, "d_gate": d_gate})
        self.d_model, self.d_state, self.d_gate = d_model, d_state, d_gate
        nu, _ = sample_ring(d_state, r_min, r_max, 2 * math.pi)
        scale = torch.sqrt(-torch.expm1(-2 * nu)).float()
        self.nu_log = nn.Parameter(torch.log(nu).float())
        self.W_m = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(d_model))
        self.W_x = nn.Parameter(scale[:, None] * torch.randn(d_state, d_model) / math.sqrt(d_model))
        self.V_m = nn.Parameter(torch.randn(d_gate, d_model) / math.sqrt(d_model))
        self.V_x = nn.Parameter(torch.randn(d_gate, d_state) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model, d_gate) / math.sqrt(d_gate))

    @classmethod
    def from_linear_attention(cls, W_Q: Tensor, W_K: Tensor, W_V: Tensor) -> Self:
        """The layer that computes causal linear self-attention, unit (i, j) holding Σ_s (W_V x_s)_i (W_K x_s)_j.

        Args:
            W_Q, W_K: queries and keys, `(K, d_model)`.
            W_V: values, `(d_model, d_model)`.

        N = G = d_model K. The weights are copies, in the dtype and on the device of W_V.

        Raises:
            ResurgeError: shapes that do not fit.
        """
        d, K = _attention_sizes(W_Q, W_K, W_V)
        i, j = (index.flatten() for index in torch.meshgrid(torch.arange(d), torch.arange(K), indexing="ij"))
        eye = torch.eye(d * K)
        return cls._with_weights(W_m=W_V[i], W_x=W_K[j], V_m=W_Q[j], V_x=eye, D=torch.eye(d)[:, i], like=W_V)

    @classmethod
    def from_linear_attention_symmetric(cls, W_Q: Tensor, W_K: Tensor, W_V: Tensor) -> Self:
        """The same function with fewer units: M = Σ_s x_s x_sᵀ is symmetric, so its upper half is all there is to hold.

        Then y_t = W_V M (W_Kᵀ W_Q x_t). N = d_model (d_model + 1) / 2, G = d_model². Arguments and errors are those of
        `from_linear_attention`.
        """
        d, _ = _attention_sizes(W_Q, W_K, W_V)
        upper = torch.triu_indices(d, d)
        unit = torch.zeros(d, d, dtype=torch.long)  # the unit that holds entry (i, j) of M
        unit[upper[0], upper[1]] = unit[upper[1], upper[0]] = torch.arange(upper.shape[1])
        i, j = (index.flatten() for index in torch.meshgrid(torch.arange(d), torch.arange(d), indexing="ij"))
        x, query = torch.eye(d), W_K.detach().T @ W_Q.detach()
        V_x = torch.eye(upper.shape[1])[unit.flatten()]
        return cls._with_weights(W_m=x[upper[0]], W_x=x[upper[1]], V_m=query[j], V_x=V_x, D=W_V[:, i], like=W_V)

    @classmethod
    def _with_weights(cls, *, W_m: Tensor, W_x: Tensor, V_m: Tensor, V_x: Tensor, D: Tensor, like: Tensor) -> Self:
        layer = cls(W_m.shape[1], W_m.shape[0], V_m.shape[0]).to(like.device, like.dtype)
        weights = {"W_m": W_m, "W_x": W_x, "V_m": V_m, "V_x": V_x, "D": D}
        layer.load_state_dict({"nu_log": torch.full_like(layer.nu_log, -math.inf), **weights})
        return layer

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, d_gate={self.d_gate}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> GatedLinearRNNState:
        return GatedLinearRNNState(self.zeros(batch_size, self.d_state, device=device, dtype=dtype))

    def scan(self, x: Tensor, state: GatedLinearRNNState, reset: Tensor | None) -> tuple[Tensor, GatedLinearRNNState]:
        h, h_last = decay_scan(-torch.exp(self.nu_log), self._input(x), state.h, reset=reset)
        return self._readout(h, x), GatedLinearRNNState(h_last)

    def _input(self, x: Tensor) -> Tensor:
        return linear(x, self.W_m) * linear(x, self.W_x)

    def _readout(self, h: Tensor, x: Tensor) -> Tensor:
        return linear(linear(x, self.V_m) * linear(h.to(x.dtype), self.V_x), self.D)

    def recurrence(self, x: Tensor, state: GatedLinearRNNState, reset: Tensor | None) -> Recurrence:
        lam = torch.exp(-torch.exp(self.nu_log))
        return Recurrence(
            lam, self._input(x), state.h, lambda h, h_last: (self._readout(h, x), GatedLinearRNNState(h_last))
        )


def _attention_sizes(W_Q: Tensor, W_K: Tensor, W_V: Tensor) -> tuple[int, int]:
    d = W_V.shape[-1]
    if W_V.shape != (d, d) or W_K.dim() != 2 or W_K.shape[1] != d or W_Q.shape != W_K.shape or not W_K.numel():
        raise ResurgeError(
            "W_Q and W_K must have shape (K, d_model) and W_V (d_model, d_model), and have "
            f"{tuple(W_Q.shape)}, {tuple(W_K.shape)} and {tuple(W_V.shape)}"
        )
    return d, W_K.shape[0]
