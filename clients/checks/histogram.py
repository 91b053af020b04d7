"""A histogram of any numbers, in steps of 2.3%: small, mergeable, good enough to see units by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PER_DECADE = 100
DECADES = (-4, 8)
HALF = PER_DECADE * (DECADES[1] - DECADES[0])
BINS = 2 * HALF + 1
"""Negative values from the largest down, zero, positive values up; what lies beyond, at an end."""


def bin_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each finite value.

    >>> bin_of(np.array([-1.0, 0.0, 1.0, 10.0])).tolist()
    [799, 1200, 1601, 1701]
    """
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        place = np.floor((np.log10(size) - DECADES[0]) * PER_DECADE)
    inside = np.clip(place, 0, HALF - 1) + 1
    return (HALF + np.where(size == 0, 0, np.sign(values) * inside)).astype(np.int64)


def value_of(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the value in the middle of each bin."""
    step = np.abs(bins - HALF) - 0.5
    return np.where(
        bins == HALF, 0.0, np.sign(bins - HALF) * 10 ** (step / PER_DECADE + DECADES[0])
    )
