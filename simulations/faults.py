"""What goes wrong in a simulated round: drawn from the study's seed before it happens.

The draws depend on the seed, the kind of fault, the site and the round alone: not on the order in
which they are asked for, the process, the grid, or what other faults a study declares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from federation.errors import UserError
from federation.faults import (
    ChanceSection,
    Corruption,
    FaultsSection,
    HostileSection,
    StragglersSection,
)
from federation.messages import FEDERATED
from federation.randomness import derive_seed
from federation.validation import listed, nearest
from server.exchange import TTL_MARGIN_SECONDS

WHERE = "the study"
SCREENED: tuple[Corruption, ...] = ("nan", "shape")
"""Corruptions that screening always refuses."""


@dataclass(frozen=True)
class Fate:
    """What happens to one site in one round.

    Attributes:
        asked: False if the site cannot be reached; then nothing else happens to it.
        delay_seconds: by how much its reply is late.
        crashes: whether it ends in mid-round, after training and before the reply.
        reply_lost: whether the reply never arrives; a lost one is neither late nor damaged.
        duplicated: whether the reply arrives twice.
        corruption: how the update is damaged on its way; None if it is not.
        attack: how the site works against the model; None if it does not.
        skew_seconds: by how much its clock is fast; negative if it is slow.
    """

    asked: bool = True
    delay_seconds: float = 0.0
    crashes: bool = False
    reply_lost: bool = False
    duplicated: bool = False
    corruption: Corruption | None = None
    attack: HostileSection | None = None
    skew_seconds: float = 0.0

    def missing(self, deadline_seconds: float) -> str:
        """Return why the coordinator has no usable reply at its deadline; empty if it may have."""
        if not self.asked:
            return "dropped out"
        if self.crashes:
            return "crashed"
        if self.reply_lost:
            return "reply lost"
        if abs(self.skew_seconds) > deadline_seconds + TTL_MARGIN_SECONDS:
            return "out of date by its clock"
        if self.delay_seconds > deadline_seconds:
            return "too late"
        return "refused by screening" if self.corruption in SCREENED else ""


class Faults:
    """The faults of a simulation, for every site and round.

    Args:
        section: what the study declares.
        sites: number of training patients by site, of all sites of the simulation.
        seed: the study's.

    Raises:
        UserError: if the section names a site that is not there, or more hostile ones than
            there are.
    """

    def __init__(self, section: FaultsSection, sites: Mapping[str, int], seed: int):
        self._section, self._sites, self._seed = section, sites, seed
        for name, names in _named(section):
            _check_known(name, names, sites)
        self._dropout = self._dropout_chances()
        self._turns = {site: turn for turn, site in enumerate(self._struck("dropout"))}
        self._hostile = self._hostile_sites()
        self._skews = self._clock_skews()

    def fate(self, site: str, round: int, model: str) -> Fate:
        """Return what happens to a site in a round.

        Args:
            site: its name.
            round: from 1.
            model: the model that is trained. Those of one modality alone are federated too, and
                meet the same faults in the same rounds; local and pooled ones meet none.
        """
        if model != FEDERATED and not model.startswith("only:"):
            return Fate()
        section = self._section
        if self._drops_out(site, round):
            return Fate(asked=False)
        fate = Fate(attack=self._attack(site, round), skew_seconds=self._skews.get(site, 0.0))
        if self._happens("crash", site, round):
            return replace(fate, crashes=True)
        if self._happens("lost_replies", site, round):
            return replace(fate, reply_lost=True)
        damaged = section.corrupted is not None and self._happens("corrupted", site, round)
        return replace(
            fate,
            delay_seconds=self._delay(site, round),
            duplicated=self._happens("duplicated_replies", site, round),
            corruption=section.corrupted.kind if section.corrupted and damaged else None,
        )

    def corruption_generator(self, site: str, round: int) -> np.random.Generator:
        """Return the generator that says where a site's update of a round is damaged."""
        return np.random.default_rng(derive_seed(self._seed, "damage", site, round))

    def poison_seed(self, site: str) -> int:
        """Return the seed that chooses a hostile site's poisoned patients, once for the run."""
        return derive_seed(self._seed, "poison", site)

    def _drops_out(self, site: str, round_: int) -> bool:
        section = self._section.dropout
        if section is None or site not in self._turns:
            return False
        if section.every is not None:
            return (round_ + self._turns[site]) % section.every == 0
        return self._uniform("dropout", site, round_) < self._dropout[site]

    def _dropout_chances(self) -> dict[str, float]:
        section, struck = self._section.dropout, self._struck("dropout")
        if section is None or section.probability is None:
            return {}
        if section.kind == "random":
            return dict.fromkeys(struck, section.probability)
        sizes = {site: max(self._sites[site], 1) for site in struck}
        smallest = min(sizes.values(), default=1)
        return {site: section.probability * smallest / size for site, size in sizes.items()}

    def _attack(self, site: str, round_: int) -> HostileSection | None:
        attack = self._hostile.get(site)
        return attack if attack is not None and round_ >= attack.from_round else None

    def _hostile_sites(self) -> dict[str, HostileSection]:
        """Named sites first; the counted ones are drawn from those that are left."""
        hostile = {site: table for table in self._section.hostile for site in table.sites or ()}
        for table in self._section.hostile:
            if table.count is None:
                continue
            left = sorted(set(self._sites) - set(hostile))
            if table.count > len(left):
                raise UserError(
                    WHERE,
                    f"{table.count} hostile sites are wanted, {len(left)} are left to choose from",
                    field="simulation.faults.hostile.count",
                )
            left.sort(key=lambda site: derive_seed(self._seed, "hostile", site))
            hostile |= dict.fromkeys(left[: table.count], table)
        return hostile

    def _clock_skews(self) -> dict[str, float]:
        section = self._section.clock_skew
        if section is None:
            return {}
        return {
            site: section.spread_seconds * NormalDist().inv_cdf(self._uniform("skew", site, 0))
            for site in self._struck("clock_skew")
        }

    def _delay(self, site: str, round_: int) -> float:
        section = self._section.stragglers
        if section is None or not self._happens("stragglers", site, round_):
            return 0.0
        return delay(section, self._uniform("delay", site, round_))

    def _happens(self, fault: str, site: str, round_: int) -> bool:
        section: ChanceSection | StragglersSection | None = getattr(self._section, fault)
        if section is None or (section.sites is not None and site not in section.sites):
            return False
        return self._uniform(fault, site, round_) < section.probability

    def _struck(self, fault: str) -> list[str]:
        """Return the sites that a fault can strike, in order."""
        section = getattr(self._section, fault)
        if section is None:
            return []
        return sorted(self._sites if section.sites is None else section.sites)

    def _uniform(self, purpose: str, site: str, round_: int) -> float:
        """Return a draw from the open interval (0, 1)."""
        # 52 bits: with a half on top they are still exact in a float64, so 1.0 cannot come out.
        return ((derive_seed(self._seed, purpose, site, round_) >> 11) + 0.5) / 2**52


