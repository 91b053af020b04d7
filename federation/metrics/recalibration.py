"""Fitting a line through logits that makes risks right, from counts by score bin alone.

The counts are those that the sites send of their tuning splits to choose a threshold: nothing new
leaves a site. A score stands for the midpoint of its bin, which is off by 0.018 in the logit at
most, and beyond a logit of 7 either way for that of the outermost bin; docs/metrics.md says how far
the fit is from that of the scores themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from federation.metrics.calibration import recalibration, unfit
from federation.metrics.estimate import ONE_BIN, missing
from federation.metrics.grid import Floats, Line, logit
from federation.metrics.stack import Stack, stack_of
from federation.metrics.summary import ScoreSummary

Method = Literal["temperature", "platt"]

FEWEST_EVENTS = 10
"""On either side, to fit a line."""

TOO_FEW = f"fewer than {FEWEST_EVENTS} patients of one class in the tuning split"
SEPARATED = "the scores separate the classes of the tuning split completely"
TURNED = "no slope above 0 fits the tuning split"
UNTOLD = "the scores of the tuning split do not tell a line"


@dataclass(frozen=True)
class Fit:
    """A line through logits, or the reason why there is none.

    Args:
        line: of a slope above 0, so that the order of patients stays; None if there is none.
        reason: why there is none.
    """

    line: Line | None
    reason: str = ""


def fitted(summary: ScoreSummary, method: Method) -> Fit:
    """Fit a line by maximum likelihood: the logistic regression of the label on the logit.

    Args:
        summary: the tuning split of all sites together, of scores as the model gives them.
        method: ``temperature`` fits the slope, 1 / temperature, and leaves the intercept at 0;
            ``platt`` fits both.

    Source: Guo et al., ICML 2017; Platt, 1999.

    >>> cell = ScoreSummary.from_scores([0.1] * 20 + [0.9] * 20, ([0] * 15 + [1] * 5) * 2)
    >>> fitted(cell, "temperature").reason
    'no slope above 0 fits the tuning split'
    """
    stack = stack_of(summary)
    if reason := _unfit(summary):
        return Fit(None, reason)
    if method == "temperature":
        return _of_slope(stack)
    if any(cells.any() for cells, _ in unfit(stack)):
        return Fit(None, SEPARATED if _separated(stack) else TURNED)
    intercept, slope = recalibration(stack.tables, logit(stack.scores))[0].tolist()
    return _rounded(slope, intercept) if np.isfinite(slope + intercept) else Fit(None, UNTOLD)


def _rounded(slope: float, intercept: float) -> Fit:
    """To six decimals, as all that is told, so that the line that is told is the one applied."""
    line = Line(round(slope, 6), round(intercept, 6))
    return Fit(line) if line.slope > 0 else Fit(None, TURNED)


def _unfit(summary: ScoreSummary) -> str:
    if reason := missing(summary):
        return reason
    if min(summary.positives, summary.negatives) < FEWEST_EVENTS:
        return TOO_FEW
    return ONE_BIN if summary.counts.any(axis=0).sum() == 1 else ""


def _separated(stack: Stack) -> bool:
    """Whether no patient without the outcome has a higher score than one with it."""
    negatives, positives = stack.tables[0] > 0
    return bool(np.flatnonzero(negatives)[-1] <= np.flatnonzero(positives)[0])


def _of_slope(stack: Stack) -> Fit:
    """The slope at which the likelihood, which is concave, no longer rises."""
    from scipy.optimize import brentq

    negatives, positives = stack.tables[0]
    x, patients = logit(stack.scores)[0], negatives + positives

    def rise(slope: float) -> float:
        risk = 1 / (1 + np.exp(-np.clip(slope * x, -700, 700)))
        return float(((positives - patients * risk) * x).sum())

    if rise(0.0) <= 0:
        return Fit(None, TURNED)
    if _misplaced(negatives, positives, x) <= 0:
        return Fit(None, SEPARATED)
    high = 1.0
    while rise(high) > 0:
        high *= 2
    return _rounded(float(brentq(rise, 0.0, high, xtol=1e-12)), 0.0)


def _misplaced(negatives: Floats, positives: Floats, x: Floats) -> float:
    """By how much patients lie on the wrong side of a risk of a half; 0 if none does."""
    return float((negatives * np.maximum(x, 0) + positives * np.maximum(-x, 0)).sum())
