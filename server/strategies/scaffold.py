"""SCAFFOLD: the coordinator's control variate."""

from __future__ import annotations

import numpy as np

from federation.layout import Layout
from federation.models.build import Vector
from federation.strategies.averaging import Scaffold
from federation.strategies.base import Strategy
from server.strategies.base import Gathered, Rule, State, moved_by

CONTROL = "control"


class ControlVariates(Rule):
    """Updates and changes of the sites' variates are averaged alike, the latter over all sites.

    Source: Karimireddy et al., ICML 2020, algorithm 1. Where sites weigh by their patients, the
    common variate is the mean with these weights: the gradient of what the mean update minimises.
    """

    def __init__(self, strategy: Strategy, layout: Layout):
        super().__init__(strategy, layout)
        self._control = np.zeros(layout.parameters)

    @property
    def control(self) -> Vector:
        """The common variate."""
        return self._control.astype(np.float32)

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + server_lr x mean update."""
        assert isinstance(self.strategy, Scaffold)
        update, change = np.split(self.mean(gathered), 2)
        self._control = self._control + gathered.share * change
        return moved_by(weights, self.strategy.server_lr * update)

    def state(self) -> State:
        """Return the variate too."""
        return super().state() | {CONTROL: self._control}

    def restore(self, state: State) -> None:
        """See `Rule`."""
        super().restore(state)
        self._control = state[CONTROL]
