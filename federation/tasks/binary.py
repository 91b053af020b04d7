"""One yes-or-no outcome a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from federation.metrics.summary import ScoreSummary
from federation.tasks.base import Task
from federation.tasks.losses import binary_losses, positive_weights
from federation.training import LossSection

if TYPE_CHECKING:
    from torch import Tensor

    from federation.metrics.summaries import Summary
    from federation.tasks.base import Labels, Scores

POSITIVE = "positive"


class BinaryTask(Task):
    """One yes-or-no outcome a patient; labels are 0 and 1."""

    kind: Literal["binary"] = "binary"

    @property
    def outputs(self) -> int:
        """One logit."""
        return 1

    @property
    def weighs(self) -> tuple[str, ...]:
        """What a patient with the outcome weighs beside one without."""
        return (POSITIVE,)

    def losses(
        self, logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
    ) -> Tensor:
        """See `Task`."""
        return binary_losses(logits, labels, loss, weights)

    def weights(self, labels: Tensor, loss: LossSection) -> Tensor | None:
        """Weight of a positive patient: a number; None where none is due."""
        found = positive_weights(labels.unsqueeze(-1), loss, self.weighs)
        return None if found is None else found[0]

    def scores(self, logits: Tensor) -> Tensor:
        """See `Task`; (patients,)."""
        return logits.sigmoid()

    def summarise(self, scores: Scores, labels: Labels) -> ScoreSummary:
        """See `Task`."""
        return ScoreSummary.from_scores(scores, labels)

    def explains(self, summary: Summary) -> bool:
        """See `Task`."""
        return isinstance(summary, ScoreSummary)

    def probe_labels(self, patients: int) -> Tensor:
        """See `Task`."""
        import torch

        return (torch.arange(patients) % 2).float()

    def happened(self, labels: Labels) -> Labels:
        """See `Task`."""
        return labels

    def describe(self, labels: Labels) -> dict[str, Any]:
        """See `Task`."""
        positives = int(labels.sum())
        return {"positives": positives, "prevalence": round(float(labels.mean()), 6)}
