"""What training on a site's patients has cost: epsilon at a delta, and noise for a given epsilon.

Every figure is for adding or removing one patient, under Poisson sampling of patients, and is an
upper bound. Gaussian differential privacy's central limit is not offered: its figure can lie below
the truth (1.62 against 1.83 for 1,000 steps at rate 0.01, noise 1, delta 1e-5).

See also:
    ``filter``: whether more may be spent when studies are chosen one after the other.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from federation.privacy.calibration import LARGEST_NOISE, smallest_noise
from federation.privacy.renyi import ORDERS, step_curve, to_epsilon

Accountant = Literal["pld", "rdp", "prv"]

ADJACENCY = "add or remove one patient"

_MOST_KINDS = 64
_MOST_STEPS = 10_000_000
_LEAST_DELTA = 1e-12
_MOST_EPSILON = 1000
_MOST_LOSSES = 15_000
_MOST_PRV_POINTS = 2_000_000


@dataclass(frozen=True)
class Segment:
    """Equal steps of the Poisson-subsampled Gaussian mechanism on a site's patients.

    With ``noise`` "discrete" a step is one whole number to which a patient adds at most 1, with
    discrete Gaussian noise of that scale, and ``sampling_rate`` is 1. Its Rényi divergence is at
    most that of the Gaussian (Canonne, Kamath, Steinke 2020); its privacy loss distribution is its
    own.

    Args:
        sampling_rate: chance of each patient to be in a step, in (0, 1].
        noise_multiplier: standard deviation of the noise over the clipping norm, above 0.
        steps: at least 1; a step with an empty sample is one too.
        noise: continuous, or on the whole numbers.

    Raises:
        ValueError: if a number is out of range, not finite or of another type.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    noise: Literal["gaussian", "discrete"] = "gaussian"

    def __post_init__(self) -> None:
        if self.noise == "discrete" and self.sampling_rate != 1:
            raise ValueError("discrete noise is for everybody: sampling_rate must be 1")
        if not (_is_number(self.sampling_rate) and 0 < self.sampling_rate <= 1):
            raise ValueError(f"sampling_rate must be in (0, 1], not {self.sampling_rate!r}")
        if not (_is_number(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(f"noise_multiplier must be above 0, not {self.noise_multiplier!r}")
        if not isinstance(self.steps, Integral) or not _is_number(self.steps) or self.steps < 1:
            raise ValueError(f"steps must be a whole number from 1 on, not {self.steps!r}")


def epsilon(segments: Sequence[Segment], delta: float, accountant: Accountant = "pld") -> float:
    """Epsilon at delta of all segments together.

    - ``"pld"``: privacy loss distributions (dp-accounting), rounded pessimistically. The grid is
      relative: 2e-4 of the RDP epsilon and at most 0.01, or a 15,000th of the range of one step's
      loss where that is wider; usually within 0.03% of a grid ten times finer. Where the RDP bound
      is smaller, or no distribution is attempted (see ``_pld``), it is that bound: valid too.
    - ``"rdp"``: Rényi divergence at the best of 281 orders: valid for a schedule fixed beforehand.
    - ``"prv"``: Opacus's PRV accountant, the upper end of its error bounds (0.01 in epsilon).

    Args:
        segments: what was spent, in any order.
        delta: in (0, 1).
        accountant: which figure.

    Returns:
        Epsilon of at least 0: 0 for no segments, ``math.inf`` where it cannot be bounded.

    Raises:
        ValueError: if delta is out of range or the accountant unknown.

    >>> round(epsilon([Segment(0.01, 1.0, 1000)], 1e-5), 2)
    1.83
    """
    check_delta(delta)
    _check_accountant(accountant)
    spent = composed(segments)
    return _BOUNDS[accountant](spent, delta) if spent else 0.0


def epsilons(segments: Sequence[Segment], delta: float) -> dict[Accountant, float | None]:
    """Epsilon at delta by every accountant, PLD first.

    PRV is None where it fails, is not finite, or is not attempted: where its grid would exceed two
    million points (two seconds), as predicted from the RDP epsilon and the steps.

    >>> {name: round(value, 2) for name, value in epsilons([Segment(1.0, 10.0, 4)], 1e-5).items()}
    {'pld': 0.73, 'rdp': 0.79, 'prv': 0.74}
    """
    figures: dict[Accountant, float | None] = {}
    for accountant in _BOUNDS:
        value = epsilon(segments, delta, accountant)
        figures[accountant] = None if accountant == "prv" and math.isinf(value) else value
    return figures


def tightest(segments: Sequence[Segment], delta: float) -> tuple[Accountant, float]:
    """The smaller of the PLD and RDP bounds, and which of the two it is.

    PRV is left out: Opacus bounds the error of its grid, but looks at one direction only (removing
    a patient), so it is a check on the other two rather than a bound.
    """
    rdp, smaller = epsilon(segments, delta, "rdp"), epsilon(segments, delta, "pld")
    return ("pld", smaller) if smaller < rdp else ("rdp", rdp)


@lru_cache(maxsize=1024)
def calibrated_noise(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    accountant: Accountant = "pld",
    kind: Literal["gaussian", "discrete"] = "gaussian",
) -> float:
    """Smallest noise multiplier of four significant digits that keeps the steps within epsilon.

    Raises:
        ValueError: if a number is out of range, or if more than ``LARGEST_NOISE`` is needed.

    >>> calibrated_noise(8.0, 1e-5, 0.05, 200)
    0.7869
    """
    check_epsilon(epsilon)
    check_delta(delta)
    _check_accountant(accountant)

    def share(noise: float, by: Accountant = accountant) -> float:
        return _BOUNDS[by]((Segment(sampling_rate, noise, steps, kind),), delta) / epsilon

    noise = smallest_noise(lambda noise: share(noise, "rdp"))
    if accountant != "rdp" and noise is not None:
        # each try costs more here, and the answer is a little below that of RDP
        noise = smallest_noise(share, 0.9 * noise, noise)
    if noise is None:
        raise ValueError(
            f"epsilon {epsilon:g} at delta {delta:g} cannot be kept by {steps} steps at sampling "
            f"rate {sampling_rate:g}: it needs noise above {LARGEST_NOISE:g}. Allow a larger "
            "epsilon, or plan fewer steps."
        )
    return noise


def composed(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The same spending with the steps of equal segments added, sorted by rate and noise.

    >>> composed([Segment(0.1, 2.0, 3), Segment(0.1, 1.0, 1), Segment(0.1, 2.0, 4)])[1].steps
    7
    """
    ordered = sorted(segments, key=_kind)
    return tuple(
        Segment(float(rate), float(scale), sum(int(segment.steps) for segment in equal), noise)
        for (rate, scale, noise), equal in groupby(ordered, key=_kind)
    )


def check_delta(delta: float) -> None:
    """Raise ``ValueError`` unless delta is in (0, 1)."""
    if not (_is_number(delta) and 0 < delta < 1):
        raise ValueError(f"delta must be between 0 and 1, not {delta!r}")


def check_epsilon(epsilon: float) -> None:
    """Raise ``ValueError`` unless epsilon is finite and above 0."""
    if not (_is_number(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be above 0, not {epsilon!r}")


@lru_cache(maxsize=256)
def _rdp(spent: tuple[Segment, ...], delta: float) -> float:
    curves = [
        segment.steps * step_curve(segment.sampling_rate, segment.noise_multiplier)
        for segment in spent
    ]
    best = np.min(to_epsilon(np.sum(curves, axis=0), delta, np.array(ORDERS)))
    return max(float(best), 0.0)


@lru_cache(maxsize=256)
def _pld(spent: tuple[Segment, ...], delta: float) -> float:
    """Pessimistic bound from privacy loss distributions, or the RDP bound if that is smaller.

    No distribution is attempted for more than 64 different segments (seconds), above 10 million
    steps or below delta 1e-12 (rounding of the Fourier transform), or where the RDP bound is above
    1,000 (nobody is protected). Its size follows the grid, which follows the RDP bound, so no
    schedule exhausts the memory.
    """
    rdp, steps = _rdp(spent, delta), sum(segment.steps for segment in spent)
    feasible = len(spent) <= _MOST_KINDS and steps <= _MOST_STEPS and delta >= _LEAST_DELTA
    if not feasible or not 0 < rdp <= _MOST_EPSILON:
        return rdp
    # mass of the noise's tails that counts as lost: a millionth of delta over all steps
    tail = math.log(delta * 1e-6 / steps)
    grid = min(rdp * 2e-4, 0.01)
    interval = max(grid, *(_loss_range(segment, tail) / _MOST_LOSSES for segment in spent))
    total: Any = None
    for segment in spent:
        distribution = _step_losses(segment, interval, tail).self_compose(segment.steps)
        total = total.compose(distribution) if total else distribution
    return min(float(total.get_epsilon_for_delta(delta)), rdp)


def _step_losses(segment: Segment, interval: float, tail: float) -> Any:
    """Privacy loss distribution of one step, rounded pessimistically to a grid.

    Args:
        segment: the step's terms.
        interval: of the grid.
        tail: logarithm of the mass of the noise that counts as lost.
    """
    from dp_accounting.pld.privacy_loss_distribution import (
        from_discrete_gaussian_mechanism,
        from_gaussian_mechanism,
    )

    if segment.noise == "discrete":
        # the mass beyond counts as lost too; 1e-30 of it unless a bound is given
        return from_discrete_gaussian_mechanism(
            segment.noise_multiplier,
            sensitivity=1,
            pessimistic_estimate=True,
            value_discretization_interval=interval,
        )
    return from_gaussian_mechanism(
        segment.noise_multiplier,
        sampling_prob=segment.sampling_rate,
        pessimistic_estimate=True,
        value_discretization_interval=interval,
        log_mass_truncation_bound=tail,
    )


@lru_cache(maxsize=256)
def _prv(spent: tuple[Segment, ...], delta: float) -> float:
    from opacus.accountants import PRVAccountant

    if any(segment.noise == "discrete" for segment in spent):
        return math.inf  # it knows the continuous one only
    steps = sum(segment.steps for segment in spent)
    # Opacus's domain is 3 wider, on either side, than the RDP epsilon at a 4,000th of delta
    mesh = 0.01 / math.sqrt(steps * math.log(12_000 / delta) / 2)
    if not (_rdp(spent, delta / 4000) + 3) * 2 / mesh <= _MOST_PRV_POINTS:
        return math.inf
    accountant = PRVAccountant()
    accountant.history = [(s.noise_multiplier, s.sampling_rate, s.steps) for s in spent]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            value = float(accountant.get_epsilon(delta))
        except (ArithmeticError, RuntimeError, ValueError):
            return math.inf
    return value if value >= 0 else math.inf


_BOUNDS: dict[Accountant, Callable[[tuple[Segment, ...], float], float]] = {
    "pld": _pld,
    "rdp": _rdp,
    "prv": _prv,
}


def _loss_range(segment: Segment, tail: float) -> float:
    """Width of the privacy losses of a step whose noise leaves out the tail: exp(tail) of mass."""
    noise, rate = segment.noise_multiplier, segment.sampling_rate
    reach = math.sqrt(-2 * tail) / noise
    with np.errstate(divide="ignore"):
        kept, sampled = np.log1p(-rate), math.log(rate) + 0.5 / noise / noise
    return float(np.logaddexp(kept, sampled + reach) - np.logaddexp(kept, sampled - reach))


def _check_accountant(accountant: str) -> None:
    if accountant not in _BOUNDS:
        raise ValueError(f"accountant must be one of {', '.join(_BOUNDS)}, not {accountant!r}")


def _kind(segment: Segment) -> tuple[float, float, Literal["gaussian", "discrete"]]:
    return float(segment.sampling_rate), float(segment.noise_multiplier), segment.noise


def _is_number(value: object) -> bool:
    if type(value) is float:  # nearly always, and cheaper to tell
        return math.isfinite(value)
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
