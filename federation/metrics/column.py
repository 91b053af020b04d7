"""One metric of many cells at once: values, 95% intervals, and reasons where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.metrics.estimate import Estimate
from federation.metrics.grid import Floats

Why = Sequence[tuple[NDArray[np.bool_], str]]
"""Reasons and the cells that they hold for; the first that holds counts."""


@dataclass(frozen=True, eq=False)
class Column:
    """A metric of some cells, not a number where there is none.

    Args:
        value: (cells,) point estimates.
        low: (cells,) lower ends of the intervals.
        high: (cells,) upper ends.
        variance: (cells,) sampling variances.
        reasons: why a cell has no value, or no interval; empty where it has both.
    """

    value: Floats
    low: Floats
    high: Floats
    variance: Floats
    reasons: tuple[str, ...]

    @classmethod
    def of(
        cls,
        value: Floats,
        low: ArrayLike = np.nan,
        high: ArrayLike = np.nan,
        variance: ArrayLike = np.nan,
        undefined: Why = (),
        bare: Why = (),
    ) -> Column:
        """Put a column together; an interval is widened where needed to hold its value.

        Args:
            value: (cells,).
            low: of the interval.
            high: of the interval.
            variance: of the value.
            undefined: where there is no value.
            bare: where there is no interval.
        """
        reason = np.full(len(value), "", dtype=object)
        point = np.array(value, np.float64)
        bounds = [np.broadcast_to(np.asarray(b, np.float64), point.shape) for b in (low, high)]
        lower, upper = np.minimum(bounds[0], point), np.maximum(bounds[1], point)
        spread = np.array(np.broadcast_to(np.asarray(variance, np.float64), point.shape))
        for cells, why in (*undefined, *bare):
            reason[cells & (reason == "")] = why
        for cells, _ in undefined:
            point[cells] = np.nan
        for cells, _ in (*undefined, *bare):
            lower[cells] = upper[cells] = spread[cells] = np.nan
        return cls(point, lower, upper, spread, tuple(reason))

    def at(self, cell: int) -> Estimate:
        """The metric of one cell."""
        value, low, high, variance = (
            None if np.isnan(part[cell]) else float(part[cell])
            for part in (self.value, self.low, self.high, self.variance)
        )
        return Estimate(value, low, high, self.reasons[cell], variance)

    def to_json(self) -> list[dict[str, Any]]:
        """Each cell's metric as ``Estimate.to_json`` has it."""
        found: list[dict[str, Any]] = [
            {"value": value, "low": low, "high": high}
            for value, low, high in zip(
                plain(self.value), plain(self.low), plain(self.high), strict=True
            )
        ]
        for document, reason in zip(found, self.reasons, strict=True):
            if reason:
                document["reason"] = reason
        return found


def plain(numbers: Floats) -> list[float | None]:
    """Numbers to six decimals, None for those that are none."""
    rounded = np.round(numbers, 6) + 0.0  # + 0.0: no "-0.0"
    return [None if number != number else number for number in rounded.tolist()]
