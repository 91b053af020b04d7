"""What a site does in a round under each strategy; ``server.strategies`` has the other half.

A method is a generator: it yields what is to be trained and is sent what came of it, as often as
it needs, and returns what leaves. So the models of many sites can be trained in one pass, whatever
their strategy does before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clients.methods import controlled, personal
from clients.methods.base import Moved, Training, Turn, averaged
from clients.methods.personal import own_weights
from federation.strategies.averaging import FedDyn, FedProx, Scaffold
from federation.strategies.base import Strategy
from federation.strategies.personal import Apfl, Ditto, FedBn, FedPer, FedRep

__all__ = ["Moved", "Training", "Turn", "own_weights", "train_locally"]

METHODS: Mapping[type[Strategy], Callable[[Turn], Training]] = {
    FedProx: controlled.fedprox,
    Scaffold: controlled.scaffold,
    FedDyn: controlled.feddyn,
    FedBn: personal.local_part,
    FedPer: personal.local_part,
    FedRep: personal.fedrep,
    Ditto: personal.ditto,
    Apfl: personal.apfl,
}
"""All others train from the global weights, and send the difference."""


def train_locally(turn: Turn) -> Training:
    """Take a site's turn in a round, as its strategy has it."""
    return METHODS.get(type(turn.strategy), averaged)(turn)
