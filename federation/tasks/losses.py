"""Losses of a patient's own outputs, and what outcomes weigh in them.

Each is a number a patient that no other patient enters, as differential privacy needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from federation.training import LossSection

if TYPE_CHECKING:
    from torch import Tensor


def binary_losses(
    logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
) -> Tensor:
    """Return the cross-entropy of yes-or-no outcomes, one for each logit.

    Args:
        logits: of any shape.
        labels: likewise; 0 or 1.
        loss: ``smoothing`` moves labels towards one half; ``focal`` multiplies by what is missing
            from the probability of the truth, to the power ``gamma``.
        weights: of a label 1, as many as the last dimension has; None for 1.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017; Szegedy et al., CVPR
    2016, for smoothing.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    smoothed = labels * (1 - loss.smoothing) + loss.smoothing / 2 if loss.smoothing else labels
    found = binary_cross_entropy_with_logits(logits, smoothed, reduction="none", pos_weight=weights)
    if loss.name == "focal":
        probability = logits.sigmoid()
        missing = labels * (1 - probability) + (1 - labels) * probability
        found = found * missing**loss.focus
    return found


def class_losses(
    logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
) -> Tensor:
    """Return the cross-entropy of one class of several, (patients,).

    Args:
        logits: (patients, classes).
        labels: (patients,) numbers of classes.
        loss: as for ``binary_losses``; ``smoothing`` is spread evenly over all classes.
        weights: (classes,) of a patient of each class; None for 1.
    """
    from torch.nn.functional import one_hot

    logs = logits.log_softmax(-1)
    true = one_hot(labels.long(), logits.shape[-1]).to(logits.dtype)
    aimed = true * (1 - loss.smoothing) + loss.smoothing / logits.shape[-1]
    found = -(aimed * logs).sum(-1)
    if loss.name == "focal":
        found = found * (1 - (true * logs.exp()).sum(-1)) ** loss.focus
    if weights is not None:
        found = found * (true * weights).sum(-1)
    return found


def positive_weights(labels: Tensor, loss: LossSection, outcomes: Sequence[str]) -> Tensor | None:
    """Return what a label 1 weighs beside a label 0, (outcomes,); None where all weigh 1.

    ``balanced`` makes both weigh alike among a site's training patients; an outcome of which a
    site has one label alone weighs 1 there.

    Args:
        labels: (patients, outcomes) 0, 1, or not a number where it is not known.
        loss: ``class_weight``.
        outcomes: their names.
    """
    import torch

    if loss.class_weight == "none":
        return None
    if loss.class_weight != "balanced":
        return torch.tensor([float(loss.class_weight.get(name, 1.0)) for name in outcomes])
    positives = (labels == 1).sum(0).double()
    negatives = (labels == 0).sum(0).double()
    if not bool(((positives > 0) & (negatives > 0)).any()):
        return None
    ratio = negatives / positives
    return torch.where((positives > 0) & (negatives > 0), ratio, 1.0).float()


def class_weights(labels: Tensor, loss: LossSection, classes: Sequence[str]) -> Tensor | None:
    """Return what a patient of each class weighs, (classes,); None where all weigh 1.

    ``balanced`` makes the classes weigh alike among a site's training patients, and all patients
    together as much as without weights.
    """
    import torch

    if loss.class_weight == "none":
        return None
    if loss.class_weight != "balanced":
        return torch.tensor([float(loss.class_weight.get(name, 1.0)) for name in classes])
    counts = torch.bincount(labels.long(), minlength=len(classes)).double()
    present = int((counts > 0).sum())
    balanced = counts.sum() / (present * counts)
    return torch.where(counts > 0, balanced, 1.0).float()
