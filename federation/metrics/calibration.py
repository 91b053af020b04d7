"""How well scores agree with observed risk: Brier, ECE, calibration slope and intercept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federation.metrics.discrimination import Tables
from federation.metrics.estimate import Estimate, Z, missing
from federation.metrics.summary import (
    ECE_BINS,
    SCORES,
    Floats,
    ScoreSummary,
    edge_index,
)

FEWEST_EVENTS = 5
"""Patients of each class below which a recalibration line means nothing."""

_TOO_FEW = f"fewer than {FEWEST_EVENTS} patients of one class"
_UNTOLD = "too few scores lie between 0 and 1"
_ALIKE = "no interval: score and label differ by as much in all patients"
_SEPARATED = "the scores separate the classes completely"


def brier(summary: ScoreSummary) -> Estimate:
    """Mean squared difference between score and label, exact from the moments.

    >>> brier(ScoreSummary.from_scores([0.5, 1.0], [0, 1])).value
    0.125
    """
    reason = missing(summary, classes=1)
    if reason:
        return Estimate.undefined(reason)
    total = summary.score_square_sum - 2 * summary.positive_score_sum + summary.positives
    return Estimate(max(total, 0.0) / summary.n)


@dataclass(frozen=True)
class BrierParts:
    """What a Brier score consists of; the parts add up to it."""

    calibration: Estimate
    refinement: Estimate


def brier_parts(summary: ScoreSummary) -> BrierParts:
    """Split the Brier score into its calibration and its refinement part.

    Calibration is the mean squared gap between predicted and observed risk over 15 equal-width
    bins, 0 at best; refinement is the rest, the least that recalibrating the bins could leave (but
    for what the scores differ inside a bin, which counts here). As ECE, neither has an interval:
    the gaps are biased upwards by sampling alone.

    Source: Murphy, Journal of Applied Meteorology 1973; Stephenson et al., Weather and
    Forecasting 2008, for what bins leave over.

    >>> parts = brier_parts(ScoreSummary.from_scores([0.25] * 4, [0, 0, 0, 1]))
    >>> round(parts.calibration.value, 3), round(parts.refinement.value, 3)
    (0.0, 0.187)
    """
    total = brier(summary)
    if total.value is None:
        return BrierParts(total, total)
    patients, gaps = _binned_gaps(summary)
    full = patients > 0
    calibration = float((gaps[full] ** 2 / patients[full]).sum() / summary.n)
    return BrierParts(Estimate(calibration), Estimate(total.value - calibration))


def risk_gap(summary: ScoreSummary, z: float = Z) -> Estimate:
    """Observed minus mean predicted risk with its interval, exact from the moments.

    Above 0, patients fare worse than they were told.

    >>> risk_gap(ScoreSummary.from_scores([0.25] * 4, [0, 0, 1, 1])).value
    0.25
    """
    squared = brier(summary)
    if squared.value is None:
        return squared
    gap = (summary.positives - summary.score_sum) / summary.n
    variance = max(squared.value - gap * gap, 0.0) / summary.n
    if variance < 1e-15:
        return Estimate(gap, reason=_ALIKE)
    half = z * math.sqrt(variance)
    return Estimate(gap).between(gap - half, gap + half, variance)


def expected_calibration_error(summary: ScoreSummary) -> Estimate:
    """Mean gap between predicted and observed risk over 15 equal-width bins, weighted by size.

    Which bin a patient falls in is exact; the mean score in it is that of the grid's midpoints. No
    interval is given: the gap is biased upwards by sampling alone, and so is its bootstrap.

    Source: Naeini et al., AAAI 2015.

    >>> cell = ScoreSummary.from_scores([0.25] * 4, [0, 0, 0, 1])
    >>> round(expected_calibration_error(cell).value, 2)
    0.0
    """
    reason = missing(summary, classes=1)
    if reason:
        return Estimate.undefined(reason)
    _, gaps = _binned_gaps(summary)
    return Estimate(float(np.abs(gaps).sum() / summary.n))


def calibration_slope(summary: ScoreSummary) -> Estimate:
    """Slope of the logistic regression of the label on logit(score), intercept free.

    1 is ideal, below 1 the scores are too extreme. Fitted on the bins' midpoints.

    Source: Cox, Biometrika 1958; Van Calster et al., BMC Medicine 2019.
    """
    reason = _unfit(summary)
    if reason:
        return Estimate.undefined(reason)
    slope = float(recalibration(summary)[1])
    return Estimate(slope) if math.isfinite(slope) else Estimate.undefined(_UNTOLD)


def calibration_intercept(summary: ScoreSummary) -> Estimate:
    """Calibration in the large: the intercept on the logit scale with the slope fixed at 1.

    0 is ideal, below 0 the scores are too high on average. Fitted on the bins' midpoints.
    """
    reason = missing(summary) or ("" if _enough(summary) else _TOO_FEW)
    return Estimate.undefined(reason) if reason else Estimate(shift_in_the_large(summary))


def calibration_curve(summary: ScoreSummary, groups: int = 10) -> list[tuple[float, float, int]]:
    """Mean score, observed risk and patients, in groups of about equal size, by ascending score."""
    patients = summary.counts.sum(axis=0)
    if not summary.n:
        return []
    middle = np.cumsum(patients) - patients / 2
    group = np.minimum((middle * groups / summary.n).astype(int), groups - 1)
    size, score, events = (
        np.bincount(group, values, groups)
        for values in (patients, patients * SCORES, summary.counts[1])
    )
    return [
        (float(score[k] / size[k]), float(events[k] / size[k]), int(size[k]))
        for k in range(groups)
        if size[k]
    ]


def brier_of(tables: Tables, scores: Floats) -> Floats:
    """Brier score of each table with every patient at the score of the bin: (...,)."""
    counts = np.asarray(tables, np.float64)
    lost = (counts * np.stack([scores**2, (1 - scores) ** 2])).sum(axis=(-1, -2))
    return np.asarray(lost / counts.sum(axis=(-1, -2)))


def recalibration(summary: ScoreSummary) -> Floats:
    """Intercept and slope of the maximum-likelihood line, by Newton's method: (2,).

    The summary must hold both classes, not separated (see ``calibration_slope``); not a number
    where the line cannot be told.
    """
    counts = summary.counts.astype(np.float64)
    # From the flat line, where the information is largest: at slope 1 scores near 0 and 1, as
    # those of a model that noise has wrecked, have next to none.
    line = np.zeros(2)
    likelihood = _log_likelihood(counts, line)
    for _ in range(100):
        step = recalibration_step(counts, line, SCORES)
        if not np.isfinite(step).all():
            return np.full(2, np.nan)
        size = 1.0
        while _log_likelihood(counts, line + size * step) < likelihood and size > 1e-6:
            size /= 2
        line = line + size * step
        likelihood = _log_likelihood(counts, line)
        if np.abs(size * step).max() < 1e-10:
            break
    return line


def recalibration_step(tables: Tables, line: Floats, scores: Floats) -> Floats:
    """Newton step of each table from one line: (..., 2).

    Score and information are linear in the counts, so a thousand replicates cost two products.
    """
    x = _logit(scores)
    with np.errstate(over="ignore"):  # infinity is right: the risk is 0
        risk = 1 / (1 + np.exp(-(line[0] + line[1] * x)))
    counts = np.asarray(tables, np.float64)
    patients = counts.sum(axis=-2)
    residual = counts[..., 1, :] - patients * risk
    weight = patients * (risk * (1 - risk))
    g0, g1 = residual.sum(axis=-1), (residual * x).sum(axis=-1)
    h00, h01, h11 = weight.sum(axis=-1), (weight * x).sum(axis=-1), (weight * x * x).sum(axis=-1)
    determinant = h00 * h11 - h01 * h01
    determinant = np.where(determinant > 1e-12, determinant, np.nan)
    return np.stack(
        [(h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant], axis=-1
    )


def shift_in_the_large(summary: ScoreSummary) -> float:
    """Intercept for which mean predicted and observed risk agree, slope 1; both classes needed."""
    counts, shift = summary.counts.astype(np.float64), 0.0
    for _ in range(100):
        step = float(shift_step(counts, shift, SCORES))
        shift += max(-1.0, min(1.0, step))  # short steps cannot run away: concave
        if abs(step) < 1e-10:
            break
    return shift


def shift_step(tables: Tables, shift: float, scores: Floats) -> Floats:
    """Newton step of each table's intercept from one value, slope 1: (...,)."""
    risk = 1 / (1 + np.exp(-(shift + _logit(scores))))
    counts = np.asarray(tables, np.float64)
    patients = counts.sum(axis=-2)
    missed = counts[..., 1, :].sum(axis=-1) - (patients * risk).sum(axis=-1)
    return np.asarray(missed / (patients * (risk * (1 - risk))).sum(axis=-1))


