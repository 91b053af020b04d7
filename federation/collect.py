"""Collecting a round's updates: screened and weighed where they are first seen, and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from federation.bodies import TrainBody
from federation.errors import WardroundError
from federation.layout import LOCAL, NUMBER_UNIT, Layout
from federation.messages import Instruction, Reply, Vector
from federation.models.build import FlatModel
from federation.reduce import (
    LARGEST_CHANGE,
    LARGEST_TOTAL_WEIGHT,
    Part,
    UpdateRejected,
    WeightedSum,
    clipped,
    screen,
)
from federation.strategies.averaging import LEAST_LOSS, FedNova, QFedAvg
from federation.strategies.base import Strategy
from federation.strategies.robust import NormBound


class UpdateSum:
    """Adds up the updates of one round, at the server or in a host of many sites.

    Args:
        parts: of the model.
        strategy: says how sites are weighed and which norm is too large.
        lr: the sites' learning rate in this round.
        clip: norm to which each update is clipped, under central privacy; each site then counts
            once in every part of the model, whether or not it moved that part.
        factors: by what each site's update is multiplied, where the strategy knows beforehand.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        strategy: Strategy,
        lr: float = 1.0,
        clip: float | None = None,
        factors: Mapping[str, float] | None = None,
    ):
        self._layout = Layout.of(strategy, parts)
        self._strategy, self._lr, self._clip, self._factors = strategy, lr, clip, factors
        self.total = WeightedSum.zeros(self._layout.summed)

    def take(self, reply: Reply, site: str) -> str:
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
                screen_update(reply.update, self._layout, self._strategy)
                self._add(reply.update, reply.body, site)
        except UpdateRejected as reason:
            return str(reason)
        return ""

    def _add(self, update: Vector, body: TrainBody, site: str) -> None:
        if self._clip is not None:
            short, within = clipped(update, self._clip)
            self.total.add(short, dict.fromkeys(self.total.weights, 1) | self._none_in_local())
            self.total.within += within
            return
        if isinstance(self._strategy, NormBound):
            update, within = clipped(update, self._strategy.norm)
            self.total.within += within
        if self._strategy.with_number:
            update = self._with_number(update, body, site)
        weights = patients_behind(body, self._strategy) | self._none_in_local()
        self.total.add(update, weights)

    def _with_number(self, update: Vector, body: TrainBody, site: str) -> Vector:
        """Scale an update, and put the site's number beside it, once for each part."""
        factor, number = self._weight_of(update, body, site)
        scaled = np.empty(len(self.total.values), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(update, np.float32(factor), out=scaled[: len(update)])
            scaled[len(update) :] = number / NUMBER_UNIT
        if not np.abs(scaled).max(initial=0.0) <= LARGEST_CHANGE:
            raise UpdateRejected("out of range")
        return scaled

    def _weight_of(self, update: Vector, body: TrainBody, site: str) -> tuple[float, float]:
        """Return by what an update is multiplied, and the number that is added up beside it.

        Source: FedNova, eq. 6 of Wang et al., NeurIPS 2020 (SGD: a site's steps); q-FedAvg,
        algorithm 2 of Li et al., ICLR 2020, both sides divided by L = 1 / lr.
        """
        strategy, factor = self._strategy, (self._factors or {}).get(site, 1.0)
        if strategy.tells_loss and body.initial_loss is None:
            raise UpdateRejected("the loss is missing")
        if isinstance(strategy, FedNova):
            if not body.steps:
                raise UpdateRejected("an update of no steps")
            return 1 / body.steps, float(body.steps)
        if isinstance(strategy, QFedAvg):
            assert body.initial_loss is not None
            loss, q = max(body.initial_loss, LEAST_LOSS), strategy.q
            squared = float(np.square(update, dtype=np.float64).sum())
            weight = factor * loss**q
            return weight, weight * (q * squared / (loss * self._lr) + 1)
        return factor, factor

    def _none_in_local(self) -> dict[str, int]:
        return {LOCAL: 0} if LOCAL in self.total.weights else {}

    def _merge(self, partial: WeightedSum) -> None:
        try:
            self.total.merge(partial)
        except UpdateRejected as reason:
            raise WardroundError(
                f"The updates of this round cannot be summed: {reason}. At most "
                f"{LARGEST_TOTAL_WEIGHT:,} training patients can take part in one round."
            ) from None


def round_sum(instruction: Instruction, model: FlatModel) -> UpdateSum:
    """Return the empty sum of a round's updates, as the instruction to the sites has it."""
    study = instruction.study
    return UpdateSum(
        model.parts,
        study.strategy,
        study.training.at_round(instruction.round).optimizer.lr,
        instruction.clip,
        instruction.factors,
    )


@dataclass(frozen=True)
class SiteUpdate:
    """One site's update.

    Attributes:
        site: its name.
        update: (size of the layout,) float32, screened.
        weights: of each part of the model.
        age: how many rounds ago the model was sent from which it was trained.
    """

    site: str
    update: Vector
    weights: Mapping[str, int]
    age: int = 0


class UpdateList:
    """Keeps the updates of one round apart, for strategies that need each.

    Args:
        parts: of the model.
        strategy: says how sites are weighed and which norm is too large.

    Attributes:
        layout: of the updates.
    """

    def __init__(self, parts: Sequence[Part], strategy: Strategy):
        self.layout, self._strategy = Layout.of(strategy, parts), strategy
        self._found: dict[str, SiteUpdate] = {}

    def take(self, reply: Reply, site: str, age: int = 0) -> str:
        """Keep what a reply carries; return why it was refused, or nothing."""
        if reply.update is None or reply.body is None:
            return "no update"
        assert isinstance(reply.body, TrainBody)
        weights = patients_behind(reply.body, self._strategy)
        try:
            screen_update(reply.update, self.layout, self._strategy)
            if not weights.keys() >= {part.name for part in self.layout.model} - {LOCAL}:
                raise UpdateRejected("a weight is missing")
        except UpdateRejected as reason:
            return str(reason)
        self._found[site] = SiteUpdate(site, reply.update, weights, age)
        return ""

    def drop(self, site: str) -> None:
        """Leave a site's update out."""
        del self._found[site]

    @property
    def updates(self) -> list[SiteUpdate]:
        """The updates, by site in order."""
        return [self._found[site] for site in sorted(self._found)]


def screen_update(update: Vector, layout: Layout, strategy: Strategy) -> None:
    """Refuse an update that would spoil the model.

    Raises:
        UpdateRejected: with the reason.
    """
    screen(update, layout.size, None)
    longest = strategy.maximum_update_norm
    if longest is not None:
        screen(update[: layout.parameters], layout.parameters, longest)


def patients_behind(body: TrainBody, strategy: Strategy) -> dict[str, int]:
    """Return what each part of an update weighs."""
    most = strategy.most_patients
    if strategy.weighting != "patients":
        return {name: int(patients > 0) for name, patients in body.patients.items()}
    if most is None:
        return {str(name): patients for name, patients in body.patients.items()}
    return {name: min(patients, most) for name, patients in body.patients.items()}
