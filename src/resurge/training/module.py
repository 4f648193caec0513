"""The Lightning side of a model: one training step, one validation step, the optimiser."""

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from resurge.data.base import Batch, InputSpec, Splits
from resurge.data.loader import BatchLoader
from resurge.layer import param_groups
from resurge.recipes.base import TrainConfig
from resurge.training.plan import Lap, Plan, Progress, learning_rate, seed_for
from resurge.training.scores import InOrder, advance, measure, metrics


class TrainingModule(lightning.LightningModule):
    """A model in training.

    `progress` is the run's position; the module reads it, `Keeper` moves it on.
    """

    def __init__(
        self, model: nn.Module, splits: Splits, config: TrainConfig, plan: Plan, progress: Progress, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.splits, self.config, self.plan, self.progress, self.seed = splits, config, plan, progress, seed
        self.spec: InputSpec = splits.spec
        self.loader = BatchLoader(splits.train, config.batch_size, shuffle=True, seed=seed)
        self.tokens = 0  # steps of sequences seen by this process
        self._val_sums = torch.zeros(3)
        self._val_state: Any = None

    def train_dataloader(self) -> Lap:
        return Lap(self.loader, self.plan, self.progress)

    def val_dataloader(self) -> InOrder:
        return InOrder(self.splits.val, self.config.eval_batch_size, carry=self.spec.target == "next_token")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_for(self.seed, self.progress.batches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outputs, _ = self.model(batch.inputs, lengths=batch.lengths)
        loss, sums = measure(outputs, batch, self.spec)
        self.progress.sums = self.progress.sums.to(sums.device) + sums
        self.tokens += batch.steps
        return loss

    def on_validation_start(self) -> None:
        self._val_sums = torch.zeros(3, dtype=torch.float64)
        self._val_state = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs, self._val_state = advance(self.model, batch, self._val_state, self.spec)
        self._val_sums += measure(outputs, batch, self.spec)[1].double().cpu()

    def validation_metrics(self) -> dict[str, float]:
        """The metrics of the validation just done."""
        return metrics(self._val_sums, self.spec)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = param_groups(self.model)
        config = self.config
        return torch.optim.AdamW(
            [
                {"params": groups.recurrent, "weight_decay": 0.0, "share": config.lr_factor},
                {"params": groups.other, "weight_decay": config.weight_decay, "share": 1.0},
            ],
            lr=config.lr,
            fused=config.precision == "32-true",  # Lightning does not clip for a fused optimiser in mixed precision
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(group["share"])

    def learning_rate(self, share: float = 1.0) -> float:
        """The learning rate of the present step for parameters that learn at `share` of it."""
        step = self.plan.step(self.progress.batches)
        return learning_rate(step, self.plan.steps, self.config.warmup, self.config.lr * share)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = vars(self.progress)
        # Lightning's own counters count since the process began, and are not used; see Lap
        checkpoint["global_step"] = self.plan.step(self.progress.batches)
        checkpoint["epoch"] = self.progress.batches // self.plan.batches_an_epoch
        del checkpoint["loops"]
