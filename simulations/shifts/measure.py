"""How far a site's patients are from those of other sites: the realised shift.

A site is summed up once, in a few thousand numbers; distances are taken between summaries, so that
the records of only one site are ever in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from clients.images.picture import UnreadableImage
from clients.images.read import read_image
from federation.metrics.intervals import wilson_interval
from simulations.shifts.attributes import attributes
from simulations.shifts.kind import Floats
from simulations.shifts.outcomes import outcomes
from simulations.shifts.tables import SiteTables

CATEGORIES = ("age_band", "sex", "ethnicity", "codes")
POINTS = 500
"""Quantiles kept of each code's values."""
IMAGES = 100
"""Images looked at, evenly over a site's file names."""
IMAGE_SIZE = 64
BINS = 256
FEWEST = 10
"""Patients that a correlation with the label needs on both sides."""


@dataclass(frozen=True)
class Summary:
    """A site, or one site at one moment, summed up.

    Attributes:
        outcomes: by outcome, of how many patients it is known, and how many have it.
        counts: patients by level of each attribute; events until the prediction by code, under
            ``codes``.
        values: by code with numbers, how many there are until the prediction, and ``POINTS``
            quantiles.
        moments: by code and outcome, (n, sum x, sum x^2, sum y, sum xy) of last values x and of
            whether the patients have the outcome, y.
        images: (BINS,) counts of grey and of differences between neighbouring pixels.
    """

    patients: int
    outcomes: Mapping[str, tuple[int, int]]
    counts: Mapping[str, Counter[str]]
    values: Mapping[str, tuple[int, Floats]]
    moments: Mapping[tuple[str, str], Floats]
    images: Mapping[str, Floats]


def summarise(tables: SiteTables, images: Path | None) -> Summary:
    """Sum up a site.

    Args:
        tables: what it holds.
        images: its image folder, as it is or as it was written.
    """
    patients, past = tables.patients, tables.past
    has = outcomes(tables)
    who = attributes(tables)
    events = past[past["code"].isin(tables.codes())]
    counts = {name: Counter(map(str, who[name])) for name in CATEGORIES if name != "codes"}
    counts["codes"] = Counter(events["code"].astype(str))
    numbers = events[np.isfinite(events["numeric_value"])]
    values, moments = {}, {}
    levels = np.linspace(0, 1, POINTS)
    for code, rows in numbers.groupby("code", observed=True):
        given = rows["numeric_value"].to_numpy(np.float64)
        values[str(code)] = (len(given), np.quantile(given, levels))
        last = rows.drop_duplicates("patient", keep="last")
        for name, column in has.items():
            x, y = last["numeric_value"].to_numpy(np.float64), column[last["patient"]]
            x, y = x[~np.isnan(y)], y[~np.isnan(y)]
            moments[str(code), name] = np.array(
                [len(x), x.sum(), (x * x).sum(), y.sum(), (x * y).sum()]
            )
    return Summary(
        patients=len(patients),
        outcomes={
            name: (int((~np.isnan(column)).sum()), int(np.nansum(column)))
            for name, column in has.items()
        },
        counts=counts,
        values=values,
        moments=moments,
        images=_images(tables, images) if images is not None else {},
    )


def distances(site: Summary, rest: Sequence[Summary]) -> dict[str, Any]:
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
            name: total_variation(site.counts[name], _added(one.counts[name] for one in rest))
            for name in CATEGORIES
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


def _prevalence(name: str, site: Summary, rest: Sequence[Summary]) -> dict[str, Any]:
    known, positives = site.outcomes[name]
    others = [one.outcomes[name] for one in rest]
    share = share_of((known, positives))
    theirs = share_of((sum(n for n, _ in others), sum(n for _, n in others)))
    told: dict[str, Any] = {"known": known, "positives": positives, "prevalence": None, "gap": None}
    if known:
        low, high = wilson_interval(share, known)
        told["prevalence"] = {"value": _r(share), "low": _r(low), "high": _r(high)}
    if not np.isnan(share - theirs):
        told["gap"] = _r(abs(share - theirs))
    return told


def _added(counters: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _value_distance(code: str, site: Summary, rest: Sequence[Summary]) -> float | None:
    parts = [one.values[code] for one in rest if code in one.values]
    if not parts:
        return None
    others = np.concatenate([points for _, points in parts])
    weights = np.repeat([n / POINTS for n, _ in parts], POINTS)
    mean = np.average(others, weights=weights)
    spread = float(np.sqrt(np.average((others - mean) ** 2, weights=weights)))
    if spread == 0:
        return None
    distance = wasserstein_distance(site.values[code][1], others, v_weights=weights)
    return _r(float(distance) / spread)


def _dependence(site: Summary, rest: Sequence[Summary]) -> float | None:
    gaps = []
    for pair, here in site.moments.items():
        there = sum((one.moments[pair] for one in rest if pair in one.moments), np.zeros(5))
        one, other = _correlation(here), _correlation(there)
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


def _images(tables: SiteTables, folder: Path) -> dict[str, Floats]:
    names = sorted(set(tables.events["path"].dropna()))
    every = max(1, -(-len(names) // IMAGES))
    intensity, texture = np.zeros(BINS), np.zeros(BINS)
    for name in names[::every]:
        try:
            (image,) = read_image(folder / name, (1, IMAGE_SIZE, IMAGE_SIZE))
        except UnreadableImage:
            continue
        intensity += _histogram(image)
        texture += _histogram(np.abs(np.diff(image, axis=1)))
    return {"intensity": intensity, "texture": texture} if intensity.any() else {}


def _histogram(values: Any) -> Floats:
    return np.histogram(values, BINS, (0, 1))[0].astype(np.float64)


def _histogram_distance(name: str, site: Summary, rest: Sequence[Summary]) -> float | None:
    others = [one.images[name] for one in rest if name in one.images]
    if name not in site.images or not others:
        return None
    middles = (np.arange(BINS) + 0.5) / BINS
    return _r(
        float(wasserstein_distance(middles, middles, site.images[name], np.sum(others, axis=0)))
    )


def _r(value: float) -> float:
    return round(value, 5)
