"""Screening, weighing and summing of model updates, exactly.

An update is screened, multiplied by integer weights and added as 64-bit fixed-point numbers.
Integer addition is associative, so the sum does not depend on arrival order, on grouping, or
on how many processes shared the work. The same code runs in a simulation's host process and
at the server; secure aggregation can take the same path later. Memory does not grow with the number
of updates, and time is that of a few readings of them (docs/benchmarks.md).

The model is a flat vector in consecutive parts (one per modality, one for the fusion). Each
part has its own weight, the number of patients that had it, so that a site without images
does not move the image encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SCALE_BITS = 32
SCALE = 2.0**SCALE_BITS
LARGEST_CHANGE = 2.0**7
LARGEST_TOTAL_WEIGHT = 2**23
"""2^32 x 2^7 x 2^23 = 2^62: a sum within these bounds cannot overflow an int64.

The resolution, 2^-32, is finer than a float32's own spacing for weights above 0.004.
"""

BLOCK = 2**17
"""Parameters worked on at a time, one MiB of the sum: it stays in the cache, and calls are few."""

ROUNDING = 1.5 * 2.0 ** (52 - SCALE_BITS)
ROUNDING_BITS = int(np.float64(ROUNDING).view(np.int64))
"""From 2^20 to 2^21 the spacing of float64 is 2^-32, the resolution. So a change plus ROUNDING is
rounded to it, half to even, and its bits, read as an integer, are ROUNDING_BITS plus the change in
fixed point. That is one addition, where scaling, rounding and conversion are three passes.
"""


class UpdateRejected(Exception):
    """An update that must not be averaged; the reason is a fixed phrase, safe to record."""


@dataclass(frozen=True)
class Part:
    """A stretch of the flat parameter vector; several stretches may share a name and weight."""

    name: str
    start: int
    stop: int


@dataclass
class WeightedSum:
    """Sum of weighted updates in fixed point, with the total weight of each part.

    >>> total = WeightedSum.zeros((Part("ehr", 0, 2),))
    >>> total.add(np.array([0.5, -1.0], np.float32), {"ehr": 3})
    >>> total.add(np.array([1.5, 1.0], np.float32), {"ehr": 1})
    >>> total.mean()
    array([ 0.75, -0.5 ])
    """

    parts: tuple[Part, ...]
    values: NDArray[np.int64]
    weights: dict[str, int] = field(default_factory=dict)
    members: int = 0
    within: int = 0
    """Updates that clipping left as they were; central privacy adapts its norm by them."""

    @classmethod
    def zeros(cls, parts: Sequence[Part]) -> WeightedSum:
        """Return the sum of nothing."""
        size = parts[-1].stop if parts else 0
        return cls(tuple(parts), np.zeros(size, np.int64), {part.name: 0 for part in parts})

    def add(self, update: NDArray[np.float32], weights: Mapping[str, int]) -> None:
        """Add one site's update.

        Args:
            update: (parameters,) float32, local minus global weights; screened already.
            weights: patients behind each part; a part of weight zero adds nothing.

        Raises:
            UpdateRejected: if the weights are out of range.
        """
        self.add_all([update], [weights])

    def add_all(
        self, updates: Sequence[NDArray[np.float32]], weights: Sequence[Mapping[str, int]]
    ) -> None:
        """Add the updates of several sites, in one pass over the sum.

        The result is the same as of ``add`` for each of them. Memory does not grow with them.

        Args:
            updates: each (parameters,) float32, local minus global weights; screened already.
            weights: of each, patients behind each part; a part of weight zero adds nothing.

        Raises:
            UpdateRejected: if the weights are out of range; nothing has then been added.
        """
        totals = self._totals_with(weights)
        for part in self.parts:
            stretch = slice(part.start, part.stop)
            moved = [
                (update[stretch], weight[part.name])
                for update, weight in zip(updates, weights, strict=True)
                if weight[part.name]
            ]
            if moved:
                _add_fixed_point(self.values[stretch], moved)
        self.weights = totals
        self.members += len(updates)

    def merge(self, other: WeightedSum) -> None:
        """Add a partial sum made elsewhere."""
        if other.parts != self.parts:
            raise UpdateRejected("partial sum of another model")
        totals = self._totals_with([other.weights])
        self.values += other.values
        self.weights = totals
        self.members += other.members
        self.within += other.within

    def total(self) -> NDArray[np.float64]:
        """Return the sum, (parameters,) float64."""
        total = self.values.astype(np.float64)
        return np.multiply(total, 1 / SCALE, out=total)

    def replace(self, total: NDArray[np.float64]) -> None:
        """Put another sum, such as a noised one, in place of this one."""
        self.values = np.rint(np.ldexp(total, SCALE_BITS)).astype(np.int64)

    def mean(self) -> NDArray[np.float64]:
        """Return the weighted mean update, (parameters,) float64; zero where nobody had weight."""
        mean = np.zeros(len(self.values))
        for part in self.parts:
            stretch, weight = slice(part.start, part.stop), self.weights[part.name]
            if weight:  # the scale is a power of two: one division rounds as two would
                np.divide(self.values[stretch], weight * SCALE, out=mean[stretch])
        return mean

    def _totals_with(self, members: Sequence[Mapping[str, int]]) -> dict[str, int]:
        totals = dict(self.weights)
        for weights in members:
            for name, total in totals.items():
                if name not in weights:
                    raise UpdateRejected("a weight is missing")
                if not 0 <= weights[name] <= LARGEST_TOTAL_WEIGHT - total:
                    raise UpdateRejected("weight out of range")
                totals[name] = total + weights[name]
        return totals


def _add_fixed_point(
    total: NDArray[np.int64], moved: Sequence[tuple[NDArray[np.float32], int]]
) -> None:
    """Add weighted updates to a stretch of the sum, in place, a block at a time."""
    buffer = np.empty(min(BLOCK, len(total)))
    # Integers wrap around at 64 bits, so what ROUNDING_BITS adds can be taken off at the end.
    excess = (sum(weight for _, weight in moved) * ROUNDING_BITS + 2**63) % 2**64 - 2**63
    for start in range(0, len(total), BLOCK):
        stretch = slice(start, start + BLOCK)
        block = total[stretch]
        rounded = buffer[: len(block)]
        fixed = rounded.view(np.int64)
        for update, weight in moved:
            rounded[:] = update[stretch]
            np.add(rounded, ROUNDING, out=rounded)
            np.multiply(fixed, weight, out=fixed)
            np.add(block, fixed, out=block)
        np.subtract(block, excess, out=block)


def screen(update: NDArray[np.float32], size: int, largest_norm: float | None) -> None:
    """Refuse an update that would spoil the model.

    Args:
        update: what a site sent.
        size: number of parameters of the model.
        largest_norm: L2 norm above which an update is refused; None for no limit.

    Raises:
        UpdateRejected: with the reason.
    """
    if update.dtype != np.float32:
        raise UpdateRejected("not float32")
    if update.shape != (size,):
        raise UpdateRejected("wrong shape")
    for block in _blocks(update):
        largest = max(block.max(), -block.min())  # NaN if one is NaN
        if not np.isfinite(largest):
            raise UpdateRejected("not finite")
        if largest > LARGEST_CHANGE:
            raise UpdateRejected("out of range")
    if largest_norm is not None and _norm(update) > largest_norm:
        raise UpdateRejected("norm above the study's limit")


def clipped(update: NDArray[np.float32], norm: float) -> tuple[NDArray[np.float32], bool]:
    """Scale an update down to an L2 norm.

    Returns:
        The update, of at most that norm even after rounding; and whether it was left as it was.
    """
    length = _norm(update)
    if length <= norm:
        return update, True
    return (update * np.float32(norm / length * (1 - 1e-6))).astype(np.float32), False


def _norm(update: NDArray[np.float32]) -> float:
    """L2 norm, in float64 without a copy of the update in it."""
    squares = 0.0
    for block in _blocks(update):
        exact = block.astype(np.float64)
        squares += float(exact @ exact)
    return math.sqrt(squares)


def _blocks(update: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(update), BLOCK):
        yield update[start : start + BLOCK]
