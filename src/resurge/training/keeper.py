"""What happens between the steps of a run: counting, logging, checkpoints, the best weights, and stopping."""

import math
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from resurge.data.base import Batch
from resurge.errors import Diverged
from resurge.memory import FreedMemory
from resurge.training.checkpoint import write_weights
from resurge.training.logs import Bar, disk
from resurge.training.module import TrainingModule
from resurge.training.scores import better, metrics


class Stopped(Exception):
    """Ends Lightning's loops after Ctrl-C or SIGTERM. (Lightning turns a KeyboardInterrupt into an exit.)"""


class Interrupts:
    """Ctrl-C and SIGTERM set `received`; a second one raises Stopped at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python has no signals
            self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
            self.install()
        return self

    def install(self) -> None:
        """Take the signals (again: Lightning puts a handler of its own before this one when it starts)."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise Stopped
        self.received = True
        print("\nstopping after this step (once more: at once)", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Keeper(Callback):
    """Moves a run's progress on and keeps it on disk; gives freed memory back where batches differ in length.

    A checkpoint is written between two steps only, when everything that belongs to the step is done, or all but its
    validation; `Progress.validated` tells which. So a process may be killed anywhere: in a step, half-way through
    accumulated batches, in a validation, in the writing of a file.
    """

    def __init__(self, out: Path, interrupts: Interrupts, bar: Bar) -> None:
        self.checkpoint, self.weights = out / "checkpoint.safetensors", out / "model.safetensors"
        self.interrupts, self.bar = interrupts, bar
        self._clock = self._saved = time.monotonic()
        self._tokens, self._busy = 0, 0.0
        self._freed = FreedMemory()

    def on_sanity_check_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.interrupts.install()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.interrupts.install()
        self._clock = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        module = _ours(pl_module)
        config, plan, progress = module.config, module.plan, module.progress
        lr = module.learning_rate()
        self._freed.after(batch.steps)
        progress.batches += 1
        if progress.batches % plan.accumulate:
            return
        step = plan.step(progress.batches)
        self.bar.step()
        if step % config.log_steps == 0 or step == plan.steps:
            self._log_training(trainer, module, step, lr)
        due = plan.validates(step) or time.monotonic() - self._saved > config.checkpoint_seconds
        if due or self.interrupts.received or (config.checkpoint_steps and step % config.checkpoint_steps == 0):
            self._save(trainer, module)
        if self.interrupts.received:
            raise Stopped

    def on_validation_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._freed.after(batch.steps)
        if self.interrupts.received:
            raise Stopped  # the checkpoint before this validation is on disk

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._pass_time(_ours(pl_module), training=not trainer.sanity_checking)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        module = _ours(pl_module)
        progress, config, spec = module.progress, module.config, module.spec
        self._pass_time(module, training=False)
        step, found = module.plan.step(progress.batches), module.validation_metrics()
        progress.validated = step
        progress.waited += 1
        if better(spec, found, progress.best):
            progress.best, progress.best_step, progress.waited = found, step, 0
            progress.best_weights = {n: t.detach().cpu().clone() for n, t in module.model.state_dict().items()}
            write_weights(self.weights, progress.best_weights)
        row = {f"val_{name}": figure for name, figure in found.items()}
        self._log(trainer, module, step, row)
        self.bar.validated(step, row)
        progress.stopped = 0 < config.patience <= progress.waited
        self._save(trainer, module)
        if progress.stopped:
            trainer.should_stop = True

    def _log_training(self, trainer: lightning.Trainer, module: TrainingModule, step: int, lr: float) -> None:
        self._pass_time(module, training=True)
        progress = module.progress
        found = metrics(progress.sums.cpu(), module.spec)
        progress.sums = progress.sums * 0
        if not math.isfinite(found["loss"]):
            raise Diverged(
                f"the loss is {found['loss']} at step {step}: lower train.lr ({module.config.lr:g}) or set train.clip"
            )
        row = {"lr": lr, **{f"train_{name}": figure for name, figure in found.items()}}
        row["tokens_per_second"] = round(self._tokens / max(self._busy, 1e-9), 1)
        self._tokens, self._busy = 0, 0.0
        self._log(trainer, module, step, row)
        self.bar.metrics(row)

    def _log(self, trainer: lightning.Trainer, module: TrainingModule, step: int, row: dict[str, float]) -> None:
        plan, progress = module.plan, module.progress
        epoch = round(progress.batches / plan.batches_an_epoch, 4)
        row = {"epoch": epoch, **row, "seconds": round(progress.seconds, 3)}
        with disk(self.weights.parent):
            for logger in trainer.loggers:
                logger.log_metrics(row, step)

    def _pass_time(self, module: TrainingModule, *, training: bool) -> None:
        """Book the time since the last call, as training or as something else."""
        now = time.monotonic()
        module.progress.seconds += now - self._clock
        if training:
            self._busy += now - self._clock
            self._tokens += module.tokens
        module.tokens, self._clock = 0, now

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        with disk(self.weights.parent):
            for logger in trainer.loggers:
                logger.save()
        trainer.save_checkpoint(self.checkpoint, weights_only=False)
        self._saved = time.monotonic()


def _ours(module: lightning.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
