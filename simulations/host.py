"""A process that plays many sites: it keeps their cohorts and one model between rounds."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from flwr.app import RecordDict

from clients.app import Asked, answer
from clients.budget import check_terms
from clients.cohort import Patients
from clients.features import ModalityTensor
from clients.workbench import choose_device
from federation.collect import UpdateSum, round_sum
from federation.errors import UserError
from federation.messages import TRAIN, Instruction, Reply, partial_records
from federation.models.stacked import MOST_AT_ONCE
from federation.strategies.asynchronous import FedBuff
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from simulations.faults import Fate, Faults
from simulations.tampering import attacked, corrupted
from simulations.workbench import POOLED, SimulatedWorkbench

T = TypeVar("T")


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
        digest: of the patients, labels, splits and tensors that were read.
    """

    site: str
    patients: int
    counted: Mapping[str, int]
    error: UserError | None = None
    device: str = ""
    training: int = 0
    digest: str = ""


class Order(NamedTuple):
    """A message to a site of a host, told apart by the place that it has for the sender.

    The content is records; on its way to another process, what stands for them.
    """

    place: int
    node: int
    kind: str
    content: Any


class Arrival(NamedTuple):
    """What arrives of a site's answer: None if its process is lost."""

    place: int
    content: RecordDict | None


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
        self._files = {**sites, pooled: POOLED}
        ordered = [sites[node] for node in sorted(sites)]
        self._workbench = SimulatedWorkbench(ordered, store, together)
        self._faults: Faults | None = None
        self.seconds: dict[int, float] = {}

    def run(self, orders: Sequence[Order], end: float | None = None) -> list[Arrival]:
        """Answer each message as its site; where asked to, send one sum instead of the updates.

        Args:
            orders: of one type.
            end: the time, by ``time.monotonic()``, after which no further site is started.

        Returns:
            Answers; a site that a simulated fault keeps from answering has none.
        """
        if not orders:
            return []
        if orders[0].kind != TRAIN:
            asked = itertools.takewhile(lambda _: end is None or time.monotonic() <= end, orders)
            return [Arrival(o.place, self._answers([o])[0].to_records()) for o in asked]
        instruction = Instruction.from_records(orders[0].content)
        study, vocabulary = instruction.study, instruction.vocabulary
        model = self._workbench.model(study, vocabulary)
        at_once = MOST_AT_ONCE if self._workbench.stacks(model, study) else 1
        folded = _Folded(round_sum(instruction, model))
        arrivals: list[Arrival] = []
        for some in chunks(orders, at_once):
            if end is not None and time.monotonic() > end:
                break
            began = time.perf_counter()
            names = {o.place: self._workbench.site(self._files[o.node]).name for o in some}
            for place, reply, twice in self._played(some, instruction):
                if reply is not None and instruction.fold:
                    arrival = Arrival(place, folded.records(reply, names[place]))
                else:
                    arrival = Arrival(place, None if reply is None else reply.to_records())
                arrivals += [arrival] * (2 if twice else 1)
            share = (time.perf_counter() - began) / len(some)
            self.seconds |= {order.node: share for order in some}
        folded.deliver()
        return arrivals

    def use_faults(self, faults: Faults | None) -> None:
        """Play faults in the rounds that follow."""
        self._faults = faults

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""
        self._workbench.use_ledgers(folder)

    def use_memories(self, folder: Path) -> None:
        """Keep what sites keep for themselves, in the runs that follow, in a folder."""
        self._workbench.use_memories(folder)

    def inspect(self, nodes: Sequence[int], study: Study) -> list[Inspection]:
        """Read some sites' cohorts now, and report what was excluded or cannot be read."""
        return [self._inspect(node, study) for node in nodes]

    def _answers(self, orders: Sequence[Order], training: int | None = None) -> list[Reply]:
        asked = [Asked(order.kind, order.content, self._files[order.node]) for order in orders]
        with self._workbench.training(training):
            return answer(asked, self._workbench)

    def _played(
        self, orders: Sequence[Order], instruction: Instruction
    ) -> Iterator[tuple[int, Reply | None, bool]]:
        """Train sites; yield what arrives of their replies, by place, and whether it does twice."""
        faults, round_ = self._faults, instruction.round
        if faults is None:
            for order, reply in zip(orders, self._answers(orders, round_), strict=True):
                yield order.place, reply, False
            return
        files = [self._files[order.node] for order in orders]
        names = [self._workbench.site(file).name for file in files]
        fates = [faults.fate(name, round_, instruction.model) for name in names]
        there = [i for i, fate in enumerate(fates) if fate.asked]
        attacks = {
            files[i]: (attack, faults.poison_seed(names[i]))
            for i in there
            if (attack := fates[i].attack) is not None
        }
        with self._workbench.attacked(attacks):
            replies = self._answers([orders[i] for i in there], round_)
        strategy = instruction.study.strategy
        # FedBuff waits for late ones, by the coordinator's clock.
        late = isinstance(strategy, FedBuff)
        deadline = math.inf if late else strategy.round_deadline_seconds
        for i, reply in zip(there, replies, strict=True):
            fate = fates[i]
            if fate.crashes:
                yield orders[i].place, None, False
            elif not dataclasses.replace(fate, corruption=None).missing(deadline):
                rng = faults.corruption_generator(names[i], round_)
                yield orders[i].place, _tampered(reply, fate, rng), fate.duplicated

    def _inspect(self, node: int, study: Study) -> Inspection:
        file = self._files[node]
        try:
            site = self._workbench.site(file)
            private = study.privacy.mechanism == "dp_sgd"
            if private:
                self._workbench.ledger(file)  # before any data is read
            device = str(choose_device(site))
            section = study.modalities.ehr
            if section is not None and section.vocabulary == "prepared":
                patients, unusable = self._workbench.roster(file, study), {}
                tensors: Iterable[ModalityTensor] = ()
            else:
                vocabulary = None if section is None else agreed_vocabulary(section)
                if private:
                    model = self._workbench.model(study, vocabulary, choose_device(site))
                    self._workbench.clipped(study, vocabulary, model)
                cohort = self._workbench.cohort(file, study, vocabulary)
                patients, unusable = cohort.patients, cohort.unusable
                tensors = cohort.modalities.values()
            if private and len(patients.splits["train"]) >= site.policy.minimum_cell:
                check_terms(study, len(patients.splits["train"]), site)
        except UserError as error:
            return Inspection(file, 0, {}, error)
        counted = {**patients.excluded, **patients.notices, **unusable}
        train = patients.labels[patients.splits["train"]]
        if len(train) and len(np.unique(train)) < 2:
            counted["training patients, all with the same label"] = len(train)
        return Inspection(
            site.name,
            len(patients),
            counted,
            device=device,
            training=len(train),
            digest=_digest(patients, tensors),
        )


