"""Rényi divergence of one step of the Poisson-subsampled Gaussian mechanism, and what it implies.

Opacus and dp-accounting both sum a series for fractional orders, and neither can be trusted at all
of them: at rate 0.5, noise 100 and order 63.7 Opacus gives -0.7 where 0.0008 is true, and
dp-accounting's upper bound is several times the truth, or infinite, at the orders below 6. The
integral itself is as quick and agrees with both to nine digits wherever they are right.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ORDERS: tuple[float, ...] = tuple(1.0 + float(x) for x in np.geomspace(3e-3, 3e4, 281))
"""Orders that a bound is minimised over; the best one is inside for any epsilon from 0.001 on."""

_MOST_POINTS = 20_000
_POINTS_PER_WIDTH = 2
_TAIL_WIDTHS = 10


@lru_cache(maxsize=4096)
def step_rdp(sampling_rate: float, noise_multiplier: float, order: float) -> float:
    """Rényi divergence at one order of one step, add or remove one patient.

    It is ``log E[(1 - q + q exp((2 z - 1) / (2 s^2)))^a] / (a - 1)`` over ``z ~ N(0, s^2)``: the
    divergence of the sampled from the plain Gaussian, which is the larger of the two directions.
    The trapezoid rule converges exponentially here, and the mass lies between 0 and the order. An
    integral that would need over 20,000 points is bounded from above instead (Jensen's inequality
    on the power): of ``ORDERS``, those at which one step diverges by more than 1,000, of no use.

    Args:
        sampling_rate: q, in (0, 1].
        noise_multiplier: s, above 0.
        order: a, above 1.

    Returns:
        Divergence of at least 0; infinite where it exceeds a float.

    Source: Mironov, Talwar, Zhang, arXiv 1908.10530, section 3.

    >>> step_rdp(1.0, 2.0, 4.0)
    0.5
    """
    with np.errstate(over="ignore", divide="ignore"):
        precision = float(np.float64(noise_multiplier) ** -2)
        if sampling_rate == 1.0:
            return order * precision / 2
        kept, rate = math.log1p(-sampling_rate), math.log(sampling_rate)
        margin = _TAIL_WIDTHS * noise_multiplier
        gap = min(noise_multiplier, noise_multiplier**2) / _POINTS_PER_WIDTH
        if order + 2 * margin > _MOST_POINTS * gap:
            sampled = rate + order * (order - 1) * precision / 2
            return float(np.logaddexp(kept, sampled)) / (order - 1)
    z = np.arange(-margin, order + margin, gap)
    loss = np.logaddexp(kept, rate + (z - 0.5) * precision)
    density = gap / (noise_multiplier * math.sqrt(2 * math.pi))
    return max(_log_sum(order * loss - z**2 * precision / 2) + math.log(density), 0.0) / (order - 1)


@lru_cache(maxsize=1024)
def step_curve(sampling_rate: float, noise_multiplier: float) -> Floats:
    """Rényi divergence of one step at each of ``ORDERS``: (orders,)."""
    return np.array([step_rdp(sampling_rate, noise_multiplier, order) for order in ORDERS])


def to_epsilon(rdp: Any, delta: float, order: Any) -> Any:
    """Epsilon at delta that a divergence at an order implies; scalars or arrays, may be below 0.

    Source: Balle et al., AISTATS 2020, theorem 21; Canonne, Kamath, Steinke, NeurIPS 2020.
    """
    return rdp - _offset(delta, order)


def from_epsilon(epsilon: float, delta: float, order: float) -> float:
    """Largest divergence at the order that still implies (epsilon, delta)."""
    return epsilon + float(_offset(delta, order))


def _offset(delta: float, order: Any) -> Any:
    return (math.log(delta) + np.log(order)) / (order - 1) - np.log1p(-1 / order)


def _log_sum(exponents: Floats) -> float:
    top = float(exponents.max())
    return top + math.log(float(np.exp(exponents - top).sum()))
