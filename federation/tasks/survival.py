"""The time until an outcome, where not everybody is followed until it happens."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from federation.metrics.survival import SurvivalSummary
from federation.tasks.base import Task
from federation.training import LossSection

if TYPE_CHECKING:
    from torch import Tensor

    from federation.metrics.summaries import Summary
    from federation.tasks.base import Labels, Scores

MOST_INTERVALS = 60
MOST_HORIZONS = 8


class SurvivalTask(Task):
    """The time until an outcome; labels are days, and whether the outcome ended them (1) or not.

    ``discrete``: the risk of each interval, of those who reach it. ``cox``: one risk a patient,
    which multiplies a hazard that is left open.

    Source: Gensheimer and Narasimhan, PeerJ 2019, for the discrete model; Cox, JRSS B 1972, with
    Breslow's likelihood of ties, Biometrics 1974.
    """

    measured: ClassVar[tuple[str, ...]] = ("c_index", "integrated_brier")
    stand_in: ClassVar[float] = -1.0
    """Days of nobody who was at risk when somebody had the outcome."""

    kind: Literal["survival"] = "survival"
    model: Literal["discrete", "cox"] = "discrete"
    intervals: tuple[PositiveFloat, ...] = Field(min_length=2, max_length=MOST_INTERVALS)
    horizons: tuple[PositiveFloat, ...] = Field(default=(), max_length=MOST_HORIZONS)

    @model_validator(mode="after")
    def _in_order(self) -> SurvivalTask:
        ends = self.intervals
        if any(first >= second for first, second in pairwise(ends)):
            raise ValueError("intervals: each end must be later than the one before")
        if strange := [h for h in self.horizons if h not in ends]:
            raise ValueError(
                f"horizons: {strange[0]:g} is not the end of one of the intervals, at which alone "
                "sites count"
            )
        if list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError("horizons: each must be later than the one before")
        return self

    @property
    def outputs(self) -> int:
        """A logit an interval; of Cox's model one."""
        return 1 if self.model == "cox" else len(self.intervals)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Days, and whether they end with the outcome."""
        return (2,)

    @property
    def score_shape(self) -> tuple[int, ...]:
        """A risk a horizon."""
        return (len(self.told_at),)

    @property
    def separable(self) -> bool:
        """Cox's likelihood compares a patient with all who were at risk."""
        return self.model == "discrete"

    @property
    def told_at(self) -> tuple[float, ...]:
        """The horizons: those given, or the last interval's end."""
        return self.horizons or self.intervals[-1:]

    def losses(
        self, logits: Tensor, labels: Tensor, loss: LossSection, weights: Tensor | None
    ) -> Tensor:
        """See `Task`; of Cox's model, a patient's part in the likelihood of the batch."""
        if self.model == "cox":
            return cox_losses(logits, labels)
        return interval_losses(self._of_intervals(logits), labels, self.intervals)

    def scores(self, logits: Tensor) -> Tensor:
        """The risk of the outcome by each horizon, (patients, horizons).

        Of Cox's model the one risk at every horizon, brought between 0 and 1: it ranks patients,
        and is no probability.
        """
        if self.model == "cox":
            return logits.sigmoid().unsqueeze(-1).expand(-1, len(self.told_at))
        risks = 1 - (1 - self._of_intervals(logits).sigmoid()).cumprod(-1)
        return risks[:, [self.intervals.index(h) for h in self.told_at]]

    def _of_intervals(self, logits: Tensor) -> Tensor:
        """Logits of the intervals' risks: a model that says 0 spreads about one event over all."""
        return logits - math.log(len(self.intervals))

    def summarise(self, scores: Scores, labels: Labels) -> SurvivalSummary:
        """See `Task`."""
        return SurvivalSummary.of(
            scores, labels[:, 0], labels[:, 1] == 1, self.intervals, self.told_at
        )

    def explains(self, summary: Summary) -> bool:
        """See `Task`."""
        if not isinstance(summary, SurvivalSummary):
            return False
        return (summary.intervals, summary.horizons) == (self.intervals, self.told_at)

    def probe_labels(self, patients: int) -> Tensor:
        """See `Task`."""
        import torch

        times = torch.linspace(0.0, self.intervals[-1] * 1.2, patients)
        return torch.stack([times, (torch.arange(patients) % 2).float()], 1)

    def happened(self, labels: Labels) -> Labels:
        """See `Task`."""
        ended: Labels = (labels[:, 1] == 1).astype(labels.dtype)
        return ended

    def describe(self, labels: Labels) -> dict[str, Any]:
        """See `Task`."""
        import numpy as np

        return {
            "events": int((labels[:, 1] == 1).sum()),
            "censored": int((labels[:, 1] == 0).sum()),
            "median follow-up in days": round(float(np.median(labels[:, 0])), 2),
        }


def interval_losses(logits: Tensor, labels: Tensor, intervals: tuple[float, ...]) -> Tensor:
    """Negative log-likelihood of the intervals that a patient was seen in, (patients,).

    An outcome counts in its interval, and everybody as without one in the intervals before. A
    patient who leaves in an interval counts in it if seen in half of it or more.

    Args:
        logits: (patients, intervals).
        labels: (patients, 2) days, and 1 where they end with the outcome.
        intervals: their ends in days.
    """
    import torch
    from torch.nn.functional import softplus

    days, happened = labels[:, :1], labels[:, 1:] == 1
    ends = torch.tensor(intervals, dtype=labels.dtype, device=labels.device)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    within = happened & (days <= ends) & ((days > starts) | (starts == 0))
    middle = (starts + ends) / 2
    survived = torch.where(happened, days > ends, days >= middle)
    return (within * softplus(-logits) + survived * softplus(logits)).sum(-1)


def cox_losses(risks: Tensor, labels: Tensor) -> Tensor:
    """Each patient's part in Cox's partial likelihood of a batch, (patients,).

    Args:
        risks: (patients,) logarithms of relative hazards.
        labels: (patients, 2) days, and 1 where they end with the outcome.
    """
    days, happened = labels[:, 0], labels[:, 1]
    at_risk = days.unsqueeze(0) >= days.unsqueeze(1)
    together = risks.unsqueeze(0).masked_fill(~at_risk, float("-inf")).logsumexp(-1)
    return happened * (together - risks)
