"""Strategies: how a round's updates become the next model. One file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from federation.models.build import Vector
from federation.reduce import WeightedSum
from server.strategies.fedavg import FedAvg


class Strategy(Protocol):
    """What the round loop needs to know.

    Attributes:
        name: as in the study.
        needs: ``sum`` if the weighted sum of the updates is enough, ``each`` if not.
        summary: one line for ``wardround strategies``.
    """

    name: str
    needs: Literal["sum", "each"]
    summary: str

    def next_weights(self, weights: Vector, total: WeightedSum) -> Vector:
        """Return the model that follows ``weights``, from the sum of the sites' updates."""
        ...


STRATEGIES: Mapping[str, type[Strategy]] = {"fedavg": FedAvg}
