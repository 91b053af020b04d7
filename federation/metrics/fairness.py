"""How far a model treats the groups of patients alike: gaps between the levels of an attribute.

A gap is the largest difference between two levels. Its interval holds for all pairs of levels
together: it is the widest of the pairs' intervals, each with the error that Šidák leaves it. So a
gap that chance alone explains has an interval that begins at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

from federation.metrics.calibration import risk_gap
from federation.metrics.decisions import rate
from federation.metrics.estimate import Estimate
from federation.metrics.intervals import at_once
from federation.metrics.summary import Confusion, ScoreSummary

FEW_LEVELS = "fewer than two groups can be compared"


@dataclass(frozen=True)
class Group:
    """One level of an attribute.

    Args:
        auroc: of its patients, given the normal quantile of its interval.
        summaries: of its patients, whose models need not share a scale.
        confusion: decisions at the threshold; None if there is no threshold.
    """

    auroc: Callable[[float], Estimate]
    summaries: Sequence[ScoreSummary]
    confusion: Confusion | None


@dataclass(frozen=True)
class Gap:
    """The largest difference of one measure between two groups.

    Args:
        estimate: the difference, at least 0, and its interval.
        lowest: the group with the lowest value.
        highest: the group with the highest value.
        undefined: why the measure is not defined, by group.
    """

    estimate: Estimate
    lowest: str
    highest: str
    undefined: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The gap, who is at its ends, and who is not compared."""
        document = self.estimate.to_json()
        if self.lowest:
            document |= {"lowest": self.lowest, "highest": self.highest}
        return document | ({"undefined": dict(self.undefined)} if self.undefined else {})


def fairness(groups: Mapping[str, Group]) -> dict[str, Gap]:
    """Gaps between the levels of one attribute, by measure.

    ``sensitivity`` is equal opportunity, and with ``false_positive_rate`` equalised odds;
    ``selection_rate`` is demographic parity; ``calibration`` is of observed minus predicted risk;
    ``auroc`` of the ranking inside each group.

    Source: Hardt et al., NeurIPS 2016.
    """
    measures: dict[str, Callable[[Group, float], Estimate | None]] = {
        "sensitivity": partial(_decided, "sensitivity"),
        "false_positive_rate": partial(_decided, "false_positive_rate"),
        "selection_rate": partial(_decided, "alert_rate"),
        "calibration": lambda group, z: risk_gap(group.summaries, z),
        "auroc": lambda group, z: group.auroc(z),
    }
    found = {name: _gap(groups, measure) for name, measure in measures.items()}
    return {name: gap for name, gap in found.items() if gap is not None}


def _decided(name: str, group: Group, z: float) -> Estimate | None:
    return None if group.confusion is None else rate(name, group.confusion, z)


def _gap(
    groups: Mapping[str, Group], measure: Callable[[Group, float], Estimate | None]
) -> Gap | None:
    pairs = max(len(groups) * (len(groups) - 1) // 2, 1)
    z = at_once(pairs)
    told = {name: measure(group, z) for name, group in sorted(groups.items())}
    known = {name: one for name, one in told.items() if one is not None}
    if not known:
        return None
    undefined = {name: one.reason for name, one in known.items() if one.value is None}
    values = {name: one.value for name, one in known.items() if one.value is not None}
    if len(values) < 2:
        return Gap(Estimate.undefined(FEW_LEVELS), "", "", undefined)
    lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    point = Estimate(values[highest] - values[lowest])
    bounds = [_difference(known[a], known[b]) for a, b in combinations(values, 2)]
    if any(bound is None for bound in bounds):
        return Gap(
            Estimate(point.value, reason="no interval: a group has none"),
            lowest,
            highest,
            undefined,
        )
    sure = [bound for bound in bounds if bound is not None]
    low = max(max(low, -high, 0.0) for low, high in sure)
    high = max(max(-low, high) for low, high in sure)
    return Gap(point.between(low, high), lowest, highest, undefined)


def _difference(first: Estimate, second: Estimate) -> tuple[float, float] | None:
    """Interval of first minus second, of independent groups, from their own intervals.

    Source: Zou and Donner, Statistics in Medicine 2008 (of rates: Newcombe 1998, method 10).
    """
    if first.low is None or second.low is None:
        return None
    a, b = first.value, second.value
    assert a is not None and b is not None and first.high is not None and second.high is not None
    below = math.hypot(a - first.low, second.high - b)
    above = math.hypot(first.high - a, b - second.low)
    return a - b - below, a - b + above
