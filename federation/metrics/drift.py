"""Whether a model meets other patients, or does worse on them, than at first: from counts.

The alarm rule, in words: a change raises an alarm if chance explains it less than 5 times in 100,
after Holm's correction for everything that was looked at together; of a population stability index
(PSI) it must also be above 0.2. An index alone would call 30 patients drifted by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from federation.metrics.calibration import calibration_intercept, calibration_slope
from federation.metrics.estimate import Estimate, Z
from federation.metrics.grid import BINS, Floats
from federation.metrics.intervals import delong, wilson_interval
from federation.metrics.summary import Counts, ScoreSummary, merge

PSI_ALARM = 0.2
LEVEL = 0.05
RULE = (
    f"p below {LEVEL:g} after Holm's correction for all changes of the row's patients together; "
    f"of a population stability index also above {PSI_ALARM:g}"
)
GROUPS = 10
FEWEST_IN_GROUP = 20
"""Patients of both sides together, in a group of scores."""

ALIKE = "nearly all scores are alike"


@dataclass(frozen=True)
class Change:
    """How one measure differs from the reference.

    Args:
        estimate: the difference with its 95% interval; of a PSI the index, without one.
        p: how often chance alone would make as much; None where it cannot be told.
        index: whether it is a PSI.
    """

    estimate: Estimate
    p: float | None
    index: bool = False

    def alarms(self, adjusted: float | None) -> bool:
        """Whether it raises an alarm, given its p after Holm's correction."""
        large = not self.index or (self.estimate.value or 0.0) > PSI_ALARM
        return adjusted is not None and adjusted < LEVEL and large

    def to_json(self, adjusted: float | None) -> dict[str, Any]:
        """The difference, its p before and after correction, and whether it raises an alarm."""
        told = self.estimate.to_json()
        if self.index:
            told = {key: told[key] for key in ("value", "reason") if key in told}
        return {
            **told,
            "p": _short(self.p),
            "p_adjusted": _short(adjusted),
            "alarm": self.alarms(adjusted),
        }


def changes(reference: Sequence[ScoreSummary], later: Sequence[ScoreSummary]) -> dict[str, Change]:
    """What differs between two groups of patients under one model, by measure.

    Args:
        reference: the patients to compare with; their summaries under the model, by site.
        later: the other patients, by site.
    """
    before, after = merge(reference), merge(later)
    return {
        "scores": _index(*score_groups(reference, later), ALIKE),
        "prevalence": prevalence_change(before, after),
        "auroc": _difference(delong(before), delong(after)),
        "calibration_slope": _difference(calibration_slope(before), calibration_slope(after)),
        "calibration_intercept": _difference(
            calibration_intercept(before), calibration_intercept(after)
        ),
    }


def input_change(reference: Mapping[str, int], later: Mapping[str, int]) -> Change:
    """How far the levels of one input are from those of the reference: a PSI.

    Args:
        reference: patients by level.
        later: of the other patients, by the same levels.
    """
    levels = sorted({*reference, *later})
    return _index(
        [reference.get(level, 0) for level in levels],
        [later.get(level, 0) for level in levels],
        "there is one level only",
    )


def stability_index(reference: ArrayLike, later: ArrayLike) -> float:
    """Population stability index of two tables of counts: (groups,) each.

    Half a patient is added to each group, so that one that stands empty on one side counts.

    Source: Siddiqi, Credit Risk Scorecards, 2006.

    >>> round(stability_index([50, 50], [50, 50]), 3), round(stability_index([50, 50], [20, 80]), 2)
    (0.0, 0.41)
    """
    first, second = (np.asarray(part, np.float64) + 0.5 for part in (reference, later))
    p, q = first / first.sum(), second / second.sum()
    return float(((q - p) * np.log(q / p)).sum())


def homogeneity(reference: ArrayLike, later: ArrayLike) -> float | None:
    """Chance of tables that differ as much, if both came from one population: chi-squared.

    Args:
        reference: (groups,) counts.
        later: (groups,) counts.

    Returns:
        None where fewer than two groups are occupied, or a side is empty.

    Source: Pearson, Philosophical Magazine 1900.
    """
    from scipy.special import chdtrc

    table = np.array([reference, later], np.float64)
    table = table[:, table.any(axis=0)]
    sides = table.sum(axis=1, keepdims=True)
    if table.shape[1] < 2 or not sides.all():
        return None
    expected = sides * table.sum(axis=0) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))


