"""Where a run is: everything follows from the number of batches trained on, so that is all a checkpoint must know."""

import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from resurge.data.base import Batch
from resurge.data.loader import BatchLoader
from resurge.errors import ResurgeError, at_least
from resurge.recipes.base import TrainConfig

_LOWEST_LR = 1e-7  # where the schedule starts and ends; appendix C of arXiv 2303.06349


@dataclass(frozen=True)
class Plan:
    """The fixed course of a run. Steps are optimiser steps, each of `accumulate` batches."""

    batches_an_epoch: int
    accumulate: int
    steps: int
    val_steps: int

    @staticmethod
    def of(config: TrainConfig, items: int) -> "Plan":
        """The course that a configuration asks for, with so many items to train on.

        Raises:
            ResurgeError: a setting out of range.
        """
        from_1 = ["batch_size", "eval_batch_size", "accumulate", "log_steps"] + ["epochs"] * (config.max_steps < 1)
        from_0 = ["max_steps", "val_steps", "patience", "checkpoint_steps", "checkpoint_seconds"]
        from_0 += ["weight_decay", "clip"]
        for least, names in ((1, from_1), (0, from_0)):
            at_least(least, {f"train.{name}": getattr(config, name) for name in names})
        if not (0 < config.lr < math.inf and 0 <= config.lr_factor < math.inf and 0 <= config.warmup <= 1):
            raise ResurgeError(
                "train.lr must be positive, lr_factor at least 0 and warmup within [0, 1], "
                f"and they are {config.lr}, {config.lr_factor} and {config.warmup}"
            )
        if config.precision not in ("32-true", "bf16-mixed"):
            raise ResurgeError(f"train.precision must be '32-true' or 'bf16-mixed', and is '{config.precision}'")
        batches_an_epoch = -(-items // config.batch_size)
        steps = config.max_steps or math.ceil(config.epochs * batches_an_epoch / config.accumulate)
        val_steps = config.val_steps or math.ceil(batches_an_epoch / config.accumulate)
        return Plan(batches_an_epoch, config.accumulate, steps, min(val_steps, steps))

    def step(self, batches: int) -> int:
        """Steps done after so many batches."""
        return batches // self.accumulate

    def lap_end(self, step: int) -> int:
        """The step of the first validation after `step`."""
        return min(self.steps, (step // self.val_steps + 1) * self.val_steps)

    def laps_left(self, step: int) -> int:
        """Validations after `step`."""
        return math.ceil(self.steps / self.val_steps) - step // self.val_steps if step < self.steps else 0

    def validates(self, step: int) -> bool:
        """Whether a validation follows this step."""
        return step > 0 and (step % self.val_steps == 0 or step == self.steps)


def learning_rate(step: int, steps: int, warmup: float, highest: float) -> float:
    """The learning rate of step `step` of `steps`, from 0: up from 1e-7 in a line, then down to it in a cosine."""
    rise = warmup * steps
    if step < rise:
        return _LOWEST_LR + (highest - _LOWEST_LR) * step / rise
    done = (step - rise) / max(1.0, steps - rise)
    return _LOWEST_LR + (highest - _LOWEST_LR) * 0.5 * (1 + math.cos(math.pi * done))


def seed_for(seed: int, batch: int) -> None:
    """Seed all generators for one batch of a run: randomness is a function of (seed, batch), never of the past."""
    value = int.from_bytes(hashlib.blake2b(f"{seed} {batch}".encode(), digest_size=4).digest(), "little")
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002 - the global generator is the point
    random.seed(value)


@dataclass
class Progress:
    """How far a run has come: with weights and optimiser, all that it needs to go on."""

    batches: int = 0
    validated: int = 0  # the step of the last validation
    seconds: float = 0.0  # spent in training, validation included
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))  # since the last logged line
    best: dict[str, float] = field(default_factory=dict)  # the best validation's metrics
    best_step: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    waited: int = 0  # validations since the best one
    stopped: bool = False  # by early stopping


class Lap:
    """The batches up to the next validation, from wherever the run is: what Lightning takes for an epoch.

    Lightning's own way to restart within an epoch depends on counters in five nested loops, and on where in them a
    checkpoint was written. Here its loops always start from nothing: a run continued is a run whose first lap is
    shorter. Laps are made anew for each of Lightning's epochs.
    """

    def __init__(self, loader: BatchLoader, plan: Plan, progress: Progress) -> None:
        self.loader = loader
        self.start = progress.batches
        step = plan.step(self.start)
        self.batches = (plan.lap_end(step) - step) * plan.accumulate if step < plan.steps else 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        epoch, batch = divmod(self.start, len(self.loader))
        self.loader.load_state_dict({"epoch": epoch, "batch": batch})
        left = self.batches
        while left:
            for item in self.loader:
                yield item
                left -= 1
                if not left:
                    return
