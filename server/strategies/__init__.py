"""What the coordinator makes of a round's updates: one file for each kind of rule.

The options and facts of every strategy are in ``federation.strategies``, what a site does in
``clients.methods``.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.layout import Layout
from federation.strategies import averaging as options
from federation.strategies.asynchronous import FedBuff
from federation.strategies.base import Strategy
from federation.strategies.robust import Robust
from server.strategies.adaptive import Adagrad, Adam, Yogi
from server.strategies.averaging import Averaging, NormalisedAveraging
from server.strategies.base import Gathered, Rule
from server.strategies.buffered import Buffered
from server.strategies.dynamic import DynamicRegularisation
from server.strategies.fair import Fair
from server.strategies.mixture import Agnostic
from server.strategies.momentum import Momentum
from server.strategies.robust import RobustRule
from server.strategies.scaffold import ControlVariates

__all__ = ["Gathered", "Rule", "rule_of"]

RULES: Mapping[type[Strategy], type[Rule]] = {
    options.FedAvgM: Momentum,
    options.FedAdam: Adam,
    options.FedYogi: Yogi,
    options.FedAdagrad: Adagrad,
    options.FedNova: NormalisedAveraging,
    options.Scaffold: ControlVariates,
    options.FedDyn: DynamicRegularisation,
    options.QFedAvg: Fair,
    options.Afl: Agnostic,
    FedBuff: Buffered,
}
"""All others take the mean, or a robust one."""


def rule_of(strategy: Strategy, layout: Layout) -> Rule:
    """Return the rule of a strategy, before the first round."""
    kind = RobustRule if isinstance(strategy, Robust) else Averaging
    return RULES.get(type(strategy), kind)(strategy, layout)
