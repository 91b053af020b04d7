"""Whether more may be spent on a site's patients when each study is chosen after the last.

A Rényi filter holds under such adaptive choice at one order only, so the order follows from the cap
alone, before anything is spent. The best order of what was spent, as in ``accounting.epsilon``, is
for a schedule that was fixed beforehand.

See also:
    ``accounting``: what a fixed schedule costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from federation.privacy.accounting import Segment, check_delta, check_epsilon, composed
from federation.privacy.calibration import smallest_noise
from federation.privacy.renyi import from_epsilon, step_rdp, to_epsilon


@dataclass(frozen=True)
class RdpFilter:
    """A cap (epsilon, delta) that holds whatever is chosen next, in the light of what was released.

    Args:
        epsilon: the cap, above 0.
        delta: in (0, 1).

    Raises:
        ValueError: if either is out of range.

    Source: Feldman, Zrnic, NeurIPS 2021, with the same divergence for everybody; Haney et al., CCS
    2023, for mechanisms that run at the same time.

    >>> cap = RdpFilter(8.0, 1e-5)
    >>> cap.admits([Segment(0.05, 1.0, 200)], Segment(0.05, 1.0, 200))
    True
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        check_delta(self.delta)

    @property
    def order(self) -> float:
        """The order, near the best one of usual schedules that spend the cap.

        ``1 + 0.7 sqrt(L) / (sqrt(L + epsilon) - sqrt(L))``, ``L = ln(1 / delta)``; without the
        0.7 it is the best one of the plain Gaussian mechanism.

        What one order costs, in epsilon, against the best order of a schedule that spends the cap
        (delta 1e-5, cap 0.5 to 8, rate 0.01 to 1, 20 to 2,000 steps): 0.6% at the median, at most
        3% where ``rate * sqrt(steps)`` is 0.7 or more. A schedule that is sparse and short wants a
        lower order and pays more: at rate 0.01 and 60 steps a third at cap 8, 80% at cap 1, which
        is 11% and 28% more noise.
        """
        log = -math.log(self.delta)
        # the difference of the roots, multiplied out: it would cancel for a small epsilon
        return 1 + 0.7 * math.sqrt(log) * (math.sqrt(log + self.epsilon) + math.sqrt(log)) / (
            self.epsilon
        )

    @property
    def budget(self) -> float:
        """Rényi divergence at the order that implies the cap exactly."""
        return from_epsilon(self.epsilon, self.delta, self.order)

    def rdp(self, segments: Sequence[Segment]) -> float:
        """Rényi divergence of the segments at the order."""
        return math.fsum(
            segment.steps * step_rdp(segment.sampling_rate, segment.noise_multiplier, self.order)
            for segment in composed(segments)
        )

    def epsilon_spent(self, segments: Sequence[Segment]) -> float:
        """Epsilon at the filter's delta that is guaranteed for the segments; 0 for none.

        The first step costs most of it, at the one order: compare ``rdp`` with ``budget`` to see
        what is left.
        """
        if not segments:
            return 0.0
        return max(float(to_epsilon(self.rdp(segments), self.delta, self.order)), 0.0)

    def admits(self, spent: Sequence[Segment], more: Segment) -> bool:
        """Whether the cap still holds after more, on top of what was spent."""
        return self.rdp([*spent, more]) <= self.budget

    def calibrated_noise(
        self, spent: Sequence[Segment], sampling_rate: float, steps: int
    ) -> float | None:
        """Smallest noise multiplier of four significant digits with which the steps are admitted.

        None if that would take more than ``calibration.LARGEST_NOISE``, or if nothing is left.

        >>> RdpFilter(8.0, 1e-5).calibrated_noise([], 0.05, 200)
        0.836
        """
        return _calibrated_noise(self, composed(spent), sampling_rate, steps)


@lru_cache(maxsize=4096)  # many sites of a simulation have spent the same
def _calibrated_noise(
    cap: RdpFilter, spent: tuple[Segment, ...], sampling_rate: float, steps: int
) -> float | None:
    used, budget = cap.rdp(spent), cap.budget
    if used >= budget:
        return None

    def share(noise: float) -> float:
        both = cap.rdp([*spent, Segment(sampling_rate, noise, steps)])
        part = (both - used) / (budget - used)
        # rounding of the differences must not admit what ``admits`` does not
        return part if both <= budget else max(part, 1 + 1e-15)

    return smallest_noise(share)
