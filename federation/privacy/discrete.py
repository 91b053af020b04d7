"""The discrete Gaussian: noise on the whole numbers, drawn exactly, without a float anywhere.

Source: Canonne, Kamath and Steinke, NeurIPS 2020, algorithms 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Below = Callable[[int], int]
"""Draws a whole number from 0 to below its argument, all alike."""


def discrete_gaussian(size: int, scale: float, below: Below) -> NDArray[np.int64]:
    """Draw whole numbers k with probabilities proportional to exp(-k^2 / (2 scale^2)).

    Args:
        size: how many.
        scale: above 0; taken as the decimal number that it is written as.
        below: where the draws come from: ``secrets.randbelow`` at a deployed site.

    Returns:
        (size,) int64.

    >>> import random
    >>> discrete_gaussian(5, 0.01, random.Random(0).randrange).tolist()
    [0, 0, 0, 0, 0]
    """
    exact = Fraction(repr(float(scale)))
    if exact <= 0:
        raise ValueError("scale must be above 0")
    return np.array([_gaussian(exact * exact, below) for _ in range(size)], np.int64)


def _gaussian(variance: Fraction, below: Below) -> int:
    bound = _root(variance) + 1
    while True:
        drawn = _laplace(bound, below)
        away = abs(drawn) - variance / bound
        if _survives(away * away / (2 * variance), below):
            return drawn


def _laplace(scale: int, below: Below) -> int:
    """Draw k with probabilities proportional to exp(-abs(k) / scale)."""
    while True:
        part = below(scale)
        if not _survives(Fraction(part, scale), below):
            continue
        whole = 0
        while _survives(Fraction(1), below):
            whole += 1
        drawn, negative = part + scale * whole, below(2)
        if drawn or not negative:  # 0 has one sign
            return -drawn if negative else drawn


def _survives(rate: Fraction, below: Below) -> bool:
    """Return True with probability exp(-rate), rate at least 0."""
    while rate > 1:
        if not _survives_at_most_one(Fraction(1), below):
            return False
        rate -= 1
    return _survives_at_most_one(rate, below)


def _survives_at_most_one(rate: Fraction, below: Below) -> bool:
    tries = 1
    while below(rate.denominator * tries) < rate.numerator:
        tries += 1
    return tries % 2 == 1


def _root(number: Fraction) -> int:
    """The whole part of a square root."""
    from math import isqrt

    return isqrt(number.numerator // number.denominator)
