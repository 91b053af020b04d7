"""A process that plays many sites: it keeps their cohorts and one model between rounds."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Error, Message

from clients.app import answer
from clients.budget import check_terms
from clients.workbench import choose_device
from federation.collect import UpdateSum
from federation.errors import UserError
from federation.flower import simulated_context, take_simulated_identity
from federation.messages import TRAIN, Instruction, Reply, partial_records
from federation.models.stacked import MOST_AT_ONCE, can_stack
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from simulations.faults import Fate, Faults
from simulations.tampering import attacked, corrupted
from simulations.workbench import POOLED, SimulatedWorkbench

HOST_LOST = 1
"""Code of the error in the place of a reply whose process is gone."""


@dataclass(frozen=True)
class Inspection:
    """What a researcher may see of a simulated site before the first round, exactly.

    Attributes:
        site: its name.
        patients: number of patients.
        counted: exclusions and notices by reason.
        error: why the site cannot be used; None if it can.
        device: where it trains.
        training: number of training patients.
    """

    site: str
    patients: int
    counted: Mapping[str, int]
    error: UserError | None = None
    device: str = ""
    training: int = 0


class SiteHost:
    """Plays many sites in one process, with the very code that is deployed.

    Args:
        sites: site file by node id.
        pooled: node id under which all sites' patients are one site; for the pooled comparator.
        store: where cohorts are kept, to be opened memory-mapped.
        together: whether small models of several sites may be trained in one pass.

    Attributes:
        seconds: what a site's training took last, by node; of sites in one pass, a share of it.
    """

    def __init__(self, sites: Mapping[int, str], pooled: int, store: Path, together: bool = True):
        take_simulated_identity()
        files = {**sites, pooled: POOLED}
        ordered = [sites[node] for node in sorted(sites)]
        self._workbench = SimulatedWorkbench(ordered, store, together)
        self._contexts = {node: simulated_context(node, file) for node, file in files.items()}
        self._faults: Faults | None = None
        self.seconds: dict[int, float] = {}

    def run(self, messages: Sequence[Message], end: float | None = None) -> list[Message]:
        """Answer each message as its site; where asked to, send one sum instead of the updates.

        Args:
            messages: of one type.
            end: the time, by ``time.monotonic()``, after which no further site is started.

        Returns:
            Replies; a site that a simulated fault keeps from answering has none.
        """
        if not messages:
            return []
        if messages[0].metadata.message_type != TRAIN:
            asked = itertools.takewhile(lambda _: end is None or time.monotonic() <= end, messages)
            return [self._answers([message])[0] for message in asked]
        instruction = Instruction.from_records(messages[0].content)
        study, vocabulary = instruction.study, instruction.vocabulary
        model = self._workbench.model(study, vocabulary)
        at_once = MOST_AT_ONCE if self._workbench.together and can_stack(model) else 1
        folded = _Folded(UpdateSum(model.parts, study.strategy, instruction.clip))
        replies: list[Message] = []
        for some in chunks(messages, at_once):
            if end is not None and time.monotonic() > end:
                break
            began = time.perf_counter()
            for reply, twice in self._trained(some, instruction):
                if instruction.fold:
                    folded.take(reply)
                replies += [reply] * (2 if twice else 1)
            share = (time.perf_counter() - began) / len(some)
            self.seconds |= {message.metadata.dst_node_id: share for message in some}
        folded.deliver()
        return replies

    def use_faults(self, faults: Faults | None) -> None:
        """Play faults in the rounds that follow."""
        self._faults = faults

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""
        self._workbench.use_ledgers(folder)

    def inspect(self, nodes: Sequence[int], study: Study) -> list[Inspection]:
        """Read some sites' cohorts now, and report what was excluded or cannot be read."""
        return [self._inspect(node, study) for node in nodes]

    def _answers(self, messages: Sequence[Message]) -> list[Message]:
        contexts = [self._contexts[message.metadata.dst_node_id] for message in messages]
        return answer(list(zip(messages, contexts, strict=True)), self._workbench)

    def _trained(
        self, messages: Sequence[Message], instruction: Instruction
    ) -> list[tuple[Message, bool]]:
        with self._workbench.training(instruction.round):
            return list(self._played(messages, instruction))

    def _played(
        self, messages: Sequence[Message], instruction: Instruction
    ) -> Iterator[tuple[Message, bool]]:
        """Train sites, and yield the replies that arrive; and whether one does so twice."""
        faults = self._faults
        if faults is None:
            yield from ((reply, False) for reply in self._answers(messages))
            return
        files = [self._file(message) for message in messages]
        names = [self._workbench.site(file).name for file in files]
        fates = [faults.fate(name, instruction.round, instruction.model) for name in names]
        there = [i for i, fate in enumerate(fates) if fate.asked]
        attacks = {
            files[i]: (attack, faults.poison_seed(names[i]))
            for i in there
            if (attack := fates[i].attack) is not None
        }
        with self._workbench.attacked(attacks):
            replies = self._answers([messages[i] for i in there])
        deadline = instruction.study.strategy.round_deadline_seconds
        for i, reply in zip(there, replies, strict=True):
            fate = fates[i]
            if fate.crashes:
                yield Message(Error(HOST_LOST, "the site crashed"), reply_to=messages[i]), False
            elif not dataclasses.replace(fate, corruption=None).missing(deadline):
                rng = faults.corruption_generator(names[i], instruction.round)
                _tamper(reply, fate, rng)
                yield reply, fate.duplicated

    def _file(self, message: Message) -> str:
        return str(self._contexts[message.metadata.dst_node_id].node_config["site"])

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
                patients, unusable = self._workbench.roster(file, study), {}
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
        return Inspection(site.name, len(patients), counted, device=device, training=len(train))


class _Folded:
    """The sum of a host's updates, which the last reply that was added carries for all."""

    def __init__(self, updates: UpdateSum):
        self._updates = updates
        self._carrier: Message | None = None

    def take(self, message: Message) -> None:
        """Take the update out of a reply as soon as it is there."""
        if message.has_error():
            return
        reply = Reply.from_records(message.content, TRAIN)
        if reply.update is None:
            return
        if rejected := self._updates.take(reply):
            message.content = Reply("ok", reply.body, rejected=rejected).to_records()
        else:
            del message.content["update"]
            self._carrier = message

    def deliver(self) -> None:
        """Put the sum into the carrier."""
        if self._carrier is not None:
            self._carrier.content.update(partial_records(self._updates.total))


def _tamper(message: Message, fate: Fate, rng: np.random.Generator) -> None:
    """Do to a reply's update what a hostile site or a bad line does to it."""
    if "update" not in message.content or not (fate.attack or fate.corruption):
        return
    reply = Reply.from_records(message.content, TRAIN)
    update = reply.update
    assert update is not None
    if fate.attack is not None:
        update = attacked(update, fate.attack)
    if fate.corruption is not None:
        update = corrupted(update, fate.corruption, rng)
    message.content = dataclasses.replace(reply, update=update).to_records()


def chunks(messages: Sequence[Message], size: int) -> Iterator[list[Message]]:
    """Yield messages in lists of at most a size."""
    for start in range(0, len(messages), size):
        yield list(messages[start : start + size])