class _Folded:
    """The sum of a host's updates, which the last records of one that was added carry for all."""

    def __init__(self, updates: UpdateSum):
        self._updates = updates
        self._carrier: RecordDict | None = None

    def records(self, reply: Reply, site: str) -> RecordDict:
        """Encode a reply, its update taken out as soon as it is there."""
        if reply.update is None:
            return reply.to_records()
        rejected = self._updates.take(reply, site)
        records = Reply(reply.status, reply.body, rejected=rejected).to_records()
        if not rejected:
            self._carrier = records
        return records

    def deliver(self) -> None:
        """Put the sum into the carrier."""
        if self._carrier is not None:
            self._carrier.update(partial_records(self._updates.total))


def _digest(patients: Patients, tensors: Iterable[ModalityTensor]) -> str:
    """Return a hash by which the same cohort is known again."""
    found = hashlib.sha256()
    for array in (patients.subject_ids, patients.labels, *patients.splits.values()):
        found.update(np.ascontiguousarray(array).data)
    for tensor in tensors:
        found.update(tensor.values.contiguous().numpy().data)
        found.update(tensor.present.contiguous().numpy().data)
    return found.hexdigest()


def _tampered(reply: Reply, fate: Fate, rng: np.random.Generator) -> Reply:
    """Do to a reply's update what a hostile site or a bad line does to it."""
    update = reply.update
    if update is not None and fate.attack is not None:
        update = attacked(update, fate.attack)
    if update is not None and fate.corruption is not None:
        update = corrupted(update, fate.corruption, rng)
    return reply if update is reply.update else dataclasses.replace(reply, update=update)


def chunks(items: Sequence[T], most: int) -> Iterator[list[T]]:
    """Yield items in lists of about equal length, at most ``most``.

    >>> [len(chunk) for chunk in chunks(range(100), 32)]
    [25, 25, 25, 25]
    """
    size = -(-len(items) // max(-(-len(items) // most), 1))
    for start in range(0, len(items), max(size, 1)):
        yield list(items[start : start + size])
