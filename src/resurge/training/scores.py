"""What a model is trained by and what it is judged by, for each kind of target."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resurge.data.base import Batch, InputSpec, Split
from resurge.memory import FreedMemory
from resurge.state import select

METRICS = {"class": "accuracy", "value": "mse", "next_token": "bits_per_token", "answers": "accuracy"}


def metric_name(spec: InputSpec) -> str:
    """The figure that validation goes by: "accuracy", "mse", "bits_per_byte" or "bits_per_token"."""
    return "bits_per_byte" if spec.target == "next_token" and spec.encoding == "bytes" else METRICS[spec.target]


def better(spec: InputSpec, found: dict[str, float], than: dict[str, float]) -> bool:
    """Whether metrics beat others: a better figure, or the same at a smaller loss. Anything beats {}; equals do not.

    The loss decides between equals because a few dozen validation items are soon all told right.
    """
    name = metric_name(spec)
    if not than or math.isnan(than["loss"]):
        return True
    if found[name] == than[name]:
        return found["loss"] < than["loss"]
    return found[name] > than[name] if name == "accuracy" else found[name] < than[name]


def measure(outputs: Tensor, batch: Batch, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch, and the sums (3,) that metrics are made of: loss, hits, and what was counted.

    Cross-entropy in nats for classes, answers and next tokens, the squared error for values. Counted are sequences,
    values, answers or tokens.
    """
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    hits = outputs.new_zeros(())
    if spec.target == "class":
        loss = cross_entropy(outputs, batch.targets)
        count = len(batch.targets)
        hits = (outputs.detach().argmax(-1) == batch.targets).sum()
    elif spec.target == "value":
        loss = (outputs - batch.targets).square().mean()
        count = outputs.numel()
    elif spec.target == "answers":
        asked = batch.targets >= 0
        outputs, targets = outputs[asked], batch.targets[asked]
        loss = cross_entropy(outputs, targets)
        count = len(targets)
        hits = (outputs.detach().argmax(-1) == targets).sum()
    else:
        targets = batch.targets
        if batch.lengths is not None:
            padding = torch.arange(targets.shape[1], device=targets.device) >= batch.lengths[:, None]
            targets = targets.masked_fill(padding, -100)  # cross_entropy leaves such targets out
        loss = cross_entropy(outputs.flatten(0, 1), targets.flatten())
        count = targets.numel() if batch.lengths is None else int(batch.lengths.sum())
    return loss, torch.stack([loss.detach() * count, hits.to(loss.dtype), torch.full_like(loss.detach(), count)])


def metrics(sums: Tensor, spec: InputSpec) -> dict[str, float]:
    """The metrics that sums of `measure` amount to."""
    total, hits, count = sums.tolist()
    loss = total / max(count, 1)
    share = hits / max(count, 1)
    value = {"class": share, "answers": share, "value": loss, "next_token": loss / math.log(2)}[spec.target]
    return {"loss": loss, metric_name(spec): value}


class InOrder:
    """The batches of a split for evaluation, each item once.

    Args:
        rows: items a batch.
        carry: the items are windows of one text, in order. Then row b of all batches runs through a stretch of its
            own, batch by batch, so that the state can be carried from each batch to the next; the last batch may
            have fewer rows, the first of the one before.
    """

    def __init__(self, split: Split, rows: int, *, carry: bool) -> None:
        self.split, self.carry = split, carry
        self.rows = max(1, min(rows, len(split)))

    def __len__(self) -> int:
        return -(-len(self.split) // self.rows)

    def __iter__(self) -> Iterator[Batch]:
        items = torch.arange(len(self.split))
        if self.carry:
            length, longer = divmod(len(items), self.rows)
            row = torch.arange(self.rows)
            starts = row * length + row.clamp(max=longer)  # the first `longer` rows have one window more
            for column in range(len(self)):
                yield self.split.batch(starts[: self.rows if column < length else longer] + column)
        else:
            for indices in items.split(self.rows):
                yield self.split.batch(indices)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on `device`."""
    lengths = None if batch.lengths is None else batch.lengths.to(device)
    return Batch(batch.inputs.to(device), batch.targets.to(device), lengths)


def advance(model: nn.Module, batch: Batch, state: object, spec: InputSpec) -> tuple[Tensor, object]:
    """The outputs for one batch of `InOrder`, and the state for the next one: None unless windows of text go on."""
    if spec.target == "next_token" and state is not None:
        state = select(state, slice(0, len(batch.inputs)))
    outputs, after = model(batch.inputs, state, lengths=batch.lengths)
    return outputs, after if spec.target == "next_token" else None


@torch.no_grad()
def evaluate_split(
    model: nn.Module, split: Split, spec: InputSpec, batch_size: int, device: torch.device
) -> dict[str, float]:
    """The metrics of a model over a whole split. The model is left in evaluation mode."""
    model.eval().to(device)
    carry = spec.target == "next_token"
    sums = torch.zeros(3, dtype=torch.float64)
    state: object = None
    freed = FreedMemory()
    for batch in InOrder(split, batch_size, carry=carry):
        batch = to_device(batch, device)
        outputs, state = advance(model, batch, state, spec)
        sums += measure(outputs, batch, spec)[1].double().cpu()
        freed.after(batch.steps)
    return metrics(sums, spec)
