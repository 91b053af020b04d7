"""What training minimises where no other patient may enter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from federation.study import Study


def patient_losses(study: Study) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the study's loss: logits and labels -> losses, (patients,).

    Differential privacy needs losses that no other patient enters; so of the weights of classes
    only those that the study gives, none that follow from labels.
    """
    task, section = study.task, study.training.loss

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        return task.minimised(labels[:0], section)(logits, labels)

    return losses
