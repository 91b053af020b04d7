"""Values against the study's reference ranges, and units that were mixed up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clients.checks.finding import Finding, named
from clients.checks.histogram import HALF, PER_DECADE, value_of
from clients.checks.scan import Scan
from clients.checks.units import Mistake, fitting, of_analyte
from clients.features import LARGEST_VALUE
from federation.vocabulary import Scale

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
FAR, FAR_BELOW = 5.0, 3.0
"""Half-widths of the reference range from its middle, and the part of its lower end, beyond which a
value is odd."""
WHOLE = 0.8
"""Share of odd values from which the whole code is in another unit."""
GAP, GAP_OF_ANY = 1.2, 2.0
"""Ratios by which odd values stand apart from the others if they are in another unit: for a change
that goes with the analyte, and for one of any analyte, which the end of a tail may fit as well."""
FEWEST = 20
TINY = 1e-9
FEW_STRAY = 10


@dataclass(frozen=True)
class Ranged:
    """The values of one code beside its reference range.

    Attributes:
        code: the code.
        low: of the range.
        high: of the range.
        values: how many there are.
        quantiles: of the values, at ``QUANTILES``.
        outside: share of the values outside the range.
        clipped: share so far outside that training clips them.
        mistake: a change of unit that would explain those that are far off.
        strays: how many values it explains.
        placeholder: how many of the values are one and the same number far off.
    """

    code: str
    low: float
    high: float
    values: int
    quantiles: tuple[float, ...]
    outside: float
    clipped: float
    mistake: Mistake | None
    strays: int
    placeholder: int


def ranged_values(events: pd.DataFrame, ranges: Mapping[str, tuple[float, float]]) -> list[Ranged]:
    """Return each code of the study's reference ranges that has values here."""
    wanted = events[events["code"].isin(list(ranges)) & np.isfinite(events["numeric_value"])]
    return [
        _ranged(str(code), *ranges[str(code)], group["numeric_value"].to_numpy(np.float64))
        for code, group in wanted.groupby("code", observed=True, sort=True)
    ]


def value_findings(found: Sequence[Ranged]) -> Iterator[Finding]:
    """Report what stands for a missing value, suspected units, then values far off."""
    held = [one for one in found if one.placeholder]
    if held:
        most = max(one.placeholder / one.values for one in held)
        yield Finding(
            "warning",
            "values",
            named(one.code for one in held),
            f"one and the same number far from the study's range stands for up to {most:.0%} of "
            "the values: perhaps for a missing one, such as -1 or 9999",
            "Leave these values empty in the export, or name the number as a missing marker.",
        )
    for one in found:
        if one.mistake is None:
            continue
        whole = one.strays > WHOLE * one.values
        share = "all" if one.strays == one.values else f"{one.strays:,} of {one.values:,}"
        yield Finding(
            "blocker" if whole else "warning",
            "values",
            one.code,
            f"{share} values are far from the study's range {one.low:g} to {one.high:g}, and would "
            f"fit it after a change of unit ({one.mistake.what})",
            "Convert them in the export, or give them a code of their own."
            if not whole
            else "Convert the code to the study's unit in the export, or ask for the study's range "
            "to be changed.",
        )
    rest = [one for one in found if one.mistake is None and not one.placeholder]
    odd = [one for one in rest if one.clipped > 0.01]
    if odd:
        yield Finding(
            "warning",
            "values",
            named(one.code for one in odd),
            f"over 1% of the values lie more than {LARGEST_VALUE:g} half-widths from the middle of "
            "the study's range; training clips them there",
            "Look at their units and at placeholders such as 9999 in the export.",
        )
    off = [one for one in rest if one.outside > 0.9 and one.values >= FEWEST]
    if off:
        yield Finding(
            "warning",
            "values",
            named(one.code for one in off),
            "over 90% of the values lie outside of the study's range",
            "Ask whether the range and the unit are those of this code.",
        )


def cluster_findings(scan: Scan, known: set[str]) -> Iterator[Finding]:
    """Report codes whose values fall into two groups with a unit's factor between them.

    Args:
        scan: of the site's events.
        known: codes that were looked at against their reference range.
    """
    for place, counts in sorted(scan.histograms.items()):
        code = scan.codes[place]
        if code in known or (found := two_clusters(code, counts)) is None:
            continue
        mistake, minor = found
        yield Finding(
            "warning",
            "values",
            code,
            f"the values fall into two groups, of {minor:,} and {int(counts.sum()) - minor:,}, as "
            f"a change of unit would leave them ({mistake.what})",
            "Give the two units two codes, or convert one of them in the export.",
        )


def two_clusters(code: str, counts: NDArray[np.int64]) -> tuple[Mistake, int] | None:
    """Return the change of unit between two groups of positive values, and the smaller's size.

    Only changes that name the code's own analyte are thought of: of any code, too many fit.

    Args:
        code: whose words name the analyte.
        counts: histogram of its values.
    """
    positive = counts[HALF + 1 :].astype(np.float64)
    total = positive.sum()
    analyte = of_analyte(code)
    if total < 2 * FEWEST or not analyte or np.count_nonzero(positive) < 8:
        return None
    occupied = np.flatnonzero(positive)
    gaps = np.diff(occupied)
    # An empty stretch of a twelfth of a decade: a factor of 1.2 that no value takes.
    for gap in np.flatnonzero(gaps > PER_DECADE // 12):
        left, right = positive[: occupied[gap] + 1], positive[occupied[gap] + 1 :]
        minor = int(min(left.sum(), right.sum()))
        if minor < max(FEW_STRAY, 0.005 * total):
            continue
        low, high = _median(left, 0), _median(right, int(occupied[gap]) + 1)
        for mistake in analyte:
            if abs(np.log(mistake.undo(np.array([low]))[0].clip(1e-9) / high)) < np.log(1.25):
                return mistake, minor
    return None


def _median(counts: NDArray[np.float64], start: int) -> float:
    total = np.cumsum(counts)
    place = int(np.searchsorted(total, total[-1] / 2)) + start
    return float(value_of(np.array([HALF + 1 + place]))[0])


def _ranged(code: str, low: float, high: float, values: NDArray[np.float64]) -> Ranged:
    scale = Scale.of_range(low, high)

    def scaled(of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.abs((of - scale.center) / scale.width)

    distance = scaled(values)
    odd = (distance > FAR) | (values < low / FAR_BELOW if low > 0 else False)
    far = values[odd]
    mistake, placeholder = None, 0
    if len(far) >= max(FEW_STRAY, 0.005 * len(values)):
        commonest = int(np.unique(far, return_counts=True)[1].max())
        placeholder = commonest if commonest > 0.5 * len(far) else 0
    if len(far) >= max(FEW_STRAY, 0.005 * len(values)) and not placeholder and far.min() > 0:
        gap = _gap(far, values[~odd])
        possible = [m for m in fitting(code) if gap > (GAP if m.words else GAP_OF_ANY)]
        mistake = next((m for m in possible if (scaled(m.undo(far)) < 2).mean() > 0.8), None)
    return Ranged(
        code,
        low,
        high,
        len(values),
        tuple(float(q) for q in np.quantile(values, QUANTILES)),
        float((distance > 1).mean()),
        float((distance > LARGEST_VALUE).mean()),
        mistake,
        len(far) if mistake else 0,
        placeholder,
    )


def _gap(far: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return by which ratio odd values are apart from the others; infinite if they are the rule."""
    if len(far) > WHOLE * (len(far) + len(others)):
        return math.inf
    least, most = np.quantile(others, (0.001, 0.999))
    return float(max(far.min() / max(most, TINY), least / max(far.max(), TINY)))
