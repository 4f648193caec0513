"""The Lightning trainer, set up so that a run may be killed at any moment and continued to the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from resurge.data.base import Splits
from resurge.recipes.base import Experiment
from resurge.training.checkpoint import read, write
from resurge.training.keeper import Interrupts, Keeper, Stopped
from resurge.training.logs import Bar, CSVLog, columns, disk, quiet
from resurge.training.module import TrainingModule
from resurge.training.plan import Plan, Progress
from resurge.training.scores import metric_name


class SafetensorsIO(CheckpointIO):
    """Lightning's checkpoints as one safetensors file each."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = read(Path(path))
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def train(
    model: nn.Module,
    splits: Splits,
    experiment: Experiment,
    plan: Plan,
    progress: Progress,
    out: Path,
    device: torch.device,
    show: bool,
) -> None:
    """Train `model` from where `progress` is to the end of the plan.

    Raises:
        KeyboardInterrupt: stopped by a signal; the checkpoint is on disk.
    """
    config = experiment.train
    step = plan.step(progress.batches)
    laps = 0 if progress.stopped else plan.laps_left(step)
    to_validate = plan.validates(step) and progress.validated < step  # killed in that validation
    if not laps and not to_validate:
        return
    bar = Bar(plan.steps, step, show=show)
    table = CSVLog(out / "metrics.csv", columns(metric_name(splits.spec)), step, progress.validated)
    module = TrainingModule(model, splits, config, plan, progress, experiment.seed)
    try:
        with disk(out), quiet(), Interrupts() as interrupts, _deterministic(device):
            trainer = lightning.Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu",
                devices=[device.index or 0] if device.type == "cuda" else 1,
                precision=config.precision,  # type: ignore[arg-type]
                max_epochs=laps,  # what Lightning calls an epoch is a lap here
                limit_train_batches=1.0 if laps else 0,
                reload_dataloaders_every_n_epochs=1,
                num_sanity_val_steps=-1 if to_validate else 0,
                accumulate_grad_batches=plan.accumulate,
                gradient_clip_val=config.clip or None,
                log_every_n_steps=1,
                logger=[table, TensorBoardLogger(out, name="", version="tensorboard", purge_step=step + 1)],
                callbacks=[Keeper(out, interrupts, bar)],
                plugins=[SafetensorsIO()],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                default_root_dir=out,
            )
            trainer.fit(
                module,
                ckpt_path=str(out / "checkpoint.safetensors") if progress.batches else None,
                weights_only=False,
            )
    except Stopped as stop:
        raise KeyboardInterrupt from stop
    finally:
        bar.close()
        table.close()


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms where they cost nothing: on the CPU."""
    if device.type != "cpu" or torch.are_deterministic_algorithms_enabled():
        yield
        return
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # every torch.empty would be filled otherwise
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        settings.fill_uninitialized_memory = fill
