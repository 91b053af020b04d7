"""The strategies: their options, and the one table of what can be combined with what.

A class for each, with its facts beside its options. ``federation.study`` enforces them and
``wardround strategies`` prints them. What a strategy does with updates is in
``server.strategies``, what it does at a site in ``clients.methods``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from federation.strategies.asynchronous import FedBuff
from federation.strategies.averaging import (
    Afl,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedDyn,
    FedNova,
    FedProx,
    FedYogi,
    QFedAvg,
    Scaffold,
)
from federation.strategies.base import ScreeningSection, Strategy
from federation.strategies.personal import Apfl, Ditto, FedBn, FedPer, FedRep
from federation.strategies.robust import (
    Bulyan,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NormBound,
    TrimmedMean,
)
from federation.validation import by_name, one_of

__all__ = ["STRATEGIES", "ScreeningSection", "Strategy", "StrategySection"]

KINDS: tuple[type[Strategy], ...] = (
    FedAvg,
    FedAvgM,
    FedProx,
    FedAdam,
    FedYogi,
    FedAdagrad,
    FedNova,
    Scaffold,
    FedDyn,
    QFedAvg,
    Afl,
    FedBn,
    FedPer,
    FedRep,
    Ditto,
    Apfl,
    Median,
    TrimmedMean,
    Krum,
    MultiKrum,
    Bulyan,
    GeometricMedian,
    NormBound,
    FedBuff,
)

STRATEGIES: Mapping[str, type[Strategy]] = by_name(KINDS, "name")

if TYPE_CHECKING:
    StrategySection: TypeAlias = Strategy
else:
    StrategySection = one_of(KINDS, "name", "fedavg")
