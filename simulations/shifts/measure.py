"""How far a site's patients are from those of other sites: the realised shift."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from federation.metrics.intervals import wilson_interval
from simulations.shifts.kind import Floats
from simulations.shifts.pools import Pool
from simulations.shifts.summary import BINS, CATEGORIES, Summary

FEWEST = 10
"""Patients that a correlation with the label needs on both sides."""


def distances(site: Summary, rest: Pool) -> dict[str, Any]:
    """Measure a site against others, pooled.

    Returns:
        ``patients``; ``outcomes``, by name how many patients are ``known`` and ``positives``, with
        the ``prevalence`` and its 95% interval (Wilson) and the ``gap``, the absolute difference to
        the rest; ``prevalence_gap``, the mean of those; ``total_variation`` of each attribute and
        of the codes of events; ``values``, the mean over the codes of the Wasserstein distances
        ``values_by_code``, in standard deviations of the rest; ``dependence``, the mean over the
        codes and outcomes of the absolute difference in correlation between the two;
        ``image_intensity`` and ``image_texture``, Wasserstein distances of grey and of differences
        between neighbouring pixels, both in [0, 1]. What either side lacks is null.
    """
    found = {name: _prevalence(name, site, rest) for name in site.outcomes}
    gaps = [one["gap"] for one in found.values() if one["gap"] is not None]
    by_code = {
        code: distance
        for code in site.values
        if (distance := _value_distance(code, site, rest)) is not None
    }
    return {
        "patients": site.patients,
        "outcomes": found,
        "prevalence_gap": _r(float(np.mean(gaps))) if gaps else None,
        "total_variation": {
            name: total_variation(site.counts[name], rest.counts[name]) for name in CATEGORIES
        },
        "values": _r(float(np.mean(list(by_code.values())))) if by_code else None,
        "values_by_code": by_code,
        "dependence": _dependence(site, rest),
        **{
            f"image_{name}": _histogram_distance(name, site, rest)
            for name in ("intensity", "texture")
        },
    }


def total_variation(one: Counter[str], other: Counter[str]) -> float | None:
    """Half the sum of absolute differences of two sets of shares; None if either is empty.

    >>> total_variation(Counter(a=1, b=1), Counter(a=3, c=1))
    0.5
    """
    sizes = one.total(), other.total()
    if not all(sizes):
        return None
    gaps = (abs(one[key] / sizes[0] - other[key] / sizes[1]) for key in one | other)
    return _r(sum(gaps) / 2)


def share_of(outcome: tuple[int, int]) -> float:
    """Return the share of those of whom it is known who have an outcome; NaN of nobody."""
    known, positives = outcome
    return positives / known if known else float("nan")


def _prevalence(name: str, site: Summary, rest: Pool) -> dict[str, Any]:
    known, positives = site.outcomes[name]
    share, theirs = share_of((known, positives)), share_of(rest.outcomes[name])
    told: dict[str, Any] = {"known": known, "positives": positives, "prevalence": None, "gap": None}
    if known:
        low, high = wilson_interval(share, known)
        told["prevalence"] = {"value": _r(share), "low": _r(low), "high": _r(high)}
    if not np.isnan(share - theirs):
        told["gap"] = _r(abs(share - theirs))
    return told


def _value_distance(code: str, site: Summary, rest: Pool) -> float | None:
    others, weights = rest.values.get(code, (np.zeros(0), np.zeros(0)))
    if not len(others):
        return None
    mean = np.average(others, weights=weights)
    spread = float(np.sqrt(np.average((others - mean) ** 2, weights=weights)))
    if spread == 0:
        return None
    distance = wasserstein_distance(site.values[code][1], others, v_weights=weights)
    return _r(float(distance) / spread)


def _dependence(site: Summary, rest: Pool) -> float | None:
    gaps = []
    for pair, here in site.moments.items():
        one, other = _correlation(here), _correlation(rest.moments.get(pair, np.zeros(5)))
        if one is not None and other is not None:
            gaps.append(abs(one - other))
    return _r(float(np.mean(gaps))) if gaps else None


def _correlation(moments: Floats) -> float | None:
    n, x, xx, y, xy = moments
    if n < FEWEST:
        return None
    spread = (n * xx - x * x) * (n * y - y * y)
    # Squares of large numbers lose digits: a value that hardly varies has no correlation.
    if spread <= 1e-9 * n * xx * n * y:
        return None
    return float((n * xy - x * y) / np.sqrt(spread))


def _histogram_distance(name: str, site: Summary, rest: Pool) -> float | None:
    others = rest.images.get(name)
    if name not in site.images or others is None or not others.any():
        return None
    middles = (np.arange(BINS) + 0.5) / BINS
    return _r(float(wasserstein_distance(middles, middles, site.images[name], others)))


def _r(value: float) -> float:
    return round(value, 5)
