"""What decisions at a threshold are worth: net benefit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from federation.metrics.estimate import NO_PATIENTS, Estimate
from federation.metrics.intervals import wilson_interval
from federation.metrics.summary import THRESHOLDS, Confusion, ScoreSummary


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit at one threshold, beside treating everyone; treating no one is worth 0."""

    threshold: float
    estimate: Estimate
    treat_all: float | None

    def to_json(self) -> dict[str, Any]:
        """Threshold, value, interval and the value of treating everyone."""
        treat_all = None if self.treat_all is None else round(self.treat_all, 6) + 0.0
        return {"threshold": self.threshold, **self.estimate.to_json(), "treat_all": treat_all}


def net_benefit(
    summary: ScoreSummary, thresholds: Sequence[float] = THRESHOLDS
) -> list[NetBenefit]:
    """True positives less false positives at the exchange rate of the threshold, per patient.

    Raises:
        ValueError: if a threshold is not an edge of the grid.

    Source: Vickers and Elkin, Medical Decision Making 2006.

    >>> [point] = net_benefit(ScoreSummary.from_scores([0.1, 0.6, 0.8], [0, 0, 1]), [0.5])
    >>> point.estimate.value, round(point.treat_all, 3)
    (0.0, -0.333)
    """
    if summary.n == 0:
        return [NetBenefit(at, Estimate.undefined(NO_PATIENTS), None) for at in thresholds]
    prevalence = summary.positives / summary.n
    return [
        NetBenefit(
            at,
            benefit(summary.confusion(at), at),
            prevalence - (1 - prevalence) * at / (1 - at),
        )
        for at in thresholds
    ]


def benefit(confusion: Confusion, threshold: float) -> Estimate:
    """Net benefit of decisions at one threshold below 1, with its 95% interval.

    The Wilson intervals of the shares of true and false positives are put together, with their
    correlation. Resampling would not do: where few are called positive, it only repeats those who
    happened to be.

    Source: Zou and Donner, Statistics in Medicine 2008.

    >>> benefit(Confusion(tp=3, fp=1, tn=5, fn=1), 0.5).value
    0.2
    """
    n = confusion.n
    if not n:
        return Estimate.undefined(NO_PATIENTS)
    odds = threshold / (1 - threshold)
    hits, alarms = confusion.tp / n, confusion.fp / n
    value = (confusion.tp - odds * confusion.fp) / n
    (hits_low, hits_high), (alarms_low, alarms_high) = (
        wilson_interval(share, n) for share in (hits, alarms)
    )
    spread = hits * (1 - hits) * alarms * (1 - alarms)
    correlation = -hits * alarms / math.sqrt(spread) if spread > 0 else 0.0

    def reach(of_hits: float, of_alarms: float) -> float:
        both = of_hits**2 + of_alarms**2 - 2 * correlation * of_hits * of_alarms
        return math.sqrt(max(both, 0.0))

    below = reach(hits - hits_low, odds * (alarms_high - alarms))
    above = reach(hits_high - hits, odds * (alarms - alarms_low))
    return Estimate(value).between(value - below, value + above)
