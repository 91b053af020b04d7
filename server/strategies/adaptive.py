"""FedAdam, FedYogi, FedAdagrad: an adaptive optimiser at the coordinator.

Source: Reddi et al., ICLR 2021, algorithm 2, which has no correction of the bias of the first
rounds. Moments begin at 0 as in Flower and FLamby; the paper begins the second one at tau^2.
"""

from __future__ import annotations

import numpy as np

from federation.layout import Layout
from federation.models.build import Vector
from federation.strategies.averaging import Adaptive, FedAdam, FedYogi
from federation.strategies.base import Strategy
from server.strategies.base import Floats, Gathered, Rule, State, moved_by

FIRST, SECOND = "first moment", "second moment"


class AdaptiveRule(Rule):
    """The mean update is a gradient, whose moments scale each parameter's step."""

    def __init__(self, strategy: Strategy, layout: Layout):
        super().__init__(strategy, layout)
        self._first = np.zeros(layout.parameters)
        self._second = np.zeros(layout.parameters)

    def next_weights(self, weights: Vector, gathered: Gathered) -> Vector:
        """Return weights + server_lr x first / (sqrt(second) + tau)."""
        options = self.strategy
        assert isinstance(options, Adaptive)
        mean = self.mean(gathered)
        self._first = self._next_first(mean)
        self._second = self._next_second(np.square(mean))
        return moved_by(
            weights, options.server_lr * self._first / (np.sqrt(self._second) + options.tau)
        )

    def _next_first(self, mean: Floats) -> Floats:
        options = self.strategy
        assert isinstance(options, FedAdam | FedYogi)
        return options.beta_1 * self._first + (1 - options.beta_1) * mean

    def _next_second(self, squared: Floats) -> Floats:
        raise NotImplementedError

    def state(self) -> State:
        """Return the moments too."""
        return super().state() | {FIRST: self._first, SECOND: self._second}

    def restore(self, state: State) -> None:
        """See `Rule`."""
        super().restore(state)
        self._first, self._second = state[FIRST], state[SECOND]


class Adam(AdaptiveRule):
    """The second moment is a moving mean."""

    def _next_second(self, squared: Floats) -> Floats:
        assert isinstance(self.strategy, FedAdam)
        beta = self.strategy.beta_2
        return beta * self._second + (1 - beta) * squared


class Yogi(AdaptiveRule):
    """The second moment moves by so much of the square, up or down."""

    def _next_second(self, squared: Floats) -> Floats:
        assert isinstance(self.strategy, FedYogi)
        sign = np.sign(self._second - squared)
        return self._second - (1 - self.strategy.beta_2) * squared * sign


class Adagrad(AdaptiveRule):
    """The second moment is the sum of the squares, and there is no first one."""

    def _next_first(self, mean: Floats) -> Floats:
        return mean

    def _next_second(self, squared: Floats) -> Floats:
        return self._second + squared
