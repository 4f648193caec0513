"""What LSRL programs are usually written with: comparisons, logic, choices and counters, made of the five primitives.

A condition is an expression that is 0 or 1.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from resurge.errors import ResurgeError
from resurge.lsrl.language import Expr, Operand, constant, linear, relu, state

SHARPNESS = 1e3  # a step rises over 1 / SHARPNESS


def step(x: Expr) -> Expr:
    """1 where x > 0, else 0; between 0 and 1/1000 it rises linearly. relu(1000 x) - relu(1000 x - 1)."""
    return relu(SHARPNESS * x) - relu(SHARPNESS * x - 1)


def between(x: Expr, low: Operand, high: Operand) -> Expr:
    """Whether low < x <= high, with the edges of `step`."""
    return step(x - low) - step(x - high)


def equal(x: Expr, y: Operand) -> Expr:
    """Whether two whole numbers are equal."""
    return between(x - y, -0.5, 0.5)


def all_of(*conditions: Expr) -> Expr:
    """Whether all conditions are 1, channel by channel."""
    return relu(_total(conditions) - (len(conditions) - 1))


def any_of(*conditions: Expr) -> Expr:
    """Whether at least one condition is 1, channel by channel."""
    return 1 - relu(1 - _total(conditions))


def negate(condition: Expr) -> Expr:
    """Whether the condition is 0."""
    return 1 - condition


class Select(Protocol):
    """A way to choose: `then` where the condition is 1, `other` where it is 0."""

    def __call__(self, condition: Expr, then: Operand, other: Operand) -> Expr: ...


def gated_select(condition: Expr, then: Operand, other: Operand) -> Expr:
    """condition * then + (1 - condition) * other: what a network with multiplicative gates can do."""
    return condition * then + (1 - condition) * other


@dataclass(frozen=True)
class ReLUSelect:
    """The choice without products: each branch is drowned by `bound` in the condition that it does not hold under.

        relu(t - M (1 - c)) - relu(-t - M (1 - c)) + relu(f - M c) - relu(-f - M c)

    Both branches must be smaller than M = bound. A condition that is off by ε is multiplied by M: rounding costs as
    many digits as M has. The paper's code has M = 1e10.
    """

    bound: float = 1e10

    def __post_init__(self) -> None:
        if not 0 < self.bound < math.inf:
            raise ResurgeError(f"bound must be positive and finite, and is {self.bound}")

    def __call__(self, condition: Expr, then: Operand, other: Operand) -> Expr:
        return self._unless(then, self.bound * (1 - condition)) + self._unless(other, self.bound * condition)

    def _unless(self, x: Operand, drown: Expr) -> Expr:
        return relu(x - drown) - relu(-x - drown)


def steps_so_far() -> Expr:
    """1, 2, 3, ...: the number of this step."""
    return state(constant([1.0]))


def cycle(period: int) -> Expr:
    """One channel for each place in a cycle: channel t mod `period` is 1 at step t = 0, 1, ..., the others are 0.

    A state that turns by 2π / period a step is compared with where it is at each place.

    Raises:
        ResurgeError: a period below 2.
    """
    if period < 2:
        raise ResurgeError(f"the period of a cycle must be at least 2, and is {period}")
    angle = 2 * math.pi / period
    turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    hand = state(constant([0.0, 0.0]), turn, init=[math.cos(angle), -math.sin(angle)])  # one turn before place 0
    places = angle * torch.arange(period, dtype=torch.float64)
    nearness = linear(torch.stack([torch.cos(places), torch.sin(places)], 1), hand)
    return step(nearness - math.cos(angle / 2))


def total(x: Expr) -> Expr:
    """The sum over channels, one channel."""
    return linear(torch.ones(1, x.dim), x)


def _total(conditions: tuple[Expr, ...]) -> Expr:
    if not conditions:
        raise ResurgeError("all_of and any_of need at least one condition, and were given none")
    whole, *others = conditions
    for condition in others:
        whole = whole + condition
    return whole
