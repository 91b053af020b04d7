"""q-FedAvg: what sites weigh by their loss, in the range in which updates are added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from federation.bodies import TrainBody
from federation.layout import Layout
from federation.strategies.averaging import LEAST_LOSS, QFedAvg
from federation.strategies.base import Strategy
from server.strategies.averaging import Averaging
from server.strategies.base import State

LOSS = "loss:"


class Fair(Averaging):
    """The sum of updates times loss^q, divided by the sum of the curvatures that go with them.

    Losses count relative to the largest that was heard. Both sums change alike by that, but a high
    power of small losses would be nothing in fixed point.

    Source: Li et al., ICLR 2020, algorithm 2.
    """

    def __init__(self, strategy: Strategy, layout: Layout):
        super().__init__(strategy, layout)
        self._losses: dict[str, float] = {}

    def note(self, told: Mapping[str, TrainBody]) -> None:
        """Remember the losses of the model that the sites were sent."""
        super().note(told)
        for site, body in told.items():
            if body.initial_loss is not None:
                self._losses[site] = body.initial_loss

    def factors(self, sites: Iterable[str]) -> dict[str, float]:
        """Return the power of the largest loss that was heard, by which all are divided."""
        assert isinstance(self.strategy, QFedAvg)
        largest = max(max(self._losses.values(), default=1.0), LEAST_LOSS)
        return dict.fromkeys(sites, largest**-self.strategy.q)

    def state(self) -> State:
        """Return the losses too."""
        kept = {f"{LOSS}{site}": np.array(loss) for site, loss in self._losses.items()}
        return super().state() | kept

    def restore(self, state: State) -> None:
        """See `Rule`."""
        super().restore(state)
        self._losses = {
            name.removeprefix(LOSS): float(loss)
            for name, loss in state.items()
            if name.startswith(LOSS)
        }
