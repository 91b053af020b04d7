"""How well scores agree with observed risk: Brier, ECE, calibration slope and intercept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.metrics.column import Column
from federation.metrics.discrimination import Tables
from federation.metrics.estimate import (
    CONSTANT,
    FEWEST_EVENTS,
    LEAST_VARIANCE,
    NO_PATIENTS,
    Estimate,
    Z,
    logit_interval,
    missing,
)
from federation.metrics.grid import BINS, ECE_BINS, Floats, logit
from federation.metrics.stack import Stack, stack_of, unclassed
from federation.metrics.summary import ScoreSummary

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


def risk_gap(summaries: Iterable[ScoreSummary], z: float = Z) -> Estimate:
    """Observed minus mean predicted risk with its interval, exact from the moments.

    Above 0, patients fare worse than they were told. Those of several models may be put together:
    a risk is a risk, whatever scale it is read on.

    >>> risk_gap([ScoreSummary.from_scores([0.25] * 4, [0, 0, 1, 1])]).value
    0.25
    """
    seen = [one for one in summaries if one.n]
    n = sum(one.n for one in seen)
    if not n:
        return Estimate.undefined(NO_PATIENTS)
    squares = math.fsum(one.n * (brier(one).value or 0.0) for one in seen)
    gap = (sum(one.positives for one in seen) - math.fsum(one.score_sum for one in seen)) / n
    variance = max(squares / n - gap * gap, 0.0) / n
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
    return binned(stack_of(summary)).ece.at(0)


def calibration_slope(summary: ScoreSummary) -> Estimate:
    """Slope of the logistic regression of the label on logit(score), intercept free.

    1 is ideal, below 1 the scores are too extreme. Fitted on the bins' midpoints. The interval is
    Wald's from the variance that holds whatever the true curve is.

    Source: Cox, Biometrika 1958; Van Calster et al., BMC Medicine 2019; HC2 of MacKinnon and White,
    Journal of Econometrics 1985.
    """
    return slopes(stack_of(summary)).at(0)


def calibration_intercept(summary: ScoreSummary) -> Estimate:
    """Calibration in the large: the intercept on the logit scale with the slope fixed at 1.

    0 is ideal, below 0 the scores are too high on average. Fitted on the bins' midpoints; the
    interval as that of ``calibration_slope``.
    """
    return intercepts(stack_of(summary)).at(0)


def calibration_curve(summary: ScoreSummary, groups: int = 10) -> list[tuple[float, float, int]]:
    """Mean score, observed risk and patients, in groups of about equal size, by ascending score."""
    patients = summary.counts.sum(axis=0)
    if not summary.n:
        return []
    middle = np.cumsum(patients) - patients / 2
    group = np.minimum((middle * groups / summary.n).astype(int), groups - 1)
    size, score, events = (
        np.bincount(group, values, groups)
        for values in (patients, patients * summary.scale.scores, summary.counts[1])
    )
    return [
        (float(score[k] / size[k]), float(events[k] / size[k]), int(size[k]))
        for k in range(groups)
        if size[k]
    ]


def briers(stack: Stack) -> Column:
    """Brier score of each cell, exact, with its interval, symmetric in the logit.

    How the patients' squared errors vary is told by the midpoints of their bins.
    """
    n = np.maximum(stack.n, 1)
    value = _brier_values(stack)
    losses = np.stack([stack.scores**2, (1 - stack.scores) ** 2], axis=1)
    mean = (stack.tables * losses).sum(axis=(1, 2)) / n
    apart = losses - mean[:, None, None]
    variance = (stack.tables * apart**2).sum(axis=(1, 2)) / n**2
    low, high = logit_interval(value, variance, stack.quantile)
    return Column.of(
        value,
        low,
        high,
        variance,
        undefined=[(stack.n == 0, NO_PATIENTS)],
        bare=[(variance < LEAST_VARIANCE, CONSTANT), ((value <= 0) | (value >= 1), CONSTANT)],
    )


@dataclass(frozen=True)
class Binned:
    """What the gaps between predicted and observed risk say, over 15 bins of many cells."""

    brier_calibration: Column
    brier_refinement: Column
    ece: Column


def binned(stack: Stack) -> Binned:
    """Split the Brier score of each cell into its parts, and give ``expected_calibration_error``.

    Calibration is the mean squared gap between predicted and observed risk over 15 equal-width
    bins, 0 at best; refinement is the rest, the least that recalibrating the bins could leave (but
    for what the scores differ inside a bin, which counts here). As ECE, neither has an interval:
    the gaps are biased upwards by sampling alone.

    Source: Murphy, Journal of Applied Meteorology 1973; Stephenson et al., Weather and
    Forecasting 2008, for what bins leave over.
    """
    # in a recalibrated scale some of the fifteen may hold no bin of the grid
    starts = sorted({stack.scale.index(k / ECE_BINS) for k in range(ECE_BINS)} - {BINS})
    patients = stack.full.sum(axis=1)
    missed = np.add.reduceat(stack.full[:, 1] - patients * stack.scale.scores, starts, axis=-1)
    size = np.maximum(np.add.reduceat(patients, starts, axis=-1), 1)
    n = np.maximum(stack.n, 1)
    calibration = (missed**2 / size).sum(axis=-1) / n
    nobody = [(stack.n == 0, NO_PATIENTS)]
    return Binned(
        Column.of(calibration, undefined=nobody),
        Column.of(_brier_values(stack) - calibration, undefined=nobody),
        Column.of(np.abs(missed).sum(axis=-1) / n, undefined=nobody),
    )


def slopes(stack: Stack) -> Column:
    """Calibration slope of each cell with its interval, as ``calibration_slope``."""
    undefined = unfit(stack)
    fit = np.zeros(len(stack.n), bool)
    for cells, _ in undefined:
        fit |= cells
    fit = ~fit
    value, variance = np.full(len(fit), np.nan), np.full(len(fit), np.nan)
    if fit.any():
        value[fit], variance[fit] = _fitted_slopes(stack.tables[fit], logit(stack.scores[fit]))
    untold = ~np.isfinite(value)
    half = stack.quantile * np.sqrt(np.where(untold, 0.0, variance))
    return Column.of(
        value,
        value - half,
        value + half,
        variance,
        undefined=[*undefined, (untold, _UNTOLD)],
        bare=[(variance < LEAST_VARIANCE, CONSTANT)],
    )


def intercepts(stack: Stack) -> Column:
    """Calibration in the large of each cell with its interval, as ``calibration_intercept``."""
    undefined = [*unclassed(stack), (stack.smaller < FEWEST_EVENTS, _TOO_FEW)]
    fit = stack.smaller >= FEWEST_EVENTS
    value, variance = np.full(len(fit), np.nan), np.full(len(fit), np.nan)
    if fit.any():
        value[fit], variance[fit] = _fitted_shifts(stack.tables[fit], logit(stack.scores[fit]))
    half = stack.quantile * np.sqrt(np.where(fit, variance, 0.0))
    return Column.of(value, value - half, value + half, variance, undefined=undefined)


def _brier_values(stack: Stack) -> Floats:
    _, squares, of_positives = stack.moments.T
    total = np.maximum(squares - 2 * of_positives + stack.positives, 0.0)
    return np.asarray(total / np.maximum(stack.n, 1))


def recalibration(tables: Tables, x: Floats) -> Floats:
    """Intercept and slope of each table's maximum-likelihood line, by Newton's method: (cells, 2).

    Args:
        tables: (cells, 2, bins) of both classes, not separated (see ``calibration_slope``).
        x: (cells, bins) logits of the scores.

    Returns:
        Not a number where the line cannot be told.
    """
    # From the flat line, where the information is largest: at slope 1 scores near 0 and 1, as
    # those of a model that noise has wrecked, have next to none.
    line = np.zeros((len(tables), 2))
    likelihood, step = _newton(tables, x, line)
    size = np.ones(len(tables))
    open_ = np.flatnonzero(np.isfinite(step).all(axis=1))
    line[~np.isfinite(step).all(axis=1)] = np.nan
    for _ in range(200):
        if not len(open_):
            break
        tried = line[open_] + size[open_, None] * step[open_]
        reached, next_step = _newton(tables[open_], x[open_], tried)
        taken = (reached >= likelihood[open_]) | (size[open_] <= 1e-6)
        moved = np.abs(size[open_, None] * step[open_]).max(axis=1)
        size[open_[~taken]] /= 2
        cells = open_[taken]
        line[cells], likelihood[cells], step[cells] = tried[taken], reached[taken], next_step[taken]
        size[cells] = 1.0
        lost = taken & ~np.isfinite(next_step).all(axis=1)
        line[open_[lost]] = np.nan
        open_ = open_[~lost & ~(taken & (moved < 1e-10))]
    return line


def _newton(tables: Tables, x: Floats, line: Floats) -> tuple[Floats, Floats]:
    """Log-likelihood of each table at its line, and the Newton step from there."""
    z = line[:, :1] + line[:, 1:] * x
    small = np.exp(-np.abs(z))
    risk = np.where(z > 0, 1.0, small) / (1 + small)
    patients = tables[:, 0] + tables[:, 1]
    likelihood = (tables[:, 1] * z - patients * (np.maximum(z, 0) + np.log1p(small))).sum(axis=-1)
    residual = tables[:, 1] - patients * risk
    g0, g1 = residual.sum(axis=-1), (residual * x).sum(axis=-1)
    h00, h01, h11, determinant = _information(patients * small / (1 + small) ** 2, x)
    step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=-1) / determinant[:, None]
    return np.asarray(likelihood), step


def _information(weight: Floats, x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Entries and determinant of the line's information; NaN where it is singular."""
    h00, h01, h11 = (part.sum(axis=-1) for part in (weight, weight * x, weight * x * x))
    determinant = h00 * h11 - h01 * h01
    return h00, h01, h11, np.where(determinant > 1e-12, determinant, np.nan)


