"""FedDyn: the coordinator's half of dynamic regularisation."""

from __future__ import annotations

import numpy as np

from federation.layout import Layout
from federation.models.build import Vector
from federation.strategies.averaging import FedDyn
from federation.strategies.base import Strategy
from server.strategies.base import Gathered, Rule, State, moved_by

DRIFT = "drift"


class DynamicRegularisation(Rule):
    """The mean model, less what the sites' models have drifted from the common ones.

    Source: Acar et al., ICLR 2021, algorithm 1.
    """

    def __init__(self, strategy: Strategy, layout: Layout):
        super().__init__(strategy, layout)
        self._drift = np.zeros(layout.parameters)

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + mean update - drift / alpha, where somebody moved the part."""
        assert isinstance(self.strategy, FedDyn)
        alpha, mean = self.strategy.alpha, self.mean(gathered)
        self._drift = self._drift - alpha * gathered.share * mean
        step = np.zeros_like(mean)
        for part in self.moved(gathered):
            here = slice(part.start, part.stop)
            step[here] = mean[here] - self._drift[here] / alpha
        return moved_by(weights, step)

    def state(self) -> State:
        """Return the drift too."""
        return super().state() | {DRIFT: self._drift}

    def restore(self, state: State) -> None:
        """See `Rule`."""
        super().restore(state)
        self._drift = state[DRIFT]