def _binned_gaps(summary: ScoreSummary) -> tuple[Floats, Floats]:
    """Patients, and events less expected ones, of the 15 bins: (bins,) each."""
    starts = [edge_index(k / ECE_BINS) for k in range(ECE_BINS)]
    patients = summary.counts.sum(axis=0)
    gaps = summary.counts[1] - patients * SCORES
    return np.add.reduceat(patients.astype(np.float64), starts), np.add.reduceat(gaps, starts)


def _unfit(summary: ScoreSummary) -> str:
    reason = missing(summary)
    if reason or not _enough(summary):
        return reason or _TOO_FEW
    negative, positive = (np.flatnonzero(row) for row in summary.counts)
    # with at most one bin in common the likelihood rises for ever (or the scores do not vary)
    if negative[-1] <= positive[0] or positive[-1] <= negative[0]:
        return _SEPARATED if summary.counts.any(axis=0).sum() > 1 else "the scores do not vary"
    return ""


def _enough(summary: ScoreSummary) -> bool:
    return min(summary.positives, summary.negatives) >= FEWEST_EVENTS


def _log_likelihood(counts: Floats, line: Floats) -> float:
    z = line[0] + line[1] * _logit(SCORES)
    return float((counts[1] * z - counts.sum(axis=0) * np.logaddexp(0.0, z)).sum())


def _logit(scores: Floats) -> Floats:
    return np.asarray(np.log(scores) - np.log1p(-scores))
