"""What the rules share: what a round gives them, and how they count the sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.bodies import TrainBody
from federation.collect import SiteUpdate
from federation.layout import LOCAL, Layout
from federation.models.build import Vector
from federation.reduce import Part, WeightedSum
from federation.strategies.base import Strategy

Floats = NDArray[np.float64]
State = dict[str, NDArray[np.float64]]

LEAST_FACTOR = 1e-3
"""No site counts for less than this share of the one that counts most."""
LEAST_VARIANCE = 1e-30
"""A smaller one is taken for this: its inverse is still a number."""
VARIANCE = "variance:"


@dataclass(frozen=True)
class Gathered:
    """A round's usable updates.

    Attributes:
        told: what each site said beside its update, by site.
        members: how many sites the federation has.
        total: the weighted sum, for strategies that need no more.
        updates: each site's, by site in order, for those that do.
    """

    told: Mapping[str, TrainBody]
    members: int
    total: WeightedSum | None = None
    updates: Sequence[SiteUpdate] = field(default=())

    @property
    def share(self) -> float:
        """Share of the federation's sites that sent an update."""
        return len(self.told) / max(self.members, len(self.told), 1)


class Rule:
    """How a round's updates become the next model; this one is what all have in common.

    Args:
        strategy: the options.
        layout: of the updates.

    Attributes:
        notes: what the last round's record tells of the rule.
    """

    def __init__(self, strategy: Strategy, layout: Layout):
        self.strategy, self.layout = strategy, layout
        self._variances: dict[str, float] = {}
        self.notes: dict[str, Any] = {}

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return the model that follows ``weights``, (parameters,) float32."""
        raise NotImplementedError

    def note(self, told: Mapping[str, TrainBody]) -> None:
        """Remember what the sites said, for the rounds that follow."""
        for site, body in told.items():
            if body.gradient_variance:
                self._variances[site] = max(body.gradient_variance, LEAST_VARIANCE)

    @property
    def control(self) -> Vector | None:
        """The control variate that the sites are sent."""
        return None

    def factors(self, sites: Iterable[str]) -> dict[str, float] | None:
        """Return by what each site's update is multiplied; None for nothing.

        Inverse variance goes by the last round in which a site was heard. Who was never heard
        counts as the others do on average.
        """
        if not self.strategy.wants_variance:
            return None
        precision = {site: 1 / variance for site, variance in self._variances.items()}
        mean = sum(precision.values()) / len(precision) if precision else 1.0
        return relative({site: precision.get(site, mean) for site in sites})

    def state(self) -> State:
        """Return what the next round follows from beside the weights."""
        return {f"{VARIANCE}{site}": np.array(v) for site, v in self._variances.items()}

    def restore(self, state: State) -> None:
        """Go on where ``state`` was returned."""
        self._variances = {
            name.removeprefix(VARIANCE): float(value)
            for name, value in state.items()
            if name.startswith(VARIANCE)
        }

    def mean(self, gathered: Gathered) -> Floats:
        """Return the weighted mean update, (size of the layout,); zero where nobody moved."""
        assert gathered.total is not None
        mean, numbers = self.layout.means(gathered.total)
        if self.strategy.with_number:
            mean /= np.resize(numbers, len(mean))
        return mean

    def moved(self, gathered: Gathered) -> list[Part]:
        """Return the parts of the model that somebody moved."""
        assert gathered.total is not None
        weights = gathered.total.weights
        return [part for part in self.layout.model if part.name != LOCAL and weights[part.name]]


def relative(factors: Mapping[str, float]) -> dict[str, float]:
    """Return factors as shares of the largest, none of them next to nothing.

    >>> relative({"ash": 2.0, "birch": 1.0, "cedar": 1e-9})
    {'ash': 1.0, 'birch': 0.5, 'cedar': 0.001}
    """
    largest = max(factors.values(), default=1.0)
    return {site: max(factor / largest, LEAST_FACTOR) for site, factor in factors.items()}


def moved_by(weights: Vector, step: Floats) -> Vector:
    """Return weights + step, in float32 as the sites have them."""
    return weights + step.astype(np.float32)
