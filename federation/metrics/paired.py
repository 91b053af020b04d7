"""Comparing two models on the same patients: how closely their AUROCs hang together.

Two models that score the same patients err on the same patients, so their difference is known far
better than either. Only the site can tell how closely: it sends the correlation of the two AUROCs,
rounded down, which makes the interval of the difference too wide rather than too narrow.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.metrics.discrimination import auroc
from federation.metrics.estimate import SINGLE, Estimate, Z
from federation.metrics.grid import Floats
from federation.metrics.intervals import delong_variance
from federation.metrics.summary import ScoreSummary

ALIKE = "no interval: both models rank the patients alike"
STEPS = 100
"""A correlation is told to a hundredth."""


def auroc_correlation(first: ArrayLike, second: ArrayLike, labels: ArrayLike) -> float | None:
    """Correlation of two models' AUROCs on the same patients, rounded down to a hundredth.

    Args:
        first: (patients,) scores of one model, or the bins they fall into.
        second: (patients,) of the other.
        labels: (patients,) 0 or 1.

    Returns:
        The correlation; None where it is not defined: fewer than two patients of a class, or a
        model whose AUROC does not vary (a perfect ranking, or no ranking).

    Source: DeLong et al., Biometrics 1988; by midranks, Sun and Xu, IEEE Signal Processing Letters
    2014.
    """
    y = np.asarray(labels)
    positive, negative = y == 1, y == 0
    n1, n0 = int(positive.sum()), int(negative.sum())
    if min(n1, n0) < 2:
        return None
    of_positive, of_negative = [], []
    for scores in (np.asarray(first), np.asarray(second)):
        won, lost = _placements(scores[positive], scores[negative])
        of_positive.append(won)
        of_negative.append(lost)
    covariance = np.cov(of_positive) / n1 + np.cov(of_negative) / n0
    spread = float(covariance[0, 0] * covariance[1, 1])
    if spread <= 1e-18:
        return None
    correlation = float(covariance[0, 1]) / math.sqrt(spread)
    # the slack keeps a correlation of 1 from becoming 0.99 by its last bit
    return max(min(math.floor(correlation * STEPS + 1e-9) / STEPS, 1.0), -1.0)


def auroc_difference(
    first: ScoreSummary, second: ScoreSummary, correlation: float | None
) -> Estimate:
    """AUROC of one model minus that of another on the same patients, with its 95% interval.

    Args:
        first: the patients' summary under one model.
        second: under the other.
        correlation: of the two AUROCs; None if it is not known, and then they count as independent.
    """
    one, other = auroc(first), auroc(second)
    if one.value is None or other.value is None:
        return one if one.value is None else other
    value = one.value - other.value
    point = Estimate(value)
    if min(min(cell.positives, cell.negatives) for cell in (first, second)) < 2:
        return replace(point, reason=SINGLE)
    a, b = delong_variance(first), delong_variance(second)
    variance = a + b - 2 * (correlation or 0.0) * math.sqrt(a * b)
    if variance < 1e-12:
        return replace(point, reason=ALIKE)
    half = Z * math.sqrt(variance)
    low, high = max(value - half, -1.0), min(value + half, 1.0)
    return point.between(low, high, variance)


def _placements(
    positive: NDArray[np.generic], negative: NDArray[np.generic]
) -> tuple[Floats, Floats]:
    """Share of the other class that each positive beats, and by which each negative is beaten."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positive, negative]))
    among = np.concatenate([rankdata(positive), rankdata(negative)])
    others = ranks - among
    n1, n0 = len(positive), len(negative)
    return others[:n1] / n0, 1 - others[n1:] / n1