def delay(section: StragglersSection, quantile: float) -> float:
    """Return a quantile of the delays, in seconds.

    Args:
        section: distribution, median and spread.
        quantile: in (0, 1).

    >>> delay(StragglersSection(distribution="exponential", median_seconds=30.0), 0.75)
    60.0
    """
    median, spread = section.median_seconds, section.spread or 0.0
    if section.distribution == "lognormal":
        return median * math.exp(spread * NormalDist().inv_cdf(quantile))
    if section.distribution == "exponential":
        return -median * math.log2(1 - quantile)
    if section.distribution == "pareto":
        return median * float((2 * (1 - quantile)) ** -spread)
    return median


def record(fates: Mapping[str, Fate]) -> dict[str, Any]:
    """Return what a round's line in rounds.jsonl says of its faults.

    Args:
        fates: by site.

    Returns:
        Names of sites, or what happened by site, for each kind of fault that struck; delays and
        skews in seconds.

    >>> record({"bern": Fate(asked=False), "basel": Fate(delay_seconds=1.23456), "zug": Fate()})
    {'dropped': ['bern'], 'delays': {'basel': 1.235}}
    """
    ordered = dict(sorted(fates.items()))
    found: dict[str, Any] = {
        "dropped": [site for site, fate in ordered.items() if not fate.asked],
        "delays": {s: round(f.delay_seconds, 3) for s, f in ordered.items() if f.delay_seconds},
        "crashed": [site for site, fate in ordered.items() if fate.crashes],
        "lost": [site for site, fate in ordered.items() if fate.reply_lost],
        "duplicated": [site for site, fate in ordered.items() if fate.duplicated],
        "corrupted": {s: fate.corruption for s, fate in ordered.items() if fate.corruption},
        "hostile": {s: fate.attack.attack for s, fate in ordered.items() if fate.attack},
        "skewed": {s: round(f.skew_seconds, 3) for s, f in ordered.items() if f.skew_seconds},
    }
    return {kind: struck for kind, struck in found.items() if struck}


def _named(section: FaultsSection) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield every list of sites in the section, with its key."""
    for name in type(section).model_fields:
        tables = getattr(section, name)
        for table in tables if isinstance(tables, tuple) else (tables,):
            if table is not None and table.sites is not None:
                yield name, table.sites


def _check_known(fault: str, names: Iterable[str], sites: Mapping[str, int]) -> None:
    for name in names:
        if name not in sites:
            guess = nearest(name, sites)
            raise UserError(
                WHERE,
                f'there is no site "{name}"',
                field=f"simulation.faults.{fault}.sites",
                remedy=(f'Did you mean "{guess}"? ' if guess else "")
                + f"The sites are: {listed(sorted(sites))}.",
            )
