"""Several sites' summaries as one, and for each of many sites that of all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.shifts.kind import Floats
from simulations.shifts.summary import CATEGORIES, POINTS, Summary

POOLED_POINTS = 10 * POINTS
"""About so many quantiles of each code's values, of all sites together, are kept in a pool."""
FEWEST_POINTS = 10

Pair = tuple[str, str]


@dataclass(frozen=True)
class Pool:
    """Some sites, summed up together; see `Summary`.

    Attributes:
        values: by code, quantiles of each site and what each weighs.
    """

    outcomes: Mapping[str, tuple[int, int]]
    counts: Mapping[str, Counter[str]]
    values: Mapping[str, tuple[Floats, Floats]]
    moments: Mapping[Pair, Floats]
    images: Mapping[str, Floats]


def pool(sites: Sequence[Summary]) -> Pool:
    """Sum up some sites."""
    added = _added(sites)
    moments = _moments(sites).sum(axis=1) if sites else np.zeros((0, 5))
    return Pool(
        added.outcomes,
        added.counts,
        {code: values.without() for code, values in added.values.items()},
        dict(zip(added.pairs, moments, strict=True)),
        added.images,
    )


def pools_of_others(sites: Sequence[Summary]) -> Iterator[Pool]:
    """Yield for each site the pool of all others, in time that grows with the sites alone."""
    added = _added(sites)
    moments = _moments(sites)
    # From both sides, for a site of huge values subtracted from the whole leaves nothing exact.
    others = np.zeros_like(moments)
    others[:, 1:] += moments.cumsum(axis=1)[:, :-1]
    others[:, :-1] += moments[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    for place, site in enumerate(sites):
        outcomes = {
            name: (known - site.outcomes[name][0], positives - site.outcomes[name][1])
            for name, (known, positives) in added.outcomes.items()
        }
        yield Pool(
            outcomes,
            {name: added.counts[name] - site.counts[name] for name in CATEGORIES},
            {code: values.without(place) for code, values in added.values.items()},
            dict(zip(added.pairs, others[:, place], strict=True)),
            {
                name: counts - site.images.get(name, np.zeros_like(counts))
                for name, counts in added.images.items()
            },
        )


@dataclass(frozen=True)
class _Values:
    """(points,) of all sites, what each weighs, and the place of its site."""

    points: Floats
    weights: Floats
    owner: NDArray[np.int64]

    def without(self, place: int = -1) -> tuple[Floats, Floats]:
        others = self.owner != place
        return self.points[others], self.weights[others]


@dataclass(frozen=True)
class _Added:
    outcomes: Mapping[str, tuple[int, int]]
    counts: Mapping[str, Counter[str]]
    values: Mapping[str, _Values]
    pairs: Sequence[Pair]
    images: Mapping[str, Floats]


def _added(sites: Sequence[Summary]) -> _Added:
    counts: dict[str, Counter[str]] = {name: Counter() for name in CATEGORIES}
    for site in sites:
        for name in CATEGORIES:
            counts[name].update(site.counts[name])
    names = dict.fromkeys(name for site in sites for name in site.outcomes)
    kinds = dict.fromkeys(name for site in sites for name in site.images)
    return _Added(
        {
            name: (
                sum(site.outcomes[name][0] for site in sites),
                sum(site.outcomes[name][1] for site in sites),
            )
            for name in names
        },
        counts,
        {code: _values(code, sites) for code in dict.fromkeys(c for s in sites for c in s.values)},
        _pairs(sites),
        {
            name: np.sum([site.images[name] for site in sites if name in site.images], axis=0)
            for name in kinds
        },
    )


def _values(code: str, sites: Sequence[Summary]) -> _Values:
    having = [(place, site.values[code]) for place, site in enumerate(sites) if code in site.values]
    each = int(np.clip(POOLED_POINTS // len(having), FEWEST_POINTS, POINTS))
    chosen = ((np.arange(each) + 0.5) * POINTS / each).astype(int)
    return _Values(
        np.concatenate([points[chosen] for _, (_, points) in having]),
        np.repeat([n / each for _, (n, _) in having], each),
        np.repeat([place for place, _ in having], each),
    )


def _pairs(sites: Sequence[Summary]) -> list[Pair]:
    return list(dict.fromkeys(pair for site in sites for pair in site.moments))


def _moments(sites: Sequence[Summary]) -> Floats:
    """(pairs, sites, 5), zeros where a site has none of it."""
    pairs = _pairs(sites)
    found = [site.moments.get(pair, np.zeros(5)) for pair in pairs for site in sites]
    return np.array(found).reshape(len(pairs), len(sites), 5)
