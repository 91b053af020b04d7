"""Metrics of times until an outcome, from counts: c-index, AUROC and Brier score at horizons.

Not everybody is followed until the outcome or the horizon. Patients who are count for those who
are not: each with the inverse of the chance to be followed so long, from a Kaplan-Meier curve of
the censoring on the same counts. Within an interval, events and censoring are taken to be spread
evenly. Of two patients whose times fall into one interval nobody knows who came first; the c-index
takes what is to be expected of them, for without them, who are the hardest to tell apart, it would
be too high.

Source: Harrell et al., JAMA 1982; Uno et al., JASA 2007; Graf et al., Statistics in Medicine 1999;
intervals by linearisation, as DeLong's, with the curve of the censoring taken as known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from federation.metrics.estimate import (
    FEWEST_EVENTS,
    LEAST_VARIANCE,
    NO_PATIENTS,
    ONE_BIN,
    Estimate,
    logit_interval,
    student,
)
from federation.metrics.grid import BINS, SCORES, Floats
from federation.metrics.survival import CENSORED, EVENT, SurvivalSummary

NO_PAIRS = "no pair of patients of whom it is known who came first"
ONE_SIDED = "nobody with the outcome by then, or nobody known to be without it"
NOBODY_LEFT = "nobody is followed for so long"
FEW_EVENTS = f"no interval: fewer than {FEWEST_EVENTS} patients with the outcome"
ALL_ALIKE = "no interval: it is the same whichever of these patients is left out"
ONE_HORIZON = "there is one horizon alone; its Brier score stands beside"
NO_PROBABILITY = "a Cox model ranks patients; it gives no probability"
TOGETHER = "no interval: the horizons are of the same patients"


@dataclass(frozen=True)
class Risk:
    """Shares of patients with the outcome by a horizon.

    Attributes:
        predicted: the mean of the predicted risks.
        observed: by Kaplan-Meier; None where nobody is followed for so long.
    """

    predicted: float
    observed: float | None


def c_index(summary: SurvivalSummary) -> Estimate:
    """Share of pairs whose order in time the risk by the last horizon tells.

    >>> times, ended = [10, 40, 70], [True, True, False]
    >>> c_index(SurvivalSummary.of([[0.9], [0.5], [0.1]], times, ended, [30, 60], [60])).value
    1.0
    """
    if not summary.n:
        return Estimate.undefined(NO_PATIENTS)
    table = _dense(summary, len(summary.horizons) - 1)
    censored, events = table[:, CENSORED], table[:, EVENT]
    first, then = _Pairs(events, _after(table.sum(axis=1))), _Pairs(events, censored, 0.5)
    number = events.sum(axis=0)
    within = float((number * (number - 1)).sum()) / 2
    comparable = first.number + then.number + within
    if not comparable:
        return Estimate.undefined(NO_PAIRS)
    if len(table) == 1:
        return Estimate.undefined(ONE_BIN)
    share = _within_an_interval(events)
    value = (first.right + then.right + share * within) / comparable
    # what each patient's own pairs add to the difference from the value
    of_event = first.of_first(value) + then.of_first(value) + first.of_earlier(value)
    of_event += (share - value) * (number - 1)
    of_censored = first.of_earlier(value) + then.of_second(value)
    spread = float((events * of_event**2).sum() + (censored * of_censored**2).sum())
    return _between(value, spread / comparable**2, summary.events)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a patient with the outcome and one who comes later, by bin and interval.

    Attributes:
        firsts: those with the outcome, (bins, intervals).
        seconds: those who come later than the outcome in that interval, likewise.
        weight: of a pair.
    """

    firsts: Floats
    seconds: Floats
    weight: float = 1.0

    @property
    def number(self) -> float:
        """Pairs."""
        return self.weight * float((self.firsts.sum(axis=0) * self.seconds.sum(axis=0)).sum())

    @property
    def right(self) -> float:
        """Pairs in which the first had the higher risk; half of those with the same."""
        return self.weight * float((self.firsts * self._beaten).sum())

    def of_first(self, value: float) -> Floats:
        """Of each patient with the outcome: right pairs, less ``value`` times all."""
        return np.asarray(self.weight * (self._beaten - value * self.seconds.sum(axis=0)))

    def of_second(self, value: float) -> Floats:
        """Likewise of each patient who comes later in the same interval."""
        beaten_by = _above(self.firsts) + self.firsts / 2
        return np.asarray(self.weight * (beaten_by - value * self.firsts.sum(axis=0)))

    def of_earlier(self, value: float) -> Floats:
        """Likewise of each patient of a later interval."""
        earlier = _before(self.firsts)
        beaten_by = _above(earlier) + earlier / 2
        return np.asarray(self.weight * (beaten_by - value * earlier.sum(axis=0)))

    @property
    def _beaten(self) -> Floats:
        return _below(self.seconds) + self.seconds / 2


