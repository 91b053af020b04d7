"""Several yes-or-no outcomes a patient, of which some may not be known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from federation.metrics.outcomes import OutcomesSummary
from federation.metrics.summary import ScoreSummary
from federation.tasks.base import Task
from federation.tasks.losses import binary_losses, positive_weights
from federation.tasks.names import OutcomeName, distinct
from federation.training import LossSection

if TYPE_CHECKING:
    from torch import Tensor

    from federation.metrics.summaries import Summary
    from federation.tasks.base import Labels, Scores

UNCERTAIN = -1.0


class MultilabelTask(Task):
    """Several findings a patient; labels are 0, 1, or not a number where one is not known.

    ``uncertain``: what a label of -1 counts as. ``blank``: what no label counts as. A patient
    without any known finding is left out.

    Source: Irvin et al., "CheXpert", AAAI 2019, for the four values of a label.
    """

    kind: Literal["multilabel"] = "multilabel"
    labels: tuple[OutcomeName, ...] = Field(min_length=2, max_length=64)
    uncertain: Literal["ignore", "zeros", "ones"] = "ignore"
    blank: Literal["negative", "missing"] = "negative"

    _distinct = field_validator("labels")(distinct)

    @property
    def outputs(self) -> int:
        """A logit a finding."""
        return len(self.labels)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A label a finding."""
        return (len(self.labels),)

    @property
    def score_shape(self) -> tuple[int, ...]:
        """A risk a finding."""
        return (len(self.labels),)

    @property
    def apart(self) -> Mapping[str, slice]:
        """Each finding."""
        return {name: slice(k, k + 1) for k, name in enumerate(self.labels)}

    @property
    def weighs(self) -> tuple[str, ...]:
        """The findings."""
        return self.labels

    def losses(
        self, logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
    ) -> Tensor:
        """The mean over all findings, of which one that is not known adds nothing."""
        known = ~labels.isnan()
        found = binary_losses(logits, labels.nan_to_num(), loss, weights)
        return found.where(known, found.new_zeros(())).mean(-1)

    def weights(self, labels: Tensor, loss: LossSection) -> Tensor | None:
        """See `Task`; (findings,)."""
        return positive_weights(labels, loss, self.labels)

    def scores(self, logits: Tensor) -> Tensor:
        """See `Task`; (patients, findings)."""
        return logits.sigmoid()

    def summarise(self, scores: Scores, labels: Labels) -> OutcomesSummary:
        """Each finding, of the patients in whom it is known."""
        import numpy as np

        known = ~np.isnan(labels)
        return OutcomesSummary(
            {
                name: ScoreSummary.from_scores(scores[known[:, k], k], labels[known[:, k], k])
                for k, name in enumerate(self.labels)
            }
        )

    def explains(self, summary: Summary) -> bool:
        """See `Task`."""
        return isinstance(summary, OutcomesSummary) and summary.names == set(self.labels)

    def probe_labels(self, patients: int) -> Tensor:
        """See `Task`; some are not known."""
        import torch

        places = torch.arange(patients).unsqueeze(1) + torch.arange(len(self.labels))
        return torch.where(places % 3 == 2, float("nan"), (places % 3).float())

    def happened(self, labels: Labels) -> Labels:
        """See `Task`."""
        found: Labels = (labels == 1).any(axis=1).astype(labels.dtype)
        return found

    def describe(self, labels: Labels) -> dict[str, Any]:
        """See `Task`."""
        return {
            "labels": {
                name: {
                    "known": int((labels[:, k] >= 0).sum()),
                    "positives": int((labels[:, k] == 1).sum()),
                }
                for k, name in enumerate(self.labels)
            }
        }
