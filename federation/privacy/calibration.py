"""The smallest noise that fits, among numbers short enough to be typed into another tool."""

from __future__ import annotations

import math
from collections.abc import Callable

SMALLEST_NOISE = 0.01
LARGEST_NOISE = 1e4
"""Noise multipliers to choose from: below, nobody is protected; above, nothing is learned."""

_PER_DECADE = 9000  # four significant digits: 1.000, 1.001, ..., 9.999


def smallest_noise(
    share: Callable[[float], float],
    low: float = SMALLEST_NOISE,
    high: float = LARGEST_NOISE,
) -> float | None:
    """Smallest noise multiplier of four significant digits whose share is at most 1.

    Regula falsi (Illinois) on the logarithm of the share, over the grid of such numbers, until the
    next one down is known not to fit.

    Args:
        share: part of what is allowed that a noise multiplier spends; falls as the noise grows.
        low: a guess from below; widened until it does not fit.
        high: a guess from above; widened until it fits.

    Returns:
        The noise, at least ``SMALLEST_NOISE``; None if ``LARGEST_NOISE`` does not fit.

    >>> smallest_noise(lambda noise: 2 / noise**2)
    1.415
    """
    least, most = _index(SMALLEST_NOISE), _index(LARGEST_NOISE)
    below, above = max(_index(low), least), min(_index(high) + 1, most)

    def excess(index: int) -> float:
        value = share(_noise(index))
        return math.log(value) if 0 < value < math.inf else math.copysign(1e3, value - 1)

    while (fits := excess(above)) > 0:
        if above == most:
            return None
        above = min(above + _PER_DECADE // 4, most)
    while (spills := excess(below)) <= 0:
        if below == least:
            return SMALLEST_NOISE
        above, fits = below, spills
        below = max(below - _PER_DECADE // 4, least)
    kept = 0
    while above - below > 1:
        guess = round((below * fits - above * spills) / (fits - spills))
        guess = min(max(guess, below + 1), above - 1)
        if (value := excess(guess)) <= 0:
            spills /= 2 if kept > 0 else 1
            above, fits, kept = guess, value, 1
        else:
            fits /= 2 if kept < 0 else 1
            below, spills, kept = guess, value, -1
    return _noise(above)


def _index(noise: float) -> int:
    """Place of the noise on the grid, of the next one below where it is between two."""
    exponent = math.floor(math.log10(noise))
    return _PER_DECADE * exponent + math.floor(noise / 10.0**exponent * 1000 + 1e-9) - 1000


def _noise(index: int) -> float:
    exponent, digits = divmod(index, _PER_DECADE)
    return float(f"{digits + 1000}e{exponent - 3}")
