"""Elementwise recurrences whose coefficients are functions of the present input alone: real, and complex."""

from typing import NamedTuple

import torch
from torch import Tensor

from resurge.layer import RecurrentLayer
from resurge.nn.recurrence import Recurrence


class GatedState(NamedTuple):
    """The state h_t; a complex one as its real parts and its imaginary parts."""

    h: Tensor  # (B, N), complex (B, 2, N)


def wide(v: Tensor) -> Tensor:
    """`v` in float32 at least: a coefficient near 1 that is rounded to bfloat16 never forgets."""
    return v.to(torch.promote_types(v.dtype, torch.float32))


class GatedRNN(RecurrentLayer):
    r"""Base of the layers h_t = a_t ⊙ h_{t-1} + b_t, y_t = readout(h_t, x_t), with a_t and b_t functions of x_t.

    A subclass sets `d_model` and `d_state` (N), and gives `coefficients` and `readout`, both maps of each step alone:
    they see x as (B, T, d_model) in the parallel form, and as (B, d_model) in one step.
    """

    OPS = ("diagonal_scan",)
    d_state: int

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, (..., N) for x (..., d_model), in float32 at least."""
        raise TypeError(f"{type(self).__name__} does not define coefficients")

    def readout(self, h: Tensor, x: Tensor) -> Tensor:
        """y (..., d_model) from the states h (..., N) and the inputs x (..., d_model)."""
        raise TypeError(f"{type(self).__name__} does not define readout")

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> GatedState:
        return GatedState(self.zeros(batch_size, self.d_state, device=device, dtype=dtype))

    def recurrence(self, x: Tensor, state: GatedState, reset: Tensor | None) -> Recurrence:
        a, b = self.coefficients(x)
        return Recurrence(a, b, state.h, lambda h, h_last: (self.readout(h.to(x.dtype), x), GatedState(h_last)))

    def scan(self, x: Tensor, state: GatedState, reset: Tensor | None) -> tuple[Tensor, GatedState]:
        return self.recurrence(x, state, reset).run(reset)

    def step(self, x_t: Tensor, state: GatedState) -> tuple[Tensor, GatedState]:
        self._check_step(x_t)
        a, b = self.coefficients(x_t)
        h = self._product(a, self._state(state, x_t.shape[0]).h) + b  # one step needs no scan, and exports anywhere
        return self.readout(h.to(x_t.dtype), x_t), GatedState(h)

    def _product(self, a: Tensor, h: Tensor) -> Tensor:
        return a * h


class ComplexGatedRNN(GatedRNN):
    """The complex `GatedRNN`: a, b and h are pairs (..., 2, N), real parts and imaginary parts."""

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> GatedState:
        return GatedState(self.zeros(batch_size, 2, self.d_state, device=device, dtype=dtype))

    def _product(self, a: Tensor, h: Tensor) -> Tensor:
        (a_re, a_im), (h_re, h_im) = a.unbind(-2), h.unbind(-2)
        return torch.stack([a_re * h_re - a_im * h_im, a_re * h_im + a_im * h_re], -2)
