"""What decisions at a threshold are worth: net benefit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.metrics.column import Column, plain
from federation.metrics.estimate import NO_PATIENTS, Estimate
from federation.metrics.grid import THRESHOLDS, Floats
from federation.metrics.intervals import wilson
from federation.metrics.stack import Stack, stack_of
from federation.metrics.summary import Confusion, ScoreSummary


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit at one threshold, beside treating everyone; treating no one is worth 0."""

    threshold: float
    estimate: Estimate
    treat_all: float | None


@dataclass(frozen=True, eq=False)
class BenefitCurves:
    """Net benefit of many cells over thresholds.

    Args:
        thresholds: (thresholds,).
        benefit: of (cells x thresholds), a cell's thresholds one after the other.
        treat_all: (cells, thresholds) what treating everyone is worth.
    """

    thresholds: tuple[float, ...]
    benefit: Column
    treat_all: Floats

    def to_json(self) -> list[list[dict[str, Any]]]:
        """For each cell, by threshold: value, interval and the value of treating everyone."""
        benefit, ats = self.benefit, self.thresholds * len(self.treat_all)
        numbers = map(plain, (benefit.value, benefit.low, benefit.high, self.treat_all.ravel()))
        # written out, because it is most of what metrics.json holds
        points: list[dict[str, Any]] = [
            {"threshold": at, "value": value, "low": low, "high": high, "treat_all": treat_all}
            for at, value, low, high, treat_all in zip(ats, *numbers, strict=True)
        ]
        for point, reason in zip(points, benefit.reasons, strict=True):
            if reason:
                point["reason"] = reason
        width = len(self.thresholds)
        return [points[start : start + width] for start in range(0, len(points), width)]


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
    curves = benefit_curves(stack_of(summary), thresholds)
    return [
        NetBenefit(at, curves.benefit.at(k), float(value) if summary.n else None)
        for k, (at, value) in enumerate(zip(thresholds, curves.treat_all[0], strict=True))
    ]


def benefit_curves(stack: Stack, thresholds: Sequence[float] = THRESHOLDS) -> BenefitCurves:
    """As ``net_benefit``, of many cells."""
    edges = np.array([stack.scale.index(at) for at in thresholds])
    below = np.concatenate(
        [np.zeros_like(stack.full[..., :1]), stack.full.cumsum(axis=-1)], axis=-1
    )
    alarmed = below[..., -1:] - below[..., edges]
    n, ats = stack.n[:, None], np.array(thresholds)
    shape = (len(n), len(ats))
    prevalence = stack.positives[:, None] / np.where(n > 0, n, np.nan)
    return BenefitCurves(
        tuple(thresholds),
        benefits(
            alarmed[:, 1].ravel().astype(np.float64),
            alarmed[:, 0].ravel().astype(np.float64),
            np.broadcast_to(n, shape).ravel(),
            np.broadcast_to(ats, shape).ravel(),
        ),
        prevalence - (1 - prevalence) * ats / (1 - ats),
    )


def benefit(confusion: Confusion, threshold: float) -> Estimate:
    """Net benefit of decisions at one threshold below 1, with its 95% interval.

    The Wilson intervals of the shares of true and false positives are put together, with their
    correlation. Resampling would not do: where few are called positive, it only repeats those who
    happened to be.

    Source: Zou and Donner, Statistics in Medicine 2008.

    >>> benefit(Confusion(tp=3, fp=1, tn=5, fn=1), 0.5).value
    0.2
    """
    tp, fp, n = (np.array([one], np.float64) for one in (confusion.tp, confusion.fp, confusion.n))
    return benefits(tp, fp, n, np.array([threshold])).at(0)


def benefits(tp: Floats, fp: Floats, n: Floats, thresholds: Floats) -> Column:
    """As ``benefit``, of many cells or thresholds: (cells,) each."""
    patients, odds = np.maximum(n, 1), thresholds / (1 - thresholds)
    hits, alarms = tp / patients, fp / patients
    value = (tp - odds * fp) / patients
    (hits_low, alarms_low), (hits_high, alarms_high) = wilson(np.stack([hits, alarms]), patients)
    spread = hits * (1 - hits) * alarms * (1 - alarms)
    correlation = -hits * alarms / np.sqrt(np.where(spread > 0, spread, np.inf))

    def reach(of_hits: Floats, of_alarms: Floats) -> Floats:
        both = of_hits**2 + of_alarms**2 - 2 * correlation * of_hits * of_alarms
        return np.sqrt(np.maximum(both, 0.0))

    below = reach(hits - hits_low, odds * (alarms_high - alarms))
    above = reach(hits_high - hits, odds * (alarms - alarms_low))
    return Column.of(value, value - below, value + above, undefined=[(n == 0, NO_PATIENTS)])
