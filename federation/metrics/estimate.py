"""A metric's value, its 95% interval, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from federation.metrics.grid import Floats, logit
from federation.metrics.summary import ScoreSummary

Z = 1.959963984540054
"""Normal quantile of a 95% interval."""

FEWEST_EVENTS = 5
"""Patients of each class below which a recalibration line means nothing."""

LEAST_VARIANCE = 1e-15

ONE_CLASS = "only one class"
NO_PATIENTS = "no patients"
ONE_BIN = "all patients share one score bin"
SINGLE = "no interval: a single patient of one class"
TIED = "no interval: all scores are tied"
CONSTANT = "no interval: it is the same whichever of these patients is left out"


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

    Where all patients share one bin, because bins were joined (``ScoreSummary.merged``) or the
    model gives everybody one score, 0.5 would be a ranking that nobody measured.
    """
    if reason := missing(summary):
        return reason
    return ONE_BIN if summary.counts.any(axis=0).sum() == 1 else ""


def missing(summary: ScoreSummary, classes: int = 2) -> str:
    """Why a metric that needs so many classes is undefined; empty if it is defined."""
    if summary.n == 0:
        return NO_PATIENTS
    return ONE_CLASS if classes == 2 and not 0 < summary.positives < summary.n else ""


def student(fewest: ArrayLike) -> Floats:
    """Return the quantile of a 95% interval from so many patients of the smaller class: (...,).

    >>> student([6, 1000]).round(2).tolist()
    [2.57, 1.96]
    """
    from scipy.special import stdtrit

    # With very few, Student's quantile would make intervals of everything.
    degrees = np.maximum(np.asarray(fewest, np.float64) - 1, FEWEST_EVENTS)
    return np.asarray(stdtrit(degrees, 0.975))


def logit_interval(value: Floats, variance: Floats, quantile: ArrayLike) -> tuple[Floats, Floats]:
    """Return intervals of metrics in (0, 1) from their variances, symmetric in the logit: (...,).

    Near 0 or 1, where plain intervals of AUPRC or Brier hold too seldom, these do.

    Args:
        value: the metrics; not a number comes of those that are 0 or 1.
        variance: of the metrics.
        quantile: normal or Student's.

    Source: Boyd, Eng and Page, ECML 2013.
    """
    inside = np.where((value > 0) & (value < 1), value, np.nan)
    middle = logit(inside)
    half = quantile * np.sqrt(variance) / (inside * (1 - inside))
    return 1 / (1 + np.exp(half - middle)), 1 / (1 + np.exp(-half - middle))
