"""Collecting a round's updates: screened, weighed and summed where they are first seen."""

from __future__ import annotations

from collections.abc import Sequence

from federation.bodies import TrainBody
from federation.errors import WardroundError
from federation.messages import Reply, Vector
from federation.reduce import (
    LARGEST_TOTAL_WEIGHT,
    Part,
    UpdateRejected,
    WeightedSum,
    clipped,
    screen,
)
from federation.study import StrategySection


class UpdateSum:
    """Adds up the updates of one round, at the server or in a host of many sites.

    Args:
        parts: the parts of the model's flat vector.
        strategy: says how sites are weighed and which norm is too large.
        clip: norm to which each update is clipped, under central privacy; each site then counts
            once in every part of the model, whether or not it moved that part.
    """

    def __init__(self, parts: Sequence[Part], strategy: StrategySection, clip: float | None = None):
        self._strategy, self._clip = strategy, clip
        self.total = WeightedSum.zeros(parts)

    def take(self, reply: Reply) -> str:
        """Add what a reply carries.

        Returns:
            Why the update was refused; empty if it was added, or was part of a host's sum.
        """
        if reply.rejected:
            return reply.rejected
        if reply.partial is not None:
            self._merge(reply.partial)
        try:
            if reply.update is not None:
                assert isinstance(reply.body, TrainBody)
                screen(reply.update, len(self.total.values), self._strategy.maximum_update_norm)
                self._add(reply.update, reply.body)
        except UpdateRejected as reason:
            return str(reason)
        return ""

    def _add(self, update: Vector, body: TrainBody) -> None:
        if self._clip is None:
            self.total.add(update, self._weights(body))
            return
        short, within = clipped(update, self._clip)
        self.total.add(short, dict.fromkeys(self.total.weights, 1))
        self.total.within += within

    def _merge(self, partial: WeightedSum) -> None:
        try:
            self.total.merge(partial)
        except UpdateRejected as reason:
            raise WardroundError(
                f"The updates of this round cannot be summed: {reason}. At most "
                f"{LARGEST_TOTAL_WEIGHT:,} training patients can take part in one round."
            ) from None

    def _weights(self, body: TrainBody) -> dict[str, int]:
        if self._strategy.weighting == "uniform":
            return {name: int(patients > 0) for name, patients in body.patients.items()}
        return {str(name): patients for name, patients in body.patients.items()}
