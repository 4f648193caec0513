"""Long Expressive Memory: two states with learned, input-dependent time scales."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from resurge.errors import ResurgeError, at_least
from resurge.layer import TimedLayer
from resurge.ops import lem_scan
from resurge.paper import Paper


class LEMState(NamedTuple):
    """The output state y and the memory z."""

    y: Tensor  # (B, N)
    z: Tensor  # (B, N)


class LEM(TimedLayer):
    r"""Long Expressive Memory: two coupled states, each with a time step that it learns to choose.

        Δ̄_t = Δ σ(W_1 y_{t-1} + V_1 x_t + b_1),    Δ_t = Δ σ(W_2 y_{t-1} + V_2 x_t + b_2)
        z_t = (1 - Δ_t) ⊙ z_{t-1} + Δ_t ⊙ tanh(W_z y_{t-1} + V_z x_t + b_z)
        y_t = (1 - Δ̄_t) ⊙ y_{t-1} + Δ̄_t ⊙ tanh(W_y z_t + V_y x_t + b_y),    out_t = W_out y_t

    The new z enters the update of y. Given the time dt_t, Δ dt_t stands in the place of Δ, and no time step is taken
    longer than 1, with which a state arrives at its target. All weights and biases start uniform in ±1/sqrt(d_state).

    Args:
        d_model: width of inputs and outputs.
        d_state: width N of y and of z.
        delta: Δ, the longest time step, in (0, 1]. The longer the memory, the smaller: the paper's are 1 for short
            sequences, 0.3 and 0.2 for 784 pixels, 0.024 for the adding problem of 2,000 steps and more.

    State: 2 N numbers a row. Cost: 4 N (d_model + N) + N d_model multiplications a step, one step after the other.

    Raises:
        ResurgeError: a size below one, or Δ out of range.

    Source: eq. 3 of "Long Expressive Memory for Sequence Modeling", arXiv 2110.04744. Parameters are those of the
    published code's cell: rows 1, 2, y, z from the inputs (there called dt1, dt2, z, y), and 1, 2, z from y.
    """

    PAPER = Paper(
        "lem",
        "Long Expressive Memory for Sequence Modeling",
        "T. Konstantin Rusch and Siddhartha Mishra and N. Benjamin Erichson and Michael W. Mahoney",
        2022,
        "2110.04744",
    )
    OPS = ("lem_scan",)

    def __init__(self, d_model: int, d_state: int = 64, *, delta: float = 1.0) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state})
        if not 0 < delta <= 1:
            raise ResurgeError(f"delta must lie in (0, 1], and is {delta}")
        self.d_model, self.d_state, self.delta = d_model, d_state, delta
        self.inp2hid = nn.Linear(d_model, 4 * d_state)
        self.hid2hid = nn.Linear(d_state, 3 * d_state)
        self.transform_z = nn.Linear(d_state, d_state)
        self.out = nn.Linear(d_state, d_model, bias=False)
        bound = 1 / math.sqrt(d_state)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, delta={self.delta}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LEMState:
        return LEMState(*(self.zeros(batch_size, self.d_state, device=device, dtype=dtype) for _ in range(2)))

    def scan(
        self, x: Tensor, state: LEMState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, LEMState]:
        dtype, N = state.y.dtype, self.d_state
        ones = torch.ones(x.shape[:2], dtype=dtype, device=x.device)
        steps = self.delta * (ones if dt is None else dt.to(dtype))
        with torch.autocast(x.device.type, enabled=False):  # the state is carried in float32
            # the rows 1, 2, y, z as the scan takes them: what meets y_{t-1} first
            V, b = (torch.cat([v[: 2 * N], v[3 * N :], v[2 * N : 3 * N]]).to(dtype) for v in self.inp2hid.parameters())
            b = b + torch.cat([self.hid2hid.bias, self.transform_z.bias]).to(dtype)
            p = linear(x.to(dtype), V, b)
            y, z = lem_scan(p, self.hid2hid.weight, self.transform_z.weight, steps, *state, reset=reset)
        # copies, so that a state kept does not keep all the others
        return self.out(y.to(x.dtype)), LEMState(y[:, -1].clone(), z[:, -1].clone())
