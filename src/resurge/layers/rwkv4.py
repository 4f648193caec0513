"""RWKV-4: time mixing and channel mixing."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resurge.errors import at_least
from resurge.nn.rwkv4 import RWKV4Part
from resurge.nn.token_shift import mix_parameter, mixed, shifted
from resurge.ops import SoftmaxState, softmax_scan, softmax_step


class RWKV4State(NamedTuple):
    """The last input, and the sums of `softmax_scan`."""

    x: Tensor  # (B, D)
    m: Tensor  # (B, D)
    num: Tensor  # (B, D)
    den: Tensor  # (B, D)


class ChannelMixState(NamedTuple):
    """The last input."""

    x: Tensor  # (B, D)


def _linear(columns: int, rows: int, zero: bool) -> nn.Linear:
    """A linear map without bias: zero, or orthogonal, with the gain sqrt(rows / columns) if it widens."""
    linear = nn.Linear(columns, rows, bias=False)
    nn.init.orthogonal_(linear.weight, max(1.0, math.sqrt(rows / columns)))
    if zero:
        nn.init.zeros_(linear.weight)
    return linear


class RWKV4(RWKV4Part):
    r"""Time mixing of RWKV-4: an average of all values so far, weighted by e^key and by how long ago they were.

        k_t, v_t = W_k μ_k(x_t), W_v μ_v(x_t),    r_t = σ(W_r μ_r(x_t))    μ(x_t) = μ ⊙ x_t + (1 - μ) ⊙ x_{t-1}
        wkv_t = (Σ_{i<t} e^{-(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (Σ_{i<t} e^{-(t-1-i) w + k_i} + e^{u + k_t})
        y_t = W_o (r_t ⊙ wkv_t)                                              w = e^time_decay, u = time_first

    Everything is elementwise over D. Initialisation as in the published code, by the layer's place in its stack: from
    below to above, channels forget later and look less at the input before.

    Args:
        d_model: width D of inputs, outputs and state.
        layer: its place in the stack, from 0.
        n_layers: number of layers of the stack; 1 in a `Stack`: its depth, and the layer's place there.
        zero_init: start W_k, W_r and W_o at zero, as the published code does: a residual block then starts as the
            identity. Otherwise they are orthogonal, as W_v is.

    State: 4 D numbers a row. Cost: 4 D² multiplications and two exponentials a channel and step.

    Raises:
        ResurgeError: a size below 1, or a layer outside its stack.

    Source: section 3 of "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048. Parameter names are those
    of Hugging Face's RwkvSelfAttention.
    """

    OPS = ("softmax_scan",)
    RECURRENT = ("time_decay", "time_first")
    time_decay: nn.Parameter
    time_first: nn.Parameter
    time_mix_key: nn.Parameter
    time_mix_value: nn.Parameter
    time_mix_receptance: nn.Parameter

    def __init__(self, d_model: int, *, layer: int = 0, n_layers: int = 1, zero_init: bool = False) -> None:
        super().__init__(d_model, layer, n_layers)
        self.key = _linear(d_model, d_model, zero_init)
        self.value = _linear(d_model, d_model, False)
        self.receptance = _linear(d_model, d_model, zero_init)
        self.output = _linear(d_model, d_model, zero_init)

    def by_place(self, layer: int, n_layers: int) -> dict[str, nn.Parameter]:
        rho, tau = layer / max(n_layers - 1, 1), 1 - layer / n_layers
        D = self.d_model
        i = torch.arange(D, dtype=torch.float64)
        return {
            "time_decay": nn.Parameter((-5 + 8 * (i / max(D - 1, 1)) ** (0.7 + 1.3 * rho)).float()),
            "time_first": nn.Parameter((math.log(0.3) + 0.5 * ((i + 1) % 3 - 1)).float()),
            "time_mix_key": mix_parameter(D, tau),
            "time_mix_value": mix_parameter(D, tau, 0.3 * rho),
            "time_mix_receptance": mix_parameter(D, 0.5 * tau),
        }

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> RWKV4State:
        x, m, num, den = (self.zeros(batch_size, self.d_model, device=device, dtype=dtype) for _ in range(4))
        return RWKV4State(x, m - 1e38, num, den)

    def _maps_of(self, x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value, receptance = (
            linear(mixed(previous, x, mix))
            for linear, mix in (
                (self.key, self.time_mix_key),
                (self.value, self.time_mix_value),
                (self.receptance, self.time_mix_receptance),
            )
        )
        return key, value, torch.sigmoid(receptance)

    def scan(self, x: Tensor, state: RWKV4State, reset: Tensor | None) -> tuple[Tensor, RWKV4State]:
        k, v, r = self._maps_of(x, shifted(x, state.x, reset))
        wkv, sums = softmax_scan(k, v, torch.exp(self.time_decay), self.time_first, state[1:], reset=reset)
        return self.output(r * wkv), RWKV4State(x[:, -1].to(state.x.dtype), *sums)

    def step(self, x_t: Tensor, state: RWKV4State) -> tuple[Tensor, RWKV4State]:
        self._check_step(x_t)
        state = self._state(state, x_t.shape[0])
        x = x_t[:, None]
        k, v, r = self._maps_of(x, state.x[:, None].to(x.dtype))
        sums = SoftmaxState(*state[1:])
        wkv, sums = softmax_step(k[:, 0], v[:, 0], torch.exp(self.time_decay), self.time_first, sums)
        return self.output(r[:, 0] * wkv), RWKV4State(x_t.to(state.x.dtype), *sums)


class RWKV4ChannelMix(RWKV4Part):
    r"""Channel mixing of RWKV-4, a gated map of the present input and the one before it.

        y_t = σ(W_r μ_r(x_t)) ⊙ W_v relu(W_k μ_k(x_t))²                    μ(x_t) = μ ⊙ x_t + (1 - μ) ⊙ x_{t-1}

    Args:
        d_model: width D of inputs and outputs.
        expand: width of W_k's outputs over D.
        layer, n_layers: as in `RWKV4`.
        zero_init: start W_v and W_r at zero, as the published code does; otherwise they are orthogonal.

    State: D numbers a row. Cost: (2 expand + 1) D² multiplications a step.

    Raises:
        ResurgeError: a size below 1, or a layer outside its stack.

    Source: section 3 of arXiv 2305.13048. Parameter names are those of Hugging Face's RwkvFeedForward.
    """

    OPS = ("torch.linear",)
    time_mix_key: nn.Parameter
    time_mix_receptance: nn.Parameter

    def __init__(
        self, d_model: int, expand: int = 4, *, layer: int = 0, n_layers: int = 1, zero_init: bool = False
    ) -> None:
        super().__init__(d_model, layer, n_layers)
        at_least(1, {"expand": expand})
        self.key = _linear(d_model, expand * d_model, False)
        self.receptance = _linear(d_model, d_model, zero_init)
        self.value = _linear(expand * d_model, d_model, zero_init)

    def by_place(self, layer: int, n_layers: int) -> dict[str, nn.Parameter]:
        tau = 1 - layer / n_layers
        return {name: mix_parameter(self.d_model, tau) for name in ("time_mix_key", "time_mix_receptance")}

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> ChannelMixState:
        return ChannelMixState(self.zeros(batch_size, self.d_model, device=device, dtype=dtype))

    def scan(self, x: Tensor, state: ChannelMixState, reset: Tensor | None) -> tuple[Tensor, ChannelMixState]:
        previous = shifted(x, state.x, reset)
        k = torch.relu(self.key(mixed(previous, x, self.time_mix_key))).square()
        r = torch.sigmoid(self.receptance(mixed(previous, x, self.time_mix_receptance)))
        return r * self.value(k), ChannelMixState(x[:, -1].to(state.x.dtype))