def _within_an_interval(events: Floats) -> float:
    """Share of pairs with outcomes in one interval that the risk puts right, were the order known.

    Two outcomes at once are told apart by nothing, and the further apart they come the better; in
    one interval they are a third as far apart as in two that follow each other.
    """
    following = np.zeros_like(events)
    following[:, :-1] = events[:, 1:]
    pairs = _Pairs(events, following)
    return 0.5 + (pairs.right / pairs.number - 0.5) / 3 if pairs.number else 0.5


def auroc_at(summary: SurvivalSummary, horizon: int) -> Estimate:
    """AUROC of the risk by a horizon, between those with the outcome by then and those without.

    Args:
        summary: one cell.
        horizon: its place among the summary's.
    """
    if not summary.n:
        return Estimate.undefined(NO_PATIENTS)
    table, last = _dense(summary, horizon), _last(summary, horizon)
    weights, at_end = _followed(summary, last)
    cases = table[:, EVENT, : last + 1]
    controls = table[:, :, last + 1 :].sum(axis=(1, 2))
    if not cases.any() or not controls.any():
        return Estimate.undefined(ONE_SIDED)
    if not at_end or not weights[cases.any(axis=0)].all():
        return Estimate.undefined(NOBODY_LEFT)
    inverse = np.divide(1.0, weights, out=np.zeros_like(weights), where=weights > 0)
    mass, squared = cases @ inverse, cases @ inverse**2
    won = (np.cumsum(controls) - controls / 2) / controls.sum()
    lost = (mass.sum() - np.cumsum(mass) + mass / 2) / mass.sum()
    value = float((mass * won).sum() / mass.sum())
    if np.count_nonzero(mass + controls) == 1:
        return Estimate.undefined(ONE_BIN)
    variance = (squared * (won - value) ** 2).sum() / mass.sum() ** 2
    variance += (controls * (lost - value) ** 2).sum() / controls.sum() ** 2
    return _between(value, float(variance), min(int(cases.sum()), int(controls.sum())))


def brier_at(summary: SurvivalSummary, horizon: int) -> Estimate:
    """Mean squared difference between the risk by a horizon and the outcome by then.

    Args:
        summary: one cell; its risks are probabilities.
        horizon: its place among the summary's.
    """
    if not summary.n:
        return Estimate.undefined(NO_PATIENTS)
    table, last = _dense(summary, horizon), _last(summary, horizon)
    weights, at_end = _followed(summary, last)
    cases = table[:, EVENT, : last + 1]
    controls = table[:, :, last + 1 :].sum(axis=(1, 2))
    if (controls.any() and not at_end) or not weights[cases.any(axis=0)].all():
        return Estimate.undefined(NOBODY_LEFT)
    if not controls.any() and not cases.any():
        return Estimate.undefined(NOBODY_LEFT)
    inverse = np.divide(1.0, weights, out=np.zeros_like(weights), where=weights > 0)
    risks, n = _scores(summary, horizon), summary.n
    of_cases = ((1 - risks) ** 2)[:, None] * inverse
    of_controls = risks**2 / at_end if at_end else np.zeros_like(risks)
    value = float((cases * of_cases).sum() + (controls * of_controls).sum()) / n
    square = float((cases * of_cases**2).sum() + (controls * of_controls**2).sum()) / n
    return _between(value, max(square - value**2, 0.0) / n, int(cases.sum()))


