"""AFL: the mixture of sites on which the model is worst."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from federation.bodies import TrainBody
from federation.layout import Layout
from federation.strategies.averaging import Afl
from federation.strategies.base import Strategy
from server.strategies.averaging import Averaging
from server.strategies.base import Floats, State, relative

MIXTURE = "mixture:"


class Agnostic(Averaging):
    """Sites weigh as in a mixture that moves towards those with the largest loss.

    Source: Mohri et al., ICML 2019, algorithm 1. A site that is heard for the first time enters
    with the mean weight of the others.
    """

    def __init__(self, strategy: Strategy, layout: Layout):
        super().__init__(strategy, layout)
        self._mixture: dict[str, float] = {}

    def note(self, told: Mapping[str, TrainBody]) -> None:
        """Move the mixture by the losses of the model that the sites were sent."""
        assert isinstance(self.strategy, Afl)
        super().note(told)
        losses = {s: body.initial_loss for s, body in told.items() if body.initial_loss is not None}
        self._enter(losses)
        sites = sorted(self._mixture)
        # What is added to all alike moves nothing: who was not heard neither gains nor loses.
        unheard = sum(losses.values()) / max(len(losses), 1)
        rate = self.strategy.mixture_lr
        raised = [self._mixture[s] + rate * losses.get(s, unheard) for s in sites]
        self._mixture = dict(zip(sites, on_simplex(np.array(raised)).tolist(), strict=True))
        self.notes = {"mixture": self._mixture}

    def factors(self, sites: Iterable[str]) -> dict[str, float]:
        """Return the sites' weights in the mixture, as shares of the largest."""
        mean = 1 / len(self._mixture) if self._mixture else 1.0
        return relative({site: self._mixture.get(site, mean) for site in sites})

    def state(self) -> State:
        """Return the mixture too."""
        kept = {f"{MIXTURE}{site}": np.array(weight) for site, weight in self._mixture.items()}
        return super().state() | kept

    def restore(self, state: State) -> None:
        """See `Rule`."""
        super().restore(state)
        self._mixture = {
            name.removeprefix(MIXTURE): float(weight)
            for name, weight in state.items()
            if name.startswith(MIXTURE)
        }

    def _enter(self, sites: Iterable[str]) -> None:
        new = [site for site in sites if site not in self._mixture]
        known = len(self._mixture)
        if not new:
            return
        share = 1 / (known + len(new))
        self._mixture = {s: w * known * share for s, w in self._mixture.items()}
        self._mixture |= dict.fromkeys(new, share)


def on_simplex(point: Floats) -> Floats:
    """Return the nearest point whose coordinates are at least 0 and add up to 1.

    Source: Duchi et al., ICML 2008, figure 1.

    >>> on_simplex(np.array([0.5, 0.5, 0.3]))
    array([0.4, 0.4, 0.2])
    """
    ordered = np.sort(point)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(point) + 1)
    last = np.flatnonzero(ordered > excess)[-1]
    nearest: Floats = np.maximum(point - excess[last], 0.0)
    return nearest
