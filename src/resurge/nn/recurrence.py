"""What the layers that are linear in a diagonal state have in common: a decay, an input and a readout for each step."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from resurge.ops import diagonal_scan, diagonal_scan_pairs


class Recurrence(NamedTuple):
    """The recurrence h_t = a_t ⊙ h_{t-1} + b_t of a layer over a piece of a sequence, and what becomes of its states.

    A complex recurrence has pairs of reals, (2, N) in the place of N: real parts, imaginary parts.
    """

    a: Tensor  # (B, T, N), or a shape that diagonal_scan takes
    b: Tensor  # (B, T, N)
    h0: Tensor  # (B, N)
    finish: Callable[[Tensor, Tensor], tuple[Tensor, Any]]  # all states (B, T, N) and the last one, to (y, state)

    def scan(self, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """All states (B, T, N) and the last one (B, N)."""
        solve = diagonal_scan_pairs if self.b.dim() == 4 else diagonal_scan
        return solve(self.a, self.b, self.h0, reset=reset)

    def run(self, reset: Tensor | None) -> tuple[Tensor, Any]:
        """The layer's outputs and its state."""
        return self.finish(*self.scan(reset))


@runtime_checkable
class GivesRecurrence(Protocol):
    """A layer that gives its recurrence away, so that it can be run in another way (`resurge.nn.mitigation`)."""

    def recurrence(self, x: Tensor, state: Any, reset: Tensor | None) -> Recurrence:
        """The recurrence over x (B, T, d_model) from `state`; reset (B, T) or None cuts what else the layer keeps."""
        ...