def integrated_brier(summary: SurvivalSummary) -> Estimate:
    """The Brier score averaged over time, from the first horizon to the last."""
    if len(summary.horizons) < 2:
        return Estimate.undefined(ONE_HORIZON)
    found = [brier_at(summary, k) for k in range(len(summary.horizons))]
    missing = next((one.reason for one in found if one.value is None), "")
    if missing:
        return Estimate.undefined(missing)
    span = summary.horizons[-1] - summary.horizons[0]
    values = [one.value or 0.0 for one in found]
    area = float(np.trapezoid(values, summary.horizons))
    return Estimate(area / span, reason=TOGETHER)


def risk_at(summary: SurvivalSummary, horizon: int) -> Risk:
    """How many are predicted to have the outcome by a horizon, and how many have it."""
    counts = _dense(summary, horizon).sum(axis=(1, 2))
    predicted = float((counts * _scores(summary, horizon)).sum() / counts.sum())
    events, censored, at_risk = _margins(summary)
    last = _last(summary, horizon)
    # those who leave in an interval are at risk for half of it
    exposed = (at_risk - censored / 2)[: last + 1]
    if not (exposed > 0).all():
        return Risk(predicted, None)
    return Risk(predicted, 1 - float(np.prod(1 - events[: last + 1] / exposed)))


def _followed(summary: SurvivalSummary, last: int) -> tuple[Floats, float]:
    """Chance to be followed to an event in each interval, (last + 1,), and to the last's end."""
    events, censored, at_risk = _margins(summary)
    exposed = at_risk - events / 2
    leave = np.divide(censored, exposed, out=np.zeros_like(exposed), where=exposed > 0)
    to_end = np.cumprod(np.maximum(1 - leave[: last + 1], 0.0))
    to_start = np.concatenate([[1.0], to_end[:-1]])
    return np.sqrt(to_start * to_end), float(to_end[-1])


def _margins(summary: SurvivalSummary) -> tuple[Floats, Floats, Floats]:
    """Events, censored and patients at risk by interval, (intervals + 1,) each."""
    censored, events = summary.by_interval().astype(np.float64)
    everybody = events + censored
    return events, censored, np.cumsum(everybody[::-1])[::-1]


def _last(summary: SurvivalSummary, horizon: int) -> int:
    """The interval that ends with a horizon."""
    return summary.intervals.index(summary.horizons[horizon])


def _dense(summary: SurvivalSummary, horizon: int) -> Floats:
    """Patients by occupied risk bin, end and interval: (bins, 2, intervals + 1)."""
    table, size = summary.tables[horizon], 2 * (len(summary.intervals) + 1)
    _, row = np.unique(table.places // size, return_inverse=True)
    found = np.zeros((int(row.max(initial=-1)) + 1, size))
    np.add.at(found, (row, table.places % size), table.counts)
    return found.reshape(len(found), 2, -1)


def _scores(summary: SurvivalSummary, horizon: int) -> Floats:
    occupied = np.unique(summary.tables[horizon].places // (2 * (len(summary.intervals) + 1)))
    assert occupied.max(initial=0) < BINS
    return SCORES[occupied]


def _after(counts: Floats) -> Floats:
    """Of (bins, intervals) counts, those of later intervals."""
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] - counts


def _before(counts: Floats) -> Floats:
    return np.cumsum(counts, axis=1) - counts


def _below(counts: Floats) -> Floats:
    """Of (bins, intervals) counts, those of lower bins."""
    return np.cumsum(counts, axis=0) - counts


def _above(counts: Floats) -> Floats:
    return np.cumsum(counts[::-1], axis=0)[::-1] - counts


def _between(value: float, variance: float, fewest: int) -> Estimate:
    point = Estimate(value)
    if fewest < FEWEST_EVENTS:
        return replace(point, reason=FEW_EVENTS)
    if not 0.0 < value < 1.0 or variance <= LEAST_VARIANCE or not math.isfinite(variance):
        return replace(point, reason=ALL_ALIKE)
    low, high = logit_interval(np.array([value]), np.array([variance]), student(fewest))
    return point.between(float(low[0]), float(high[0]), variance)
