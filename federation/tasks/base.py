"""What every kind of task says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from federation.metrics.summaries import Summary
from federation.training import LossSection
from federation.validation import Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Scores = NDArray[np.float64]
    Labels = NDArray[np.float32]
    Losses = Callable[[Tensor, Tensor], Tensor]


class Task(Section):
    """What is predicted of a patient.

    Labels of a task with one column are (patients,), of others (patients, columns); not a number
    is a label that is not known. Scores are risks in [0, 1], (patients,) or (patients, scores).

    Attributes:
        measured: what the task's models are measured by; the first is the usual one.
        stand_in: a number that may stand where a label is not known, in a loss that is dropped.
    """

    measured: ClassVar[tuple[str, ...]] = ("auroc", "auprc", "brier")
    stand_in: ClassVar[float] = 0.0

    kind: str
    label: str = Field(min_length=1)

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for a patient."""
        raise NotImplementedError

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The shape of one patient's label."""
        return ()

    @property
    def score_shape(self) -> tuple[int, ...]:
        """The shape of one patient's scores."""
        return ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """What ``selection.metric`` may be."""
        return self.measured

    def lower_is_better(self, metric: str) -> bool:
        """Whether the lowest value of a metric is the best."""
        return metric.rpartition(".")[2] in ("brier", "integrated_brier")

    @property
    def separable(self) -> bool:
        """Whether a patient's loss is that patient's alone, as privacy needs it."""
        return True

    @property
    def apart(self) -> Mapping[str, slice]:
        """Outcomes that may be known of a patient while others are not: their columns of labels.

        Empty where a patient without one of them is none of the task's.
        """
        return {}

    @property
    def weighs(self) -> tuple[str, ...]:
        """The outcomes that ``training.loss.class_weight`` can weigh."""
        return ()

    def losses(
        self, logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
    ) -> Tensor:
        """Return each patient's loss, (patients,).

        Args:
            logits: (patients,) or (patients, outputs).
            labels: of the same patients.
            loss: ``training.loss``.
            weights: of the outcomes, as ``weights`` returns them; None where all weigh alike.
        """
        raise NotImplementedError

    def weights(self, labels: Tensor, loss: LossSection) -> Tensor | None:
        """Return what the outcomes weigh, by the study or by a site's training labels."""
        return None

    def minimised(self, labels: Tensor, loss: LossSection) -> Losses:
        """Return what training minimises: logits and labels -> losses, (patients,).

        Args:
            labels: by which outcomes are weighed, where ``loss`` asks for that.
            loss: ``training.loss``.
        """
        weights = self.weights(labels, loss)
        return lambda logits, labels: self.losses(logits, labels, loss, weights)

    def scores(self, logits: Tensor) -> Tensor:
        """Return risks in [0, 1], as ``summarise`` takes them."""
        raise NotImplementedError

    def summarise(self, scores: Scores, labels: Labels) -> Summary:
        """Count the patients of one cell."""
        raise NotImplementedError

    def explains(self, summary: Summary) -> bool:
        """Whether a summary is one that ``summarise`` makes for this very task."""
        raise NotImplementedError

    def probe_labels(self, patients: int) -> Tensor:
        """Return made-up labels, to try the loss with before it sees a patient."""
        raise NotImplementedError

    def happened(self, labels: Labels) -> Labels:
        """Return 1 where a patient has the outcome, or any of them, else 0: (patients,)."""
        raise NotImplementedError

    def describe(self, labels: Labels) -> dict[str, Any]:
        """Return what a site's own check tells of the labels: counts by outcome."""
        raise NotImplementedError
