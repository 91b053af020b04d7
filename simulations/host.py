"""A process that plays many sites: it keeps their cohorts and one model between rounds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Message

from clients.app import answer
from clients.budget import check_terms
from clients.ledger import Ledger, site_ledger
from clients.site import Site
from clients.workbench import Cohort, Workbench, choose_device, pool
from federation.collect import UpdateSum
from federation.errors import UserError
from federation.flower import simulated_context, take_simulated_identity
from federation.messages import TRAIN, Instruction, Reply, partial_records
from federation.models.stacked import MOST_AT_ONCE, can_stack
from federation.privacy.noise import Randomness, Seeded
from federation.study import Study
from federation.vocabulary import Vocabulary, agreed_vocabulary

POOLED = "pooled"
SIMULATED_COMMITMENT = "simulated"
"""Binds a run's ledgers to no patient key: the run's folder is all they are about."""


@dataclass(frozen=True)
class Inspection:
    """What a researcher may see of a simulated site before the first round, exactly.

    Attributes:
        site: its name.
        patients: number of patients.
        counted: exclusions and notices by reason.
        error: why the site cannot be used; None if it can.
        device: where it trains.
    """

    site: str
    patients: int
    counted: Mapping[str, int]
    error: UserError | None = None
    device: str = ""


class SiteHost:
    """Runs the very ClientApp that is deployed, for many sites in one process.

    Args:
        sites: site file by node id.
        pooled: node id under which all sites' patients are one site; for the pooled comparator.
    """

    def __init__(self, sites: Mapping[int, str], pooled: int):
        take_simulated_identity()
        files = {**sites, pooled: POOLED}
        self._workbench = SimulatedWorkbench([sites[node] for node in sorted(sites)])
        self._contexts = {node: simulated_context(node, file) for node, file in files.items()}

    def run(self, messages: Sequence[Message], end: float | None = None) -> list[Message]:
        """Answer each message as its site; where asked to, send one sum instead of the updates.

        Args:
            messages: of one type.
            end: the time, by ``time.monotonic()``, after which no further site is started.
        """
        replies: list[Message] = []
        for some in chunks(messages, self._at_once(messages)):
            if end is not None and time.monotonic() > end:
                break
            asked = [(message, self._contexts[message.metadata.dst_node_id]) for message in some]
            replies += answer(asked, self._workbench)
        if messages and messages[0].metadata.message_type == TRAIN:
            instruction = Instruction.from_records(messages[0].content)
            if instruction.fold:
                self._fold(replies, instruction)
        return replies

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""
        self._workbench.use_ledgers(folder)

    def _at_once(self, messages: Sequence[Message]) -> int:
        """Return how many of these messages are answered in one go."""
        if not messages or messages[0].metadata.message_type != TRAIN:
            return 1
        instruction = Instruction.from_records(messages[0].content)
        model = self._workbench.model(instruction.study, instruction.vocabulary)
        return MOST_AT_ONCE if self._workbench.together and can_stack(model) else 1

    def inspect(self, nodes: Sequence[int], study: Study) -> list[Inspection]:
        """Read some sites' cohorts now, and report what was excluded or cannot be read."""
        return [self._inspect(node, study) for node in nodes]

    def _fold(self, replies: Sequence[Message], instruction: Instruction) -> None:
        """Take the updates out of the replies and put their sum into the last one."""
        model = self._workbench.model(instruction.study, instruction.vocabulary)
        updates = UpdateSum(model.parts, instruction.study.strategy, instruction.clip)
        carrier: Message | None = None
        for message in replies:
            reply = Reply.from_records(message.content, TRAIN)
            if reply.update is None:
                continue
            rejected = updates.take(reply)
            if rejected:
                message.content = Reply("ok", reply.body, rejected=rejected).to_records()
            else:
                del message.content["update"]
                carrier = message
        if carrier is not None:
            carrier.content.update(partial_records(updates.total))

    def _inspect(self, node: int, study: Study) -> Inspection:
        file = str(self._contexts[node].node_config["site"])
        try:
            site = self._workbench.site(file)
            private = study.privacy.mechanism == "dp_sgd"
            if private:
                self._workbench.ledger(file)  # before any data is read
            device = str(choose_device(site))
            section = study.modalities.ehr
            if section is not None and section.vocabulary == "prepared":
                patients, unusable = self._workbench.patients(file, study), {}
            else:
                vocabulary = None if section is None else agreed_vocabulary(section)
                if private:
                    model = self._workbench.model(study, vocabulary, choose_device(site))
                    self._workbench.clipped(study, vocabulary, model)
                cohort = self._workbench.cohort(file, study, vocabulary)
                patients, unusable = cohort.patients, cohort.unusable
            if private and len(patients.splits["train"]) >= site.policy.minimum_cell:
                check_terms(study, len(patients.splits["train"]), site)
        except UserError as error:
            return Inspection(file, 0, {}, error)
        counted = {**patients.excluded, **patients.notices, **unusable}
        train = patients.labels[patients.splits["train"]]
        if len(train) and len(np.unique(train)) < 2:
            counted["training patients, all with the same label"] = len(train)
        return Inspection(site.name, len(patients), counted, device=device)


def chunks(messages: Sequence[Message], size: int) -> Iterator[list[Message]]:
    """Yield messages in lists of at most a size."""
    for start in range(0, len(messages), size):
        yield list(messages[start : start + size])


class SimulatedWorkbench(Workbench):
    """A workbench of many sites: seeded, with ledgers of the run, and the pooled site beside.

    Args:
        files: the sites' files.
    """

    simulated = True

    def __init__(self, files: Sequence[str]):
        super().__init__()
        self._files = files
        self._ledgers: Path | None = None
        self._opened: dict[str, Ledger] = {}

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

    def cohort(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        """Return a cohort; the pooled one joins those of all sites."""
        if file != POOLED:
            return super().cohort(file, study, vocabulary)
        key = (POOLED, study.fingerprint, vocabulary and vocabulary.canonical)
        everybody = (
            super(SimulatedWorkbench, self).cohort(f, study, vocabulary) for f in self._files
        )
        return self._once(key, lambda: pool(list(everybody)))
