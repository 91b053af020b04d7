"""95% intervals from counts: DeLong for AUROC, bootstrap of the table for the rest.

A bin is a tie of its patients, so DeLong's variance of the tied scores is computed from the table
itself; resampling patients is drawing a multinomial table. Both agree with what the patients'
scores give, up to the width of a bin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from federation.metrics.calibration import (
    FEWEST_EVENTS,
    brier,
    brier_of,
    calibration_intercept,
    calibration_slope,
    recalibration,
    recalibration_step,
    shift_step,
)
from federation.metrics.discrimination import (
    auprc,
    auprc_of,
    auroc,
    sensitivity_at_specificity,
    sensitivity_of,
    specificity_at_sensitivity,
    specificity_of,
)
from federation.metrics.estimate import Estimate, Z
from federation.metrics.summary import SCORES, Floats, ScoreSummary

REPLICATES = 500
SINGLE = "no interval: a single patient of one class"
TIED = "no interval: all scores are tied"
CONSTANT = "no interval: every replicate is the same"


@dataclass(frozen=True)
class Replicates:
    """Bootstrap tables of one summary, on its occupied bins only.

    Args:
        tables: (replicates, 2, bins) patients by label and bin.
        scores: (bins,) midpoints.
    """

    tables: Floats
    scores: Floats


def resample(
    summary: ScoreSummary, generator: np.random.Generator, replicates: int = REPLICATES
) -> Replicates:
    """Draw tables of as many patients from the summary: the bootstrap of its patients.

    Raises:
        ValueError: if the summary is empty.
    """
    if not summary.n:
        raise ValueError("an empty summary cannot be resampled")
    occupied = np.flatnonzero(summary.counts.any(axis=0))
    counts = summary.counts[:, occupied].ravel()
    filled = np.flatnonzero(counts)
    drawn: Floats = np.zeros((replicates, len(counts)))
    # one patient at a time is the faster way to draw few patients from many bins
    if summary.n <= 4 * len(filled):
        owner = np.repeat(filled, counts[filled])
        picks = owner[generator.integers(0, summary.n, (replicates, summary.n))]
        picks += np.arange(replicates)[:, None] * len(counts)
        drawn += np.bincount(picks.ravel(), minlength=drawn.size).reshape(drawn.shape)
    else:
        shares = counts[filled] / summary.n
        drawn[:, filled] = generator.multinomial(summary.n, shares, replicates)
    tables = drawn.reshape(replicates, 2, len(occupied))
    return Replicates(tables, SCORES[occupied])


def delong(summary: ScoreSummary, z: float = Z) -> Estimate:
    """AUROC with DeLong's interval on the logit scale, by default of 95%.

    At an AUROC of 0 or 1 the variance is 0 and the logit infinite: Newcombe's interval then. Scores
    that are all tied have no interval.

    Source: DeLong et al., Biometrics 1988; Newcombe, Statistics in Medicine 2006, method 5.
    """
    point = auroc(summary)
    if point.value is None:
        return point
    if min(summary.positives, summary.negatives) < 2:
        return replace(point, reason=SINGLE)
    variance = delong_variance(summary)
    if not 0.0 < point.value < 1.0:
        low, high = _newcombe(point.value, summary.negatives, summary.positives, z)
        return point.between(low, high, ((high - low) / (2 * z)) ** 2)
    if variance <= 0.0:
        return replace(point, reason=TIED)
    middle = math.log(point.value / (1 - point.value))
    half = z * math.sqrt(variance) / (point.value * (1 - point.value))
    return point.between(_expit(middle - half), _expit(middle + half), variance)


def delong_variance(summary: ScoreSummary) -> float:
    """Variance of the AUROC from the placements of each bin; at least two of each class."""
    negatives, positives = summary.counts.astype(np.float64)
    n0, n1 = negatives.sum(), positives.sum()
    of_positive = (np.cumsum(negatives) - negatives / 2) / n0
    of_negative = (n1 - np.cumsum(positives) + positives / 2) / n1
    area = (positives * of_positive).sum() / n1
    spread1 = (positives * (of_positive - area) ** 2).sum() / (n1 - 1)
    spread0 = (negatives * (of_negative - area) ** 2).sum() / (n0 - 1)
    return float(spread1 / n1 + spread0 / n0)


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
    centre = share + z * z / (2 * patients)
    half = z * math.sqrt(share * (1 - share) / patients + z * z / (4 * patients * patients))
    scale = 1 + z * z / patients
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def percentile(point: Estimate, values: Floats, fewest: int | None = None) -> Estimate:
    """Percentile interval from a metric's value in each replicate; those without one do not count.

    Where all agree (every patient in one bin, or a perfect ranking) the bootstrap knows nothing of
    the uncertainty, and there is no interval.

    Args:
        point: the metric.
        values: (replicates,) NaN where a replicate has none.
        fewest: patients of the smaller class, where percentiles of few would lie too near; the
            fewer, the further out they are put.

    Source: Hesterberg, American Statistician 2015, of expanded percentiles.

    >>> percentile(Estimate(0.5), np.linspace(0, 1, 1001)).to_json()
    {'value': 0.5, 'low': 0.025, 'high': 0.975}
    """
    from scipy.special import ndtr

    values = values[np.isfinite(values)]
    if (why := _unvaried(point, values)) is not None:
        return why
    tail = 0.025
    if fewest is not None:
        tail = float(ndtr(-_student(fewest) * math.sqrt(fewest / (fewest - 1))))
    low, high = np.quantile(values, [tail, 1 - tail])
    return point.between(float(low), float(high), float(values.var(ddof=1)))


def on_logit_scale(point: Estimate, values: Floats, fewest: int) -> Estimate:
    """Interval of a metric in (0, 1) from its variance over replicates, symmetric in its logit.

    Near 0 or 1, where percentiles of AUPRC or Brier hold too seldom, these do.

    Args:
        point: the metric.
        values: as for ``percentile``.
        fewest: patients of the smaller class, from which Student's quantile comes.

    Source: Boyd, Eng and Page, ECML 2013.
    """
    values = values[np.isfinite(values)]
    if (why := _unvaried(point, values)) is not None:
        return why
    assert point.value is not None
    if not 0.0 < point.value < 1.0:
        return percentile(point, values, fewest)
    variance = float(values.var(ddof=1))
    middle = math.log(point.value / (1 - point.value))
    half = _student(fewest) * math.sqrt(variance) / (point.value * (1 - point.value))
    return point.between(_expit(middle - half), _expit(middle + half), variance)


def bootstrapped(summary: ScoreSummary, drawn: Replicates) -> dict[str, Estimate]:
    """Bootstrap: AUPRC, both ends of the ROC curve, Brier, calibration slope and intercept.

    Brier's replicates put each patient at the bin's midpoint and are moved by what that changes in
    the value itself. Slope and intercept take one Newton step from the fit of the whole table in
    each replicate (Moulton and Zeger, Computational Statistics and Data Analysis 1991).

    Args:
        summary: one cell, not empty.
        drawn: its ``resample``.
    """
    exact = brier(summary)
    moved = (exact.value or 0.0) - float(brier_of(summary.counts, SCORES))
    briers = np.maximum(brier_of(drawn.tables, drawn.scores) + moved, 0.0)
    areas = auprc_of(drawn.tables)
    return {
        "auprc": _ranked(
            summary, auprc(summary), lambda one: on_logit_scale(one, areas, _fewest(summary))
        ),
        "sensitivity_at_90_specificity": _ranked(
            summary,
            sensitivity_at_specificity(summary, 0.9),
            lambda one: percentile(one, sensitivity_of(drawn.tables, 0.9)),
        ),
        "specificity_at_90_sensitivity": _ranked(
            summary,
            specificity_at_sensitivity(summary, 0.9),
            lambda one: percentile(one, specificity_of(drawn.tables, 0.9)),
        ),
        "brier": on_logit_scale(exact, briers, _fewest(summary)),
        "calibration_slope": _slope(summary, drawn),
        "calibration_intercept": _intercept(summary, drawn),
    }


def _ranked(
    summary: ScoreSummary, point: Estimate, interval: Callable[[Estimate], Estimate]
) -> Estimate:
    if point.value is not None and min(summary.positives, summary.negatives) < 2:
        return replace(point, reason=SINGLE)
    return interval(point)


def _unvaried(point: Estimate, values: Floats) -> Estimate | None:
    """The metric without an interval where replicates tell nothing; else None."""
    if point.value is None or len(values) < 2:
        return point
    return replace(point, reason=CONSTANT) if np.ptp(values) < 1e-12 else None


def _fewest(summary: ScoreSummary) -> int:
    """Patients of the smaller class; of all, where there is one class; at least two."""
    fewest = min(summary.positives, summary.negatives) or summary.n
    return max(fewest, 2)


def _student(fewest: int) -> float:
    from scipy.special import stdtrit

    # With very few, Student's quantile would make intervals of everything.
    return float(stdtrit(max(fewest - 1, FEWEST_EVENTS), 0.975))


def _slope(summary: ScoreSummary, drawn: Replicates) -> Estimate:
    point = calibration_slope(summary)
    if point.value is None:
        return point
    line = recalibration(summary)
    steps = recalibration_step(drawn.tables, line, drawn.scores)
    return percentile(point, line[1] + steps[:, 1], _fewest(summary))


def _intercept(summary: ScoreSummary, drawn: Replicates) -> Estimate:
    point = calibration_intercept(summary)
    if point.value is None:
        return point
    steps = shift_step(drawn.tables, point.value, drawn.scores)
    return percentile(point, point.value + steps, _fewest(summary))


def _newcombe(area: float, negatives: int, positives: int, z: float) -> tuple[float, float]:
    """The areas whose own standard error puts them ``z`` of it away from the one observed."""
    if area > 0.5:
        low, high = _newcombe(1 - area, positives, negatives, z)
        return 1 - high, 1 - low
    spare = (negatives + positives) / 2 - 1

    def excess(true: float) -> float:
        spread = 1 + spare * (1 - true) / (2 - true) + spare * true / (1 + true)
        variance = true * (1 - true) * spread / (negatives * positives)
        return true - area - z * math.sqrt(variance)

    below, above = area, 1.0
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (below, middle) if excess(middle) > 0 else (middle, above)
    return area, above


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))
