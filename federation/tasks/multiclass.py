"""One of several classes a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from federation.metrics.outcomes import Agreement, OutcomesSummary
from federation.metrics.summary import ScoreSummary
from federation.tasks.base import Task
from federation.tasks.losses import class_losses, class_weights
from federation.tasks.names import OutcomeName, distinct
from federation.training import LossSection

if TYPE_CHECKING:
    from torch import Tensor

    from federation.metrics.summaries import Summary
    from federation.tasks.base import Labels, Scores


class MulticlassTask(Task):
    """One of several classes a patient; labels are the classes' numbers, from 0."""

    kind: Literal["multiclass"] = "multiclass"
    classes: tuple[OutcomeName, ...] = Field(min_length=3, max_length=64)

    _distinct = field_validator("classes")(distinct)

    @property
    def outputs(self) -> int:
        """A logit a class."""
        return len(self.classes)

    @property
    def score_shape(self) -> tuple[int, ...]:
        """A risk a class."""
        return (len(self.classes),)

    @property
    def weighs(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    def losses(
        self, logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
    ) -> Tensor:
        """See `Task`."""
        return class_losses(logits, labels, loss, weights)

    def weights(self, labels: Tensor, loss: LossSection) -> Tensor | None:
        """See `Task`; (classes,)."""
        return class_weights(labels, loss, self.classes)

    def scores(self, logits: Tensor) -> Tensor:
        """See `Task`; (patients, classes), which add up to 1."""
        return logits.softmax(-1)

    def summarise(self, scores: Scores, labels: Labels) -> OutcomesSummary:
        """Each class against the others, and how the likeliest class agrees with the true one."""
        return OutcomesSummary(
            {
                name: ScoreSummary.from_scores(scores[:, k].clip(0.0, 1.0), labels == k)
                for k, name in enumerate(self.classes)
            },
            agreement=Agreement.of(labels.astype(int), scores.argmax(1), len(self.classes)),
        )

    def explains(self, summary: Summary) -> bool:
        """See `Task`."""
        return isinstance(summary, OutcomesSummary) and summary.names == set(self.classes)

    def probe_labels(self, patients: int) -> Tensor:
        """See `Task`."""
        import torch

        return (torch.arange(patients) % len(self.classes)).float()

    def happened(self, labels: Labels) -> Labels:
        """See `Task`; any class but the first."""
        return (labels > 0).astype(labels.dtype)

    def describe(self, labels: Labels) -> dict[str, Any]:
        """See `Task`."""
        counts = {name: int((labels == k).sum()) for k, name in enumerate(self.classes)}
        return {"classes": counts}
