"""A task as a Lightning data module."""

import lightning

from resurge.data.base import Splits, Task
from resurge.data.loader import BatchLoader


class DataModule(lightning.LightningDataModule):
    """Train, validation and test batches of a task, for Lightning's Trainer.

    Args:
        task: where the data comes from; loaded once, at `setup`.
        batch_size: items a training batch.
        eval_batch_size: items a batch of validation and test, which come in order.
        seed: of the order of the training items.
    """

    splits: Splits

    def __init__(self, task: Task, batch_size: int, eval_batch_size: int, seed: int = 0) -> None:
        super().__init__()
        self.task, self.batch_size, self.eval_batch_size, self.seed = task, batch_size, eval_batch_size, seed

    def prepare_data(self) -> None:
        """Fetch or generate the data, once a machine."""
        if not self.task.present():
            self.task.prepare()

    def setup(self, stage: str = "") -> None:
        """Load the data, at the first call."""
        if not hasattr(self, "splits"):
            self.splits = self.task.load()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled anew in each epoch."""
        return BatchLoader(self.splits.train, self.batch_size, shuffle=True, seed=self.seed)

    def val_dataloader(self) -> BatchLoader:
        """In order."""
        return BatchLoader(self.splits.val, self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> BatchLoader:
        """In order."""
        return BatchLoader(self.splits.test, self.eval_batch_size, shuffle=False)
