"""Screening, weighing and summing of model updates, exactly.

An update is screened, multiplied by integer weights and added as 64-bit fixed-point numbers.
Integer addition is associative, so the sum does not depend on arrival order, on grouping, or
on how many processes shared the work. The same code runs in a simulation's host process and
at the server; secure aggregation can take the same path later.

The model is a flat vector in consecutive parts (one per modality, one for the fusion). Each
part has its own weight, the number of patients that had it, so that a site without images
does not move the image encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        self._check_weights(weights)
        for part in self.parts:
            weight = weights[part.name]
            if weight:
                # A product with a power of two is exact, as is ldexp, which takes ten times longer.
                scaled = np.multiply(update[part.start : part.stop], SCALE, dtype=np.float64)
                fixed = np.rint(scaled, out=scaled).astype(np.int64)
                self.values[part.start : part.stop] += np.multiply(fixed, weight, out=fixed)
        self._add_weights(weights)
        self.members += 1

    def merge(self, other: WeightedSum) -> None:
        """Add a partial sum made elsewhere."""
        if other.parts != self.parts:
            raise UpdateRejected("partial sum of another model")
        self._check_weights(other.weights)
        self.values += other.values
        self._add_weights(other.weights)
        self.members += other.members
        self.within += other.within

    def total(self) -> NDArray[np.float64]:
        """Return the sum, (parameters,) float64."""
        return np.ldexp(self.values.astype(np.float64), -SCALE_BITS)

    def replace(self, total: NDArray[np.float64]) -> None:
        """Put another sum, such as a noised one, in place of this one."""
        self.values = np.rint(np.ldexp(total, SCALE_BITS)).astype(np.int64)

    def mean(self) -> NDArray[np.float64]:
        """Return the weighted mean update, (parameters,) float64; zero where nobody had weight."""
        mean = self.total()
        for part in self.parts:
            if self.weights[part.name]:
                mean[part.start : part.stop] /= self.weights[part.name]
        return mean

    def _check_weights(self, weights: Mapping[str, int]) -> None:
        for name, total in self.weights.items():
            if name not in weights:
                raise UpdateRejected("a weight is missing")
            if not 0 <= weights[name] <= LARGEST_TOTAL_WEIGHT - total:
                raise UpdateRejected("weight out of range")

    def _add_weights(self, weights: Mapping[str, int]) -> None:
        for name in self.weights:
            self.weights[name] += weights[name]


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
    largest = max(update.max(initial=0.0), -update.min(initial=0.0))  # NaN if one is NaN
    if not np.isfinite(largest):
        raise UpdateRejected("not finite")
    if largest > LARGEST_CHANGE:
        raise UpdateRejected("out of range")
    if largest_norm is not None and np.linalg.norm(update.astype(np.float64)) > largest_norm:
        raise UpdateRejected("norm above the study's limit")


def clipped(update: NDArray[np.float32], norm: float) -> tuple[NDArray[np.float32], bool]:
    """Scale an update down to an L2 norm.

    Returns:
        The update, of at most that norm even after rounding; and whether it was left as it was.
    """
    length = float(np.linalg.norm(update.astype(np.float64)))
    if length <= norm:
        return update, True
    return (update * np.float32(norm / length * (1 - 1e-6))).astype(np.float32), False
