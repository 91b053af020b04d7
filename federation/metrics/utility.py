"""What decisions at a threshold are worth: net benefit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.metrics.discrimination import Tables
from federation.metrics.estimate import NO_PATIENTS, Estimate
from federation.metrics.summary import EDGES, THRESHOLDS, Floats, ScoreSummary, edge_index


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
    values = net_benefit_of(summary.counts, EDGES[:-1], thresholds)
    prevalence = summary.positives / summary.n
    return [
        NetBenefit(at, Estimate(float(value)), prevalence - (1 - prevalence) * at / (1 - at))
        for at, value in zip(thresholds, values, strict=True)
    ]


def net_benefit_of(tables: Tables, lower: Floats, thresholds: Sequence[float]) -> Floats:
    """Net benefit of each table at each threshold: (..., thresholds).

    Args:
        tables: (..., 2, bins), label by ascending score bin; none may be empty.
        lower: (bins,) lower edges of the bins.
        thresholds: edges of the grid.
    """
    at = np.array([EDGES[edge_index(threshold)] for threshold in thresholds])
    counts = np.asarray(tables, np.float64)
    # patients at or above each threshold, from one pass of sums: (..., 2, thresholds)
    above = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    above = np.concatenate([above, np.zeros((*above.shape[:-1], 1))], axis=-1)
    above = above[..., np.searchsorted(lower, at)]
    patients = counts.sum(axis=(-1, -2))[..., None]
    return np.asarray((above[..., 1, :] - above[..., 0, :] * at / (1 - at)) / patients)
