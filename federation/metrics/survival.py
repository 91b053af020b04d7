"""The summary of times until an outcome: score bin by interval of time by what ended it.

A patient is counted once for each horizon: in the bin of the risk by then, and in the interval in
which the outcome came (an event) or the patient was last seen without it (censored). The last
interval has no end; what comes in it is no event, for all horizons lie before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.metrics.grid import BINS, bins_of
from federation.metrics.summary import Counts, ScoreSummary, joined

CENSORED, EVENT = 0, 1
SURVIVAL = "survival/1"
"""Name of the layout below."""


@dataclass(frozen=True)
class Table:
    """Patients by risk bin, end and interval; only the places that are not empty.

    Args:
        places: (occupied,) int64, increasing: (bin * 2 + end) * (intervals + 1) + interval.
        counts: (occupied,) int64, above 0.
    """

    places: Counts
    counts: Counts

    @classmethod
    def of(cls, places: NDArray[np.int64], counts: NDArray[np.int64]) -> Table:
        """Add up what stands at the same place."""
        found, which = np.unique(places, return_inverse=True)
        total = np.zeros(len(found), np.int64)
        np.add.at(total, which, counts)
        return cls(found, total)

    def __add__(self, other: Table) -> Table:
        return Table.of(
            np.concatenate([self.places, other.places]),
            np.concatenate([self.counts, other.counts]),
        )


@dataclass(frozen=True, eq=False)
class SurvivalSummary:
    """Risks and times of one cell.

    Args:
        intervals: their ends in days.
        horizons: in days, each the end of an interval.
        tables: one for each horizon, of the same patients.

    >>> one = SurvivalSummary.of([[0.9], [0.2]], [10, 40], [True, False], [30, 60], [60])
    >>> one.n, one.events, one.by_interval()[EVENT].tolist()
    (2, 1, [1, 0, 0])
    """

    intervals: tuple[float, ...]
    horizons: tuple[float, ...]
    tables: tuple[Table, ...]

    def __post_init__(self) -> None:
        if not self.horizons or len(self.horizons) != len(self.tables):
            raise ValueError("there must be a table for each horizon")
        if not set(self.horizons) <= set(self.intervals):
            raise ValueError("a horizon is not the end of an interval")
        marginals = [self.by_interval(k) for k in range(len(self.tables))]
        if any(not np.array_equal(one, marginals[0]) for one in marginals):
            raise ValueError("the horizons are of different patients")
        if marginals[0][EVENT, -1]:
            raise ValueError("an event after the last interval")

    @classmethod
    def of(
        cls,
        risks: ArrayLike,
        days: ArrayLike,
        events: ArrayLike,
        intervals: Sequence[float],
        horizons: Sequence[float],
    ) -> SurvivalSummary:
        """Count one cell's patients.

        Args:
            risks: (patients, horizons) risk of the outcome by each horizon, in [0, 1].
            days: (patients,) until the outcome, or until last seen without it.
            events: (patients,) bool: whether the outcome ended them.
            intervals: their ends in days, increasing.
            horizons: ends of some of them.

        Raises:
            ValueError: if a risk is not in [0, 1], or a time is negative or not a number.
        """
        p, t = np.asarray(risks, np.float64), np.asarray(days, np.float64)
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError("a risk is not a number between 0 and 1")
        if not (t >= 0).all():
            raise ValueError("a time is negative, or not a number")
        interval = np.searchsorted(np.asarray(intervals, np.float64), t, side="left")
        event = np.asarray(events, bool) & (interval < len(intervals))
        rest = event.astype(np.int64) * (len(intervals) + 1) + interval
        ones = np.ones(len(t), np.int64)
        width = 2 * (len(intervals) + 1)
        tables = [Table.of(bins_of(p[:, k]) * width + rest, ones) for k in range(len(horizons))]
        return cls(
            tuple(float(one) for one in intervals),
            tuple(float(one) for one in horizons),
            tuple(tables),
        )

    def __add__(self, other: SurvivalSummary) -> SurvivalSummary:
        if (self.intervals, self.horizons) != (other.intervals, other.horizons):
            raise ValueError("summaries of other intervals cannot be added")
        tables = tuple(a + b for a, b in zip(self.tables, other.tables, strict=True))
        return SurvivalSummary(self.intervals, self.horizons, tables)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SurvivalSummary):
            return NotImplemented
        return self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    @property
    def n(self) -> int:
        """Number of patients."""
        return int(self.tables[0].counts.sum())

    @property
    def events(self) -> int:
        """Patients in whom the outcome was seen, by the last interval's end."""
        return int(self.by_interval()[EVENT].sum())

    def by_interval(self, horizon: int = 0) -> Counts:
        """Patients by end and interval, (2, intervals + 1)."""
        table, size = self.tables[horizon], 2 * (len(self.intervals) + 1)
        found = np.zeros(size, np.int64)
        np.add.at(found, table.places % size, table.counts)
        return found.reshape(2, -1)

    def by_bin(self, horizon: int) -> Counts:
        """Patients by risk bin, (BINS,)."""
        table, found = self.tables[horizon], np.zeros(BINS, np.int64)
        np.add.at(found, table.places // (2 * (len(self.intervals) + 1)), table.counts)
        return found

    def merged(self, minimum: int) -> SurvivalSummary:
        """Join intervals, and risk bins, until each occupied one holds ``minimum`` patients.

        As in ``ScoreSummary.merged``, a group's patients are put where its median patient is. The
        intervals within the study's follow-up are not joined with what comes after, if it can be
        helped.

        Raises:
            ValueError: if the whole cell holds fewer than ``minimum`` patients.
        """
        if 0 < self.n < minimum:
            raise ValueError("a cell smaller than the minimum must be withheld, not merged")
        when = joined(self.by_interval().sum(axis=0), minimum, len(self.intervals))
        intervals = len(self.intervals) + 1
        tables = []
        for k, table in enumerate(self.tables):
            rest, interval = np.divmod(table.places, intervals)
            bins, end = np.divmod(rest, 2)
            moved = when[interval]
            ended = np.where(moved == len(self.intervals), CENSORED, end)
            where = ScoreSummary.places_of(self.by_bin(k), minimum)[bins]
            tables.append(Table.of((where * 2 + ended) * intervals + moved, table.counts))
        return SurvivalSummary(self.intervals, self.horizons, tuple(tables))

    def too_small(self, minimum: int, merged: bool) -> str:
        """Why it must not leave a site; empty if it may."""
        if self.n < minimum:
            return "a cell is smaller than the site's minimum"
        if merged:
            along = [self.by_interval().sum(axis=0)]
            along += [self.by_bin(k) for k in range(len(self.tables))]
            if any(((one > 0) & (one < minimum)).any() for one in along):
                return "an occupied bin or interval is smaller than the site's minimum"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Exact both ways."""
        return {
            "layout": SURVIVAL,
            "intervals": list(self.intervals),
            "horizons": list(self.horizons),
            "tables": [
                {"places": one.places.tolist(), "counts": one.counts.tolist()}
                for one in self.tables
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SurvivalSummary:
        """Read what ``to_json`` wrote; what a site sends is checked, not trusted.

        Raises:
            ValueError: if a part is missing, or cannot belong to any patients.
        """
        if set(document) != {"layout", "intervals", "horizons", "tables"}:
            raise ValueError("a cell holds more or less than a summary")
        if document["layout"] != SURVIVAL:
            raise ValueError(f"not a survival summary of the layout {SURVIVAL}")
        intervals, horizons = (_days(document[key]) for key in ("intervals", "horizons"))
        tables = document["tables"]
        if not isinstance(tables, list):
            raise ValueError("tables must be a list")
        most = BINS * 2 * (len(intervals) + 1)
        return cls(intervals, horizons, tuple(_table(one, most) for one in tables))


def _days(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not 0 < len(values) <= 64:
        raise ValueError("expected a list of days")
    days = tuple(float(one) for one in values if isinstance(one, int | float))
    if len(days) != len(values) or any(a >= b for a, b in pairwise((0.0, *days))):
        raise ValueError("days must be above 0 and increasing")
    return days


def _table(document: Any, most: int) -> Table:
    if not isinstance(document, Mapping) or set(document) != {"places", "counts"}:
        raise ValueError("a table has places and counts")
    places, counts = document["places"], document["counts"]
    for values, least, end in ((places, 0, most), (counts, 1, 2**31)):
        if not isinstance(values, list) or any(
            type(one) is not int or not least <= one < end for one in values
        ):
            raise ValueError("places and counts must be whole numbers in their range")
    if len(places) != len(counts) or any(a >= b for a, b in pairwise(places)):
        raise ValueError("places must be increasing, each with a count")
    return Table(np.array(places, np.int64), np.array(counts, np.int64))
