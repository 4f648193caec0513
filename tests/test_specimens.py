"""A suite that cannot fail proves nothing: layers with one known fault each, and the laws that must catch them."""

from typing import Any

import laws
import pytest
import torch
from torch import Tensor

from resurge import RecurrentLayer
from resurge.layers import LRU
from resurge.nn.diagonal import DiagonalState


class LeaksTheFuture(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        y, state = super().scan(x, state, reset)
        return y + 1e-3 * x.mean(1, keepdim=True), state


class ForgetsItsStateAtABorder(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        return super().scan(x, self.initial_state(x.shape[0]), reset)


class ForgetsEverySixteenSteps(LRU):
    """A chunked form that does not carry its state on."""

    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        ys = []
        for i, chunk in enumerate(x.split(16, 1)):
            part = None if reset is None else reset[:, 16 * i : 16 * i + chunk.shape[1]]
            y, last = super().scan(chunk, state if i == 0 else self.initial_state(x.shape[0]), part)
            ys.append(y)
        return torch.cat(ys, 1), last


class IgnoresReset(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        return super().scan(x, state, None)


class ResetsAllRows(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        return super().scan(x, state, None if reset is None else reset.any(0).expand_as(reset))


class ReturnsADetachedState(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        y, after = super().scan(x, state, reset)
        return y, DiagonalState(after.h.detach())


class StepsWithAnotherSign(LRU):
    def step(self, x_t: Tensor, state: DiagonalState) -> tuple[Tensor, DiagonalState]:
        y, after = super().step(x_t, state)
        return y + 2 * self.D.abs() * x_t, after


class MixesRows(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        y, after = super().scan(x, state, reset)
        return y + 1e-3 * x.mean(0), after


class KeepsItsStateOnTheModule(LRU):
    kept: Any = None

    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        if self.kept is not None and self.kept.h.shape == state.h.shape:
            state = self.kept
        y, after = super().scan(x, state, reset)
        self.kept = DiagonalState(after.h.detach())
        return y, after


class CarriesABfloat16State(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        y, after = super().scan(x, state, reset)
        return y, DiagonalState(after.h.to(x.dtype))


class GrowsItsState(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        y, after = super().scan(x, DiagonalState(state.h[..., : self.d_state]), reset)
        return y, DiagonalState(torch.cat([after.h, x.flatten(1)[:, None].expand(-1, 2, -1)], 2))


class ForgetsAParameter(LRU):
    def __init__(self, d_model: int, d_state: int = 64) -> None:
        super().__init__(d_model, d_state)
        self.unused = torch.nn.Parameter(torch.empty(3))


class Explodes(LRU):
    def eigenvalues(self) -> Tensor:
        return 1.01 * super().eigenvalues() / super().eigenvalues().norm(dim=0)


class DropsTheGradientOfTheInitialState(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        return super().scan(x, DiagonalState(state.h.detach()), reset)


class DependsOnChance(LRU):
    def scan(self, x: Tensor, state: DiagonalState, reset: Tensor | None) -> tuple[Tensor, DiagonalState]:
        y, after = super().scan(x, state, reset)
        return y + 1e-6 * torch.randn_like(y), after


SPECIMENS: list[tuple[type[RecurrentLayer], laws.Law]] = [
    (LeaksTheFuture, laws.law_causal),
    (LeaksTheFuture, laws.law_steps_equal_the_whole),
    (ForgetsItsStateAtABorder, laws.law_any_split_equals_the_whole),
    (ForgetsEverySixteenSteps, laws.law_any_split_equals_the_whole),
    (ForgetsEverySixteenSteps, laws.law_steps_equal_the_whole),
    (IgnoresReset, laws.law_reset_equals_separate_calls),
    (IgnoresReset, laws.law_left_padding_and_a_reset_change_nothing),
    (ResetsAllRows, laws.law_resets_of_rows_are_independent),
    (ReturnsADetachedState, laws.law_the_final_state_carries_gradients),
    (ReturnsADetachedState, laws.law_any_split_equals_the_whole),
    (StepsWithAnotherSign, laws.law_steps_equal_the_whole),
    (MixesRows, laws.law_rows_are_independent),
    (KeepsItsStateOnTheModule, laws.law_nothing_is_stored_on_the_module),
    (CarriesABfloat16State, laws.law_half_precision_keeps_a_float32_state),
    (GrowsItsState, laws.law_the_state_has_constant_size),
    (ForgetsAParameter, laws.law_every_parameter_is_initialised_and_used),
    (Explodes, laws.law_a_hundred_thousand_steps_stay_finite),
    (DropsTheGradientOfTheInitialState, laws.law_any_split_equals_the_whole),
    (DependsOnChance, laws.law_deterministic),
]


@pytest.mark.parametrize(("specimen", "law"), SPECIMENS, ids=lambda value: value.__name__)
def test_a_broken_layer_fails_its_law(specimen: type[RecurrentLayer], law: laws.Law) -> None:
    torch.manual_seed(1)
    layer = specimen(8, 16).double()  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        law(layer)


def test_every_specimen_differs_from_a_sound_layer_only_by_its_fault() -> None:
    torch.manual_seed(1)
    sound = LRU(8, 16).double()
    for _, law in SPECIMENS:
        law(sound)
