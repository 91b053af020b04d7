"""A metric's value, its 95% interval, or the reason why it has none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from federation.metrics.summary import EDGES, ScoreSummary

ONE_CLASS = "only one class"
NO_PATIENTS = "no patients"
ONE_GROUP = "too few patients"


@dataclass(frozen=True)
class Estimate:
    """One metric of one cell.

    Args:
        value: the point estimate; None if it is undefined, never a neutral-looking stand-in.
        low: lower end of the 95% interval, None if there is none.
        high: upper end.
        reason: why there is no value, or no interval.
        variance: sampling variance, for averages over sites.

    >>> Estimate.undefined("only one class").to_json()
    {'value': None, 'low': None, 'high': None, 'reason': 'only one class'}
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    variance: float | None = None

    @classmethod
    def undefined(cls, reason: str) -> Estimate:
        """A metric that cannot be computed."""
        return cls(None, reason=reason)

    def between(self, low: float, high: float, variance: float | None = None) -> Estimate:
        """The same value with an interval, widened where needed to hold the value."""
        if self.value is None:
            return self
        return replace(
            self, low=min(low, self.value), high=max(high, self.value), variance=variance
        )

    def to_json(self) -> dict[str, Any]:
        """Strict JSON, to six decimals: beyond what any cell of patients supports."""
        document: dict[str, Any] = {
            key: None if number is None else round(number, 6) + 0.0  # + 0.0: no "-0.0"
            for key, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return {**document, "reason": self.reason} if self.reason else document


def unranked(summary: ScoreSummary) -> str:
    """Why patients cannot be ranked; empty if they can.

    Where joined bins (``ScoreSummary.merged``) leave a single group of differing scores, a ranking
    metric would be that of a model that ranks at random, which nobody measured.
    """
    if reason := missing(summary):
        return reason
    occupied = np.flatnonzero(summary.counts.any(axis=0))
    mean = summary.score_sum / summary.n
    spread = math.sqrt(max(summary.score_square_sum / summary.n - mean**2, 0.0))
    width = EDGES[occupied[0] + 1] - EDGES[occupied[0]]
    return ONE_GROUP if len(occupied) == 1 and spread > width else ""


def missing(summary: ScoreSummary, classes: int = 2) -> str:
    """Why a metric that needs so many classes is undefined; empty if it is defined."""
    if summary.n == 0:
        return NO_PATIENTS
    return ONE_CLASS if classes == 2 and not 0 < summary.positives < summary.n else ""
