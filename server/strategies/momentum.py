"""FedAvgM: momentum over the rounds."""

from __future__ import annotations

import numpy as np

from federation.layout import Layout
from federation.models.build import Vector
from federation.strategies.averaging import FedAvgM
from federation.strategies.base import Strategy
from server.strategies.base import Gathered, Rule, State, moved_by

VELOCITY = "velocity"


class Momentum(Rule):
    """The mean update is the gradient of SGD with momentum at the coordinator.

    Source: Hsu et al., 2019, section 4.3.
    """

    def __init__(self, strategy: Strategy, layout: Layout):
        super().__init__(strategy, layout)
        self._velocity = np.zeros(layout.parameters)

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + server_lr x velocity."""
        assert isinstance(self.strategy, FedAvgM)
        self._velocity = self.strategy.server_momentum * self._velocity + self.mean(gathered)
        return moved_by(weights, self.strategy.server_lr * self._velocity)

    def state(self) -> State:
        """Return the velocity too."""
        return super().state() | {VELOCITY: self._velocity}

    def restore(self, state: State) -> None:
        """See `Rule`."""
        super().restore(state)
        self._velocity = state[VELOCITY]
