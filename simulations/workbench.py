"""What a process that plays many sites keeps open between messages."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients.ledger import Ledger, site_ledger
from clients.memory import Memory
from clients.pooled import pool
from clients.site import Site
from clients.store import CohortStore
from clients.workbench import Cohort, Prepared, Workbench
from federation.arrival import ArrivalSection, arrived
from federation.faults import HostileSection
from federation.privacy.noise import Randomness, Seeded
from federation.study import Study
from federation.vocabulary import Vocabulary
from simulations.tampering import poisoned

POOLED = "pooled"
SIMULATED_COMMITMENT = "simulated"
"""Binds a run's ledgers to no patient key: the run's folder is all they are about."""
MOST_OPEN = 512
"""Cohorts, and ledgers, that are open at once."""


class SimulatedWorkbench(Workbench):
    """A workbench of many sites: seeded, with ledgers of the run, and the pooled site beside.

    Args:
        files: the sites' files.
        store: where the cohorts are kept.
        together: see `Workbench`.
    """

    simulated = True

    def __init__(self, files: Sequence[str], store: Path, together: bool = True):
        super().__init__()
        self.together = together
        self._files = files
        self._store = CohortStore(store)
        self._cohorts: OrderedDict[tuple[Any, ...], Cohort] = OrderedDict()
        self._attacks: Mapping[str, tuple[HostileSection, int]] = {}
        self._round: int | None = None
        self._ledgers: Path | None = None
        self._memories = store / "memories"
        self._opened: OrderedDict[str, Ledger] = OrderedDict()

    def use_memories(self, folder: Path) -> None:
        """Keep what sites keep for themselves, in the runs that follow, in a folder."""
        self._memories = folder

    def memory(self, file: str, run: str, model: str) -> Memory:
        """Return what the site keeps for itself of one model of the run."""
        return Memory(self._memories / self.site(file).name / model.replace(":", "."))

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the ledgers of the runs that follow in a folder; None for the sites' own."""
        for ledger in self._opened.values():
            ledger.close()
        self._opened.clear()
        self._ledgers = folder
        self.keeps_unprotected = folder is None

    def randomness(self, seed: int, *purpose: str | int) -> Randomness:
        """Return draws that the same seed repeats: nobody is protected in a simulation."""
        return Seeded(seed, *purpose)

    def ledger(self, file: str) -> Ledger:
        """Return a site's ledger: of the run, or its own."""
        if file not in self._opened:
            self._opened[file] = self._open_ledger(file)
            if len(self._opened) > MOST_OPEN:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(file)
        return self._opened[file]

    def _open_ledger(self, file: str) -> Ledger:
        site = self.site(file)
        if self._ledgers is None:
            return site_ledger(site)
        self._ledgers.mkdir(parents=True, exist_ok=True)
        path = self._ledgers / f"{site.name}.sqlite"
        return Ledger(path, site.name, SIMULATED_COMMITMENT, durable=False)

    def site(self, file: str) -> Site:
        """Return a site; the pooled one has the first one's policy, its own name, all sources."""
        if file != POOLED:
            return super().site(file)
        members = [super(SimulatedWorkbench, self).site(f) for f in self._files]
        first = members[0]
        data = [member.settings.data for member in members]
        settings = first.settings.model_copy(
            update={
                "site": first.settings.site.model_copy(update={"name": POOLED}),
                "data": data[0].model_copy(
                    update={
                        "images": next((d.images for d in data if d.images), None),
                        "notes": next((d.notes for d in data if d.notes), None),
                    }
                ),
            }
        )
        return dataclasses.replace(first, settings=settings)

    def _prepared(self, file: str) -> Prepared:
        """All sites' cohorts lie in one folder, for as long as the simulation lasts."""
        return Prepared(self._store, (file,))

    def cohort(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        """Return a cohort, in training as the site trains on it; the pooled one is all sites'."""
        key = (file, study.fingerprint, vocabulary and vocabulary.canonical)
        if key not in self._cohorts:
            self._cohorts[key] = self._made(file, study, vocabulary)
            if len(self._cohorts) > MOST_OPEN:
                self._cohorts.popitem(last=False)
        self._cohorts.move_to_end(key)
        cohort = self._cohorts[key]
        if file in self._attacks:
            cohort = poisoned(cohort, *self._attacks[file])
        arrival = None if study.simulation is None else study.simulation.arrival
        if arrival is None or self._round is None:
            return cohort
        return _arrived_by(cohort, self._round, study.training.rounds, arrival)

    def _made(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        if file != POOLED:
            return self._read_cohort(file, study, vocabulary)
        return pool([self._read_cohort(f, study, vocabulary) for f in self._files])

    @contextmanager
    def attacked(self, attacks: Mapping[str, tuple[HostileSection, int]]) -> Iterator[None]:
        """Poison the cohorts of hostile sites, by file, for as long as they train."""
        self._attacks = attacks
        try:
            yield
        finally:
            self._attacks = {}

    @contextmanager
    def training(self, round_: int | None) -> Iterator[None]:
        """Let sites have the training patients who have arrived by a round; None for all."""
        self._round = round_
        try:
            yield
        finally:
            self._round = None


def _arrived_by(cohort: Cohort, round_: int, rounds: int, arrival: ArrivalSection) -> Cohort:
    splits = cohort.patients.splits
    rows = splits["train"]
    here = rows[arrived(cohort.patients.arrival[rows], round_, rounds, arrival)]
    patients = dataclasses.replace(cohort.patients, splits={**splits, "train": here})
    return dataclasses.replace(cohort, patients=patients)
