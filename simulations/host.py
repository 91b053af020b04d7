"""A process that plays many sites: it keeps their cohorts and one model between rounds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from clients.app import build_app
from clients.site import Site
from clients.workbench import Cohort, Workbench, choose_device, pool
from federation.collect import UpdateSum
from federation.errors import UserError
from federation.flower import simulated_context, take_simulated_identity
from federation.messages import TRAIN, Instruction, Reply, partial_records
from federation.study import Study
from federation.vocabulary import Vocabulary, agreed_vocabulary

POOLED = "pooled"


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
        self._workbench = PoolingWorkbench([sites[node] for node in sorted(sites)])
        self._app = build_app(self._workbench)
        self._contexts = {node: simulated_context(node, file) for node, file in files.items()}

    def run(self, messages: Sequence[Message], end: float | None = None) -> list[Message]:
        """Answer each message as its site; where asked to, send one sum instead of the updates.

        Args:
            messages: of one type.
            end: the time, by ``time.monotonic()``, after which no further site is started.
        """
        replies = []
        for message in messages:
            if end is not None and time.monotonic() > end:
                break
            replies.append(self._app(message, self._contexts[message.metadata.dst_node_id]))
        if messages and messages[0].metadata.message_type == TRAIN:
            instruction = Instruction.from_records(messages[0].content)
            if instruction.fold:
                self._fold(replies, instruction)
        return replies

    def inspect(self, nodes: Sequence[int], study: Study) -> list[Inspection]:
        """Read some sites' cohorts now, and report what was excluded or cannot be read."""
        return [self._inspect(node, study) for node in nodes]

    def _fold(self, replies: Sequence[Message], instruction: Instruction) -> None:
        """Take the updates out of the replies and put their sum into the last one."""
        model = self._workbench.model(instruction.study, instruction.vocabulary)
        updates = UpdateSum(model.parts, instruction.study.strategy)
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
            device = str(choose_device(site))
            section = study.modalities.ehr
            if section is not None and section.vocabulary == "prepared":
                patients, unusable = self._workbench.patients(file, study), {}
            else:
                vocabulary = None if section is None else agreed_vocabulary(section)
                cohort = self._workbench.cohort(file, study, vocabulary)
                patients, unusable = cohort.patients, cohort.unusable
        except UserError as error:
            return Inspection(file, 0, {}, error)
        counted = {**patients.excluded, **patients.notices, **unusable}
        train = patients.labels[patients.splits["train"]]
        if len(train) and len(np.unique(train)) < 2:
            counted["training patients, all with the same label"] = len(train)
        return Inspection(site.name, len(patients), counted, device=device)


class PoolingWorkbench(Workbench):
    """A workbench with one more site: everybody's patients together."""

    def __init__(self, files: Sequence[str]):
        super().__init__()
        self._files = files

    def site(self, file: str) -> Site:
        """Return a site; the pooled one has the first one's policy and its own name."""
        if file != POOLED:
            return super().site(file)
        first = super().site(self._files[0])
        named = first.settings.site.model_copy(update={"name": POOLED})
        settings = first.settings.model_copy(update={"site": named})
        return dataclasses.replace(first, settings=settings)

    def cohort(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        """Return a cohort; the pooled one joins those of all sites."""
        if file != POOLED:
            return super().cohort(file, study, vocabulary)
        key = (POOLED, study.fingerprint, vocabulary and vocabulary.canonical)
        everybody = (
            super(PoolingWorkbench, self).cohort(f, study, vocabulary) for f in self._files
        )
        return self._once(key, lambda: pool(list(everybody)))
