"""What the methods share: a site's turn in a round, and what comes of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from clients.fits import Fit, Fitted
from clients.memory import Memory
from federation.models.build import Vector
from federation.strategies.base import Strategy


@dataclass(frozen=True)
class Moved:
    """What a site's turn gave.

    Attributes:
        update: (size of the strategy's layout,) float32.
        fitted: the training behind it.
    """

    update: Vector
    fitted: Fitted


Training: TypeAlias = Generator[Fit, Fitted, Moved]
"""Yields what is to be trained, is sent what came of it, returns what leaves."""


@dataclass(frozen=True)
class Turn:
    """A site's turn in a round.

    Attributes:
        fit: training from the global weights, checked and paid for.
        strategy: of the study.
        round: from 1.
        memory: what the site keeps for itself.
        control: the coordinator's control variate; None if it has none.
        counted: the last round in which the site's update counted, where the coordinator says so.
    """

    fit: Fit
    strategy: Strategy
    round: int
    memory: Memory
    control: Vector | None = None
    counted: int | None = None

    def kept(self) -> dict[str, Vector]:
        """Return what the site kept in the last round that counted.

        An update that was lost, late or refused is not in what the coordinator has added up: what
        the site learned with it would put the two out of step for all rounds that follow.
        """
        return self.memory.before(self.round if self.counted is None else self.counted + 1)

    def keep(self, arrays: Mapping[str, Vector]) -> None:
        """Keep arrays of this round, and those of the last one that counted."""
        self.memory.keep(self.round, arrays, self.counted)


def averaged(turn: Turn) -> Training:
    """Train from the global weights."""
    fitted = yield turn.fit
    return Moved(fitted.weights - turn.fit.start, fitted)
