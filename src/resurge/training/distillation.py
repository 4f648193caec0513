"""Learning from a teacher: the loss of a student that is told not only what came, but what might have come."""

import math

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from resurge.errors import ResurgeError


def distillation_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, *, kappa: float = 0.5, tau: float = 1.0
) -> Tensor:
    r"""The mean over all targets of cross-entropy and divergence from the teacher's probabilities, in nats.

        (1 - κ) CE(s, target) + κ τ² KL(softmax(t / τ) || softmax(s / τ))

    τ² keeps the gradient of the second part of one size for every τ. The teacher's logits are constants.

    Args:
        student: logits s (..., V).
        teacher: logits t (..., V) at the same places.
        targets: (...) int64; -100 where nothing is asked.
        kappa: share κ of the teacher, in [0, 1].
        tau: temperature τ, positive.

    Raises:
        ResurgeError: shapes that do not fit each other, or a number out of range.

    Source: arXiv 1503.02531; of language models trained on few words, "BabyHGRN", arXiv 2412.15978.
    """
    if student.shape != teacher.shape or student.shape[:-1] != targets.shape:
        raise ResurgeError(
            f"student, teacher and targets must have shapes (..., V), (..., V) and (...), and have"
            f" {tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(targets.shape)}"
        )
    if not 0 <= kappa <= 1 or not 0 < tau < math.inf:
        raise ResurgeError(f"kappa must lie in [0, 1] and tau be positive and finite, and they are {kappa} and {tau}")
    asked = targets != -100
    s, t = student[asked], teacher[asked].detach()
    divergence = kl_div(log_softmax(s / tau, -1), log_softmax(t / tau, -1), reduction="batchmean", log_target=True)
    return (1 - kappa) * cross_entropy(s, targets[asked]) + kappa * tau**2 * divergence