def _fitted_slopes(tables: Tables, x: Floats) -> tuple[Floats, Floats]:
    """Slope of each table, and its variance."""
    line = recalibration(tables, x)
    with np.errstate(over="ignore"):  # infinity is right: the risk is 0
        risk = 1 / (1 + np.exp(-(line[:, :1] + line[:, 1:] * x)))
    each = risk * (1 - risk)
    parts = _information(tables.sum(axis=1) * each, x)
    h00, h01, h11, determinant = (part[:, None] for part in parts)
    leverage = (h11 - 2 * h01 * x + h00 * x * x) / determinant * each
    pull = (h00 * x - h01) / determinant
    return line[:, 1], _sandwich(tables, risk, pull, leverage)


def _fitted_shifts(tables: Tables, x: Floats) -> tuple[Floats, Floats]:
    """Intercept at slope 1 of each table, and its variance."""
    shift, patients = np.zeros(len(tables)), tables.sum(axis=1)
    open_ = np.arange(len(tables))
    for _ in range(100):
        risk = 1 / (1 + np.exp(-(shift[open_, None] + x[open_])))
        missed = tables[open_, 1].sum(axis=-1) - (patients[open_] * risk).sum(axis=-1)
        step = missed / (patients[open_] * risk * (1 - risk)).sum(axis=-1)
        shift[open_] += np.clip(step, -1.0, 1.0)  # short steps cannot run away: concave
        open_ = open_[np.abs(step) >= 1e-10]
        if not len(open_):
            break
    risk = 1 / (1 + np.exp(-(shift[:, None] + x)))
    each = risk * (1 - risk)
    weight = (patients * each).sum(axis=-1, keepdims=True)
    return shift, _sandwich(tables, risk, 1 / weight, each / weight)


def _sandwich(tables: Tables, risk: Floats, pull: Floats, leverage: Floats) -> Floats:
    """Variance of a coefficient on which a patient's residual pulls with so much: HC2."""
    apart = pull**2 / np.maximum(1 - leverage, 0.01)
    squares = tables[:, 1] * (1 - risk) ** 2 + tables[:, 0] * risk**2
    return np.asarray((squares * apart).sum(axis=-1))


def unfit(stack: Stack) -> list[tuple[NDArray[np.bool_], str]]:
    """Where no line can be fitted, and why."""
    held = stack.tables > 0
    width = held.shape[-1]
    first = held.argmax(axis=-1)
    last = width - 1 - held[..., ::-1].argmax(axis=-1)
    # with at most one bin in common the likelihood rises for ever (or the scores do not vary)
    apart = (last[:, 0] <= first[:, 1]) | (last[:, 1] <= first[:, 0])
    return [
        *unclassed(stack),
        (stack.smaller < FEWEST_EVENTS, _TOO_FEW),
        (apart & stack.tied, "the scores do not vary"),
        (apart, _SEPARATED),
    ]
