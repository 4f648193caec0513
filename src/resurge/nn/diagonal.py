"""Linear, diagonal, complex recurrences between two dense maps, in one direction or in both: LRU, its ablations, S5."""

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from resurge.errors import ResurgeError, at_least
from resurge.layer import BidirectionalEnd, BidirectionalState, RecurrentLayer, WholeSequence, reversed_times
from resurge.nn.recurrence import Recurrence
from resurge.ops import bidirectional_scan_pairs, diagonal_scan_pairs
from resurge.paper import Paper

LRU_PAPER = Paper(
    "lru",
    "Resurrecting Recurrent Neural Networks for Long Sequences",
    "Antonio Orvieto and Samuel L. Smith and Albert Gu and Anushan Fernando and Caglar Gulcehre and "
    "Razvan Pascanu and Soham De",
    2023,
    "2303.06349",
)


class DiagonalState(NamedTuple):
    """The complex state x_t: its real parts and its imaginary parts."""

    h: Tensor  # (B, 2, N)


class DiagonalSystem(RecurrentLayer):
    r"""Base of the layers h_t = a_t ⊙ h_{t-1} + b_t, y_t = Re(C h_t) + D ⊙ u_t, whose a and b are made of the inputs u.

    A subclass writes `drive`, and registers C_re and C_im `(d_model, DIRECTIONS * N)` and D. Its state is a NamedTuple
    of one tensor h `(B, 2, N)`.
    """

    OPS = ("diagonal_scan",)
    DIRECTIONS: ClassVar[int] = 1  # of time, each with a map C of its own
    C_re: Tensor
    C_im: Tensor
    D: Tensor

    def drive(self, x: Tensor, dt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """a, of a shape that `diagonal_scan_pairs` takes, and b (B, T, 2, N)."""
        raise TypeError(f"{type(self).__name__} does not define drive")

    def output_map(self) -> Tensor:
        """C as one real matrix (d_model, DIRECTIONS * 2 N), for real parts and imaginary parts, way by way."""
        ways = (self.DIRECTIONS, -1)
        return torch.stack([self.C_re.unflatten(1, ways), -self.C_im.unflatten(1, ways)], 2).flatten(1)

    def read(self, x: Tensor, *ways: Tensor) -> Tensor:
        """The outputs from the states h (B, T, 2, N) of each direction."""
        C, *others = self.output_map().to(x.dtype).chunk(self.DIRECTIONS, 1)
        y = torch.addcmul(linear(ways[0].flatten(2).to(x.dtype), C), x, self.D)
        for h, C in zip(ways[1:], others, strict=True):
            y = y + linear(h.flatten(2).to(x.dtype), C)
        return y

    def recurrence(self, x: Tensor, state: Any, reset: Tensor | None, dt: Tensor | None = None) -> Recurrence:
        a, b = self.drive(x, dt)
        return Recurrence(a, b, state.h, lambda h, h_last: (self.read(x, h), state._replace(h=h_last)))

    def scan(self, x: Tensor, state: Any, reset: Tensor | None, dt: Tensor | None = None) -> tuple[Tensor, Any]:
        return self.recurrence(x, state, reset, dt).run(reset)


class BothWays(WholeSequence, DiagonalSystem):
    r"""A diagonal system in both directions of time: one a and one b, and a map C for each way.

        ahead_t = a_t ⊙ ahead_{t-1} + b_t,    back_t = a_t ⊙ back_{t+1} + b_t
        y_t = Re(C [ahead_t; back_t]) + D ⊙ u_t

    To be named before the layer that it turns into one of both ways: `class BidirectionalLRU(BothWays, LRU)`. The
    first half of C's columns reads the way ahead. With dt, the way back takes the time to the step after as that
    since the step before (see `resurge.layer.reversed_times`).

    Source: the bidirectional layers of arXiv 2208.04933, which the LRU's paper takes for Pathfinder and Path-X.
    """

    OPS = ("bidirectional_scan",)
    DIRECTIONS = 2

    def scan(
        self, x: Tensor, state: BidirectionalState, reset: Tensor | None, dt: Tensor | None = None
    ) -> tuple[Tensor, BidirectionalEnd]:
        if dt is None:
            ahead, back = bidirectional_scan_pairs(*self.drive(x), reset=reset)
        else:
            behind = reversed_times(dt, reset).flip(1)
            ahead, _ = diagonal_scan_pairs(*self.drive(x, dt), reset=reset)
            back, _ = diagonal_scan_pairs(*self.drive(x, behind), reset=reset, reverse=True)
        return self.read(x, ahead, back), BidirectionalEnd()


class DiagonalRNN(DiagonalSystem):
    r"""Base of the layers x_t = λ ⊙ x_{t-1} + g ⊙ (B u_t), y_t = Re(C x_t) + D ⊙ u_t with constant complex λ.

    λ = exp(-ν + iθ) starts uniform by area on the ring r_min <= |λ| <= r_max, 0 <= θ <= max_phase. A subclass registers
    its parameters of λ in `parameterise` and gives `eigenvalues()` in their dtype, computed from their `wide` form, and
    `input_scale()` if g is not 1. B and C are complex Gaussian with variance 1/(2 d_model) and 1/d_state in each part,
    D standard normal.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "d_state": d_state})
        self.d_model, self.d_state = d_model, d_state
        self.B_re = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.B_im = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.C_re = nn.Parameter(torch.randn(d_model, self.DIRECTIONS * d_state) / math.sqrt(d_state))
        self.C_im = nn.Parameter(torch.randn(d_model, self.DIRECTIONS * d_state) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model))
        self.parameterise(*sample_ring(d_state, r_min, r_max, max_phase))

    def parameterise(self, nu: Tensor, theta: Tensor) -> None:
        """Register the parameters of λ, given ν and θ (N,) in float64."""
        raise TypeError(f"{type(self).__name__} does not define parameterise")

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def eigenvalues(self) -> Tensor:
        """λ as (2, N): real parts, imaginary parts."""
        raise TypeError(f"{type(self).__name__} does not define eigenvalues")

    def input_scale(self) -> Tensor | None:
        """The factors g (N,), or None for 1."""
        return None

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> DiagonalState:
        return DiagonalState(self.zeros(batch_size, 2, self.d_state, device=device, dtype=dtype))

    def _input_map(self) -> Tensor:
        """g ⊙ B as one real matrix (2 N, d_model): scaling its rows is cheaper than scaling (B, T, N) numbers."""
        B, scale = torch.cat([self.B_re, self.B_im]), self.input_scale()
        return B if scale is None else B * scale.repeat(2)[:, None]

    def drive(self, x: Tensor, dt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.eigenvalues(), linear(x, self._input_map().to(x.dtype)).unflatten(-1, (2, self.d_state))

    def step(self, x_t: Tensor, state: DiagonalState) -> tuple[Tensor, DiagonalState]:
        self._check_step(x_t)
        state = self._state(state, x_t.shape[0])
        # the recurrence spelt out in PyTorch's own operators: one step needs no scan, and exports anywhere
        Bu = linear(x_t, self._input_map().to(x_t.dtype)).unflatten(-1, (2, self.d_state))
        re, im = self.eigenvalues()
        h_re, h_im = state.h.unbind(1)
        h = torch.stack([re * h_re - im * h_im, re * h_im + im * h_re], 1) + Bu
        return linear(h.flatten(1).to(x_t.dtype), self.output_map().to(x_t.dtype)) + self.D * x_t, DiagonalState(h)


def wide(parameter: Tensor) -> Tensor:
    """A parameter of the eigenvalues in float64 (float32 on MPS, which has none).

    An error in a phase is multiplied by the steps it turns for: rounding θ to float32 before the cosine costs an order
    of magnitude more over a long sequence than rounding λ after it.
    """
    return parameter if parameter.device.type == "mps" else parameter.double()


def polar(log_radius: Tensor, phase: Tensor) -> Tensor:
    """exp(log_radius + i phase) as (2, N)."""
    radius = torch.exp(log_radius)
    return torch.stack([radius * torch.cos(phase), radius * torch.sin(phase)])


def sample_ring(n: int, r_min: float, r_max: float, max_phase: float) -> tuple[Tensor, Tensor]:
    """(ν, θ), float64 (n,): λ = exp(-ν + iθ) uniform by area on the ring r_min <= |λ| <= r_max, 0 <= θ <= max_phase.

    Raises:
        ResurgeError: a radius or phase out of range.
    """
    if not 0 <= r_min < r_max <= 1:
        raise ResurgeError(f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1, and are {r_min} and {r_max}")
    if not 0 < max_phase <= 2 * math.pi + 1e-9:
        raise ResurgeError(f"max_phase must lie in (0, 2π], and is {max_phase}")
    # 0 and 1 are left out: their logarithms, or those of ν and θ, are not finite
    u1, u2 = torch.rand(2, n).clamp(1e-7, 1 - 1e-7).double()
    return -0.5 * torch.log(u1 * (r_max**2 - r_min**2) + r_min**2), max_phase * u2
