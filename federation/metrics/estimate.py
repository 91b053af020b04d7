"""A metric's value, its 95% interval, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from federation.metrics.summary import ScoreSummary

Z = 1.959963984540054
"""Normal quantile of a 95% interval."""

ONE_CLASS = "only one class"
NO_PATIENTS = "no patients"
ONE_BIN = "all patients share one score bin"


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