def score_groups(
    reference: Sequence[ScoreSummary], later: Sequence[ScoreSummary]
) -> tuple[Floats, Floats]:
    """Patients of both by groups of scores, cut where both together are divided evenly.

    The patients of a bin are spread towards the next ones that the same site occupies: bins that
    were joined (``ScoreSummary.merged``) hold so many that whole ones would make any two tables
    differ.

    Returns:
        (groups,) each; at most ten groups, of 20 patients or more in the mean, and no more than a
        third of the occupied bins of either side.
    """
    sides = [[one.counts.sum(axis=0) for one in side if one.n] for side in (reference, later)]
    total = sum(int(one.sum()) for side in sides for one in side)
    occupied = min(sum(int((one > 0).sum()) for one in side) for side in sides)
    groups = max(min(total // FEWEST_IN_GROUP, occupied // 3, GROUPS), 2)
    places: Floats = np.arange(-1.0, BINS + 1)
    nobody = np.zeros(len(places))
    reached = [sum((_reached(one, places) for one in side), nobody) for side in sides]
    together = reached[0] + reached[1]
    cuts = np.interp(np.arange(1, groups) * total / groups, together, places)
    first, second = (
        np.diff(np.concatenate([[0.0], np.interp(cuts, places, one), one[-1:]])) for one in reached
    )
    return first, second


def _reached(counts: Counts, places: Floats) -> Floats:
    """Patients up to each place on the grid, linear between the middles of occupied bins."""
    occupied = np.flatnonzero(counts)
    middle = (np.cumsum(counts) - counts / 2)[occupied]
    known = np.concatenate([[-1.0], occupied, [float(BINS)]])
    return np.asarray(np.interp(places, known, [0.0, *middle, float(counts.sum())]))


def prevalence_change(reference: ScoreSummary, later: ScoreSummary) -> Change:
    """Difference of the shares with the outcome, later less reference.

    Source: the interval Newcombe, Statistics in Medicine 1998, method 10.
    """
    if not reference.n or not later.n:
        return Change(Estimate.undefined("no patients"), None)
    shares = [(one.positives / one.n, one.n) for one in (reference, later)]
    (before, n0), (after, n1) = shares
    (low0, high0), (low1, high1) = (wilson_interval(share, n) for share, n in shares)
    low = after - before - math.hypot(after - low1, high0 - before)
    high = after - before + math.hypot(high1 - after, before - low0)
    together = (reference.positives + later.positives) / (n0 + n1)
    spread = math.sqrt(together * (1 - together) * (1 / n0 + 1 / n1))
    p = _two_sided((after - before) / spread) if spread > 0 else None
    return Change(Estimate(after - before).between(low, high), p)


def holm(chances: Mapping[str, float | None]) -> dict[str, float | None]:
    """p of each of several tests, corrected for all of them together.

    Source: Holm, Scandinavian Journal of Statistics 1979.

    >>> holm({"a": 0.01, "b": 0.04, "c": None, "d": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': None, 'd': 0.06}
    """
    known = sorted((p, name) for name, p in chances.items() if p is not None)
    found: dict[str, float | None] = dict.fromkeys(chances)
    reached = 0.0
    for rank, (p, name) in enumerate(known):
        reached = max(reached, min(p * (len(known) - rank), 1.0))
        found[name] = reached
    return found


def _index(reference: ArrayLike, later: ArrayLike, alike: str) -> Change:
    first, second = np.asarray(reference), np.asarray(later)
    if len(first) < 2:
        return Change(Estimate.undefined(alike), None, index=True)
    value = stability_index(first, second)
    return Change(Estimate(value), homogeneity(first, second), index=True)


def _difference(before: Estimate, after: Estimate) -> Change:
    """Later less reference, of independent patients."""
    for one in (before, after):
        if one.value is None:
            return Change(one, None)
    assert before.value is not None and after.value is not None
    value = after.value - before.value
    if before.variance is None or after.variance is None:
        return Change(Estimate(value, reason="no interval: one side has none"), None)
    spread = math.sqrt(before.variance + after.variance)
    bounded = Estimate(value).between(value - Z * spread, value + Z * spread)
    return Change(bounded, _two_sided(value / spread))


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def _short(p: float | None) -> float | None:
    return None if p is None else float(f"{p:.3g}")
