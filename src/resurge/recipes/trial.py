"""Short trainings in memory, for claims: a model, batches that are made on the way, and the loss that comes out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resurge.layer import param_groups


def minimise(
    model: nn.Module,
    loss_of_batch: Callable[[], Tensor],
    *,
    steps: int,
    lr: float,
    lr_factor: float,
    weight_decay: float = 0.0,
) -> list[float]:
    """Train `model` by AdamW on `steps` batches, and give the loss of each; NaN from the step at which it diverged.

    The recurrence's own parameters learn at lr * lr_factor without decay; the learning rate rises over the first
    tenth of the steps and falls along a cosine; gradients are clipped at norm 1.
    """
    from resurge.training.plan import learning_rate

    recurrent, other = param_groups(model)
    groups = [
        {"params": recurrent, "scale": lr_factor, "weight_decay": 0.0},
        {"params": other, "scale": 1.0, "weight_decay": weight_decay},
    ]
    optimiser = torch.optim.AdamW(groups, lr)
    losses: list[float] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * learning_rate(step, steps, 0.1, lr)
        loss = loss_of_batch()
        if not bool(torch.isfinite(loss.detach())):
            return losses + [float("nan")] * (steps - step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses
