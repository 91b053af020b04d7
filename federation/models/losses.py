"""What training minimises."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def patient_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each patient's own binary cross-entropy, (patients,).

    Differential privacy needs losses that no other patient enters.
    """
    return binary_cross_entropy_with_logits(logits, labels, reduction="none")
