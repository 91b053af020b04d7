"""95% intervals from counts: DeLong for AUROC, jackknife for AUPRC, scores for shares.

A bin is a tie of its patients, so DeLong's variance of the tied scores is computed from the table
itself. All are computed on many cells at once (``stack``), and hold about as often as a bootstrap
of the patients; benchmarks/coverage.py counts how often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from federation.metrics.column import Column
from federation.metrics.discrimination import (
    auprc_of,
    auprc_variance,
    auroc_of,
    sensitivity_of,
    specificity_of,
)
from federation.metrics.estimate import (
    CONSTANT,
    LEAST_VARIANCE,
    SINGLE,
    TIED,
    Estimate,
    Z,
    logit_interval,
)
from federation.metrics.grid import Floats
from federation.metrics.stack import Stack, stack_of, unranked
from federation.metrics.summary import ScoreSummary


def delong(summary: ScoreSummary, z: float = Z) -> Estimate:
    """AUROC with DeLong's interval on the logit scale, by default of 95%.

    At an AUROC of 0 or 1 the variance is 0 and the logit infinite: Newcombe's interval then. Scores
    that are all tied have no interval.

    Source: DeLong et al., Biometrics 1988; Newcombe, Statistics in Medicine 2006, method 5.
    """
    return aurocs(stack_of(summary), z).at(0)


def delong_variance(summary: ScoreSummary) -> float:
    """Variance of the AUROC from the placements of each bin; at least two of each class."""
    return float(_delong_variances(stack_of(summary).tables)[0])


def aurocs(stack: Stack, z: float = Z) -> Column:
    """AUROC of each cell with its interval, as ``delong``."""
    value = auroc_of(stack.tables)
    variance = _delong_variances(stack.tables)
    low, high = logit_interval(value, variance, z)
    extreme = (value <= 0) | (value >= 1)
    if extreme.any():
        negatives, positives = stack.negatives[extreme], stack.positives[extreme]
        low[extreme], high[extreme] = _newcombe(value[extreme], negatives, positives, z)
        variance[extreme] = ((high - low)[extreme] / (2 * z)) ** 2
    return Column.of(
        value,
        low,
        high,
        variance,
        undefined=unranked(stack),
        bare=[(stack.smaller < 2, SINGLE), (variance <= 0, TIED)],
    )


def auprcs(stack: Stack) -> Column:
    """Average precision of each cell; the jackknife's variance, symmetric in the logit."""
    value, variance = auprc_of(stack.tables), auprc_variance(stack.tables)
    low, high = logit_interval(value, variance, stack.quantile)
    return Column.of(
        value,
        low,
        high,
        variance,
        undefined=unranked(stack),
        bare=[
            (stack.smaller < 2, SINGLE),
            (variance < LEAST_VARIANCE, CONSTANT),
            ((value <= 0) | (value >= 1), CONSTANT),
        ],
    )


@dataclass(frozen=True)
class CurveEnds:
    """Both ends of the ROC curve."""

    sensitivity_at_90_specificity: Column
    specificity_at_90_sensitivity: Column


def curve_ends(stack: Stack) -> CurveEnds:
    """Sensitivity at 90% specificity of each cell, and the other way round, with intervals.

    Two errors are put together: of the share that is read off the curve (Wilson), and of where on
    the curve to read: at the true threshold the share of this cell's other class lies within the
    score interval about its 10%. They hold 96 to 98 times in 100, somewhat wider than needed.

    Source: Zou and Donner, Statistics in Medicine 2008, for putting them together.
    """
    found = []
    for read, of, judged in (
        (sensitivity_of, stack.positives, stack.negatives),
        (specificity_of, stack.negatives, stack.positives),
    ):
        value = read(stack.tables, 0.9)
        reach = Z * np.sqrt(0.09 / np.maximum(judged, 1))
        least, most = wilson(value, np.maximum(of, 1))
        strict = read(stack.tables, np.minimum(0.9 + reach, 1.0))
        lenient = read(stack.tables, np.maximum(0.9 - reach, 0.0))
        found.append(
            Column.of(
                value,
                np.maximum(value - np.hypot(value - least, value - strict), 0.0),
                np.minimum(value + np.hypot(most - value, lenient - value), 1.0),
                undefined=unranked(stack),
                bare=[(stack.smaller < 2, SINGLE)],
            )
        )
    return CurveEnds(*found)


def at_once(many: int) -> float:
    """Return the normal quantile by which so many intervals hold together with 95%.

    Exact for independent estimates, and never too small for others.

    Source: Šidák, JASA 1967.

    >>> round(at_once(1), 2), round(at_once(20), 2)
    (1.96, 3.02)
    """
    from scipy.special import ndtri

    return float(ndtri((1 + 0.95 ** (1 / many)) / 2))


def wilson_interval(share: float, patients: int, z: float = Z) -> tuple[float, float]:
    """Return the interval, by default of 95%, of an observed share; it stays within [0, 1].

    Source: Wilson, JASA 1927.

    >>> [round(bound, 3) for bound in wilson_interval(0.0, 10)]
    [0.0, 0.278]
    """
    low, high = wilson(share, patients, z)
    return float(low), float(high)


def wilson(share: ArrayLike, patients: ArrayLike, z: float = Z) -> tuple[Floats, Floats]:
    """As ``wilson_interval``, of many shares: (...,) each."""
    p, n = np.asarray(share, np.float64), np.asarray(patients, np.float64)
    centre, scale = p + z * z / (2 * n), 1 + z * z / n
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.maximum((centre - half) / scale, 0.0), np.minimum((centre + half) / scale, 1.0)


def _delong_variances(tables: Floats) -> Floats:
    """Variance of each table's AUROC; of use with at least two patients of each class."""
    negatives, positives = tables[:, 0], tables[:, 1]
    n0, n1 = (np.maximum(part.sum(axis=-1, keepdims=True), 1) for part in (negatives, positives))
    of_positive = (np.cumsum(negatives, axis=-1) - negatives / 2) / n0
    of_negative = 1 - (np.cumsum(positives, axis=-1) - positives / 2) / n1
    area = (positives * of_positive).sum(axis=-1, keepdims=True) / n1
    spread1 = (positives * (of_positive - area) ** 2).sum(axis=-1) / np.maximum(n1[:, 0] - 1, 1)
    spread0 = (negatives * (of_negative - area) ** 2).sum(axis=-1) / np.maximum(n0[:, 0] - 1, 1)
    return np.asarray(spread1 / n1[:, 0] + spread0 / n0[:, 0])


def _newcombe(
    area: Floats, negatives: Floats, positives: Floats, z: float
) -> tuple[Floats, Floats]:
    """The areas whose own standard error puts them ``z`` of it away from an observed 0 or 1."""
    below, above = np.zeros(len(area)), np.ones(len(area))
    # both classes turned round where the area is 1
    one, two = np.where(area > 0.5, (positives, negatives), (negatives, positives))
    spare, pairs = (one + two) / 2 - 1, one * two
    for _ in range(60):
        true = (below + above) / 2
        spread = 1 + spare * (1 - true) / (2 - true) + spare * true / (1 + true)
        excess = true - z * np.sqrt(true * (1 - true) * spread / pairs)
        below, above = np.where(excess > 0, below, true), np.where(excess > 0, true, above)
    return np.where(area > 0.5, 1 - above, 0.0), np.where(area > 0.5, 1.0, above)
