"""Asking sites and collecting their answers, over any Flower grid."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from federation.flower import Unreadable, came_too_late, within
from federation.messages import Instruction, Reply

NO_REPLY = "no reply before the deadline"
LOST = "the site's process was lost"
UNREADABLE = "the reply could not be read"
POLL_SECONDS = 0.3
TTL_MARGIN_SECONDS = 5.0
LAST_SECONDS = 1.0
"""After the deadline, for the rest of an answer that has begun to come."""


@dataclass(frozen=True)
class Answer:
    """What came back from one site.

    Attributes:
        site: its name.
        reply: None if none came, or none that can be read.
        failure: why there is no result; empty if there is one.
        received: bytes of the reply's content, without the update.
    """

    site: str
    reply: Reply | None
    failure: str
    received: int = 0


@dataclass(frozen=True)
class Exchange:
    """A grid whose nodes are sites with names.

    Attributes:
        grid: Flower's grid: a SuperLink's, or a simulation's.
        simulated: whether it is a simulation's: it streams replies as they come, and its hosts are
            trusted to send the sum of several sites' updates.
        pooled_node: the node that holds all sites' patients; a simulation's only.
        members: a simulation's sites, which stay the same: nodes by name, in order.
        struck: what a simulation's faults did to the sites that a round asked: names, round and
            model -> what the round's record says of it.
        delay: by how many seconds a simulation's stragglers are late: name, round and model.
    """

    grid: Grid
    simulated: bool = False
    pooled_node: int | None = None
    members: Mapping[str, int] | None = None
    struck: Callable[[Sequence[str], int, str], dict[str, Any]] | None = None
    delay: Callable[[str, int, str], float] = lambda site, round_, model: 0.0

    def sites(self) -> dict[str, int]:
        """Return the connected sites' nodes, by name in order, without those of ``unnamed``."""
        if self.members is not None:
            return dict(self.members)
        nodes = sorted((info.name, info.node_id) for info in self.grid.get_nodes())
        ambiguous = self.unnamed()
        return {name: node for name, node in nodes if name not in ambiguous}

    def unnamed(self) -> set[str]:
        """Return names that do not tell one hospital: given to several nodes, or empty.

        Flower lets nodes register so; they cannot be asked, since nobody knows who they are.
        """
        times = Counter(info.name for info in self.grid.get_nodes())
        return {name for name, count in times.items() if count > 1 or not name}

    def wait_for_sites(self, minimum: int, seconds: float) -> dict[str, int]:
        """Wait until enough sites are connected, at most ``seconds``; return those that are.

        Those of a simulation are connected from the beginning.
        """
        end = time.monotonic() + (0.0 if self.simulated else seconds)
        while len(sites := self.sites()) < minimum and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return sites

    def ask(
        self,
        message_type: str,
        instructions: Mapping[str, RecordDict],
        nodes: Mapping[str, int],
        deadline_seconds: float,
        group: str = "",
    ) -> Iterator[Answer]:
        """Send each site its instruction and yield one answer a site, as they come.

        Args:
            message_type: one of the types in ``federation.messages``.
            instructions: encoded, by site; sites may share one.
            nodes: the node of each of these sites.
            deadline_seconds: when to stop waiting.
            group: the round, for Flower's logs.

        Yields:
            Answers; last those of the sites that did not reply in time.
        """
        messages = _messages(message_type, instructions, nodes, deadline_seconds, group)
        waiting = set(messages)
        sent: dict[str, str] = {}
        for asked, reply in self._replies(list(messages.values()), deadline_seconds):
            if not sent:  # the grid sets the ids when it sends
                sent = {m.metadata.message_id: site for site, m in messages.items()}
            # Not src_node_id: the error reply for a dead node comes from the SuperLink itself.
            site = sent.get(asked, "")
            if site in waiting:
                waiting.remove(site)
                yield _read(site, reply, message_type, self.simulated)
            del reply  # before the next one is there
        for site in sorted(waiting):
            yield Answer(site, None, NO_REPLY)

    def push(
        self,
        message_type: str,
        instructions: Mapping[str, RecordDict],
        nodes: Mapping[str, int],
        seconds: float,
        group: str = "",
    ) -> dict[str, str]:
        """Send sites their instructions, to be answered within so many seconds.

        Returns:
            The site of each message, by the message's id.
        """
        messages = _messages(message_type, instructions, nodes, seconds, group)
        return dict(zip(self.grid.push_messages(list(messages.values())), messages, strict=True))

    def pull(
        self, message_type: str, sent: Mapping[str, str], seconds: float
    ) -> Iterator[tuple[str, Answer]]:
        """Yield the answers that are there now, with the ids of the messages they answer.

        Args:
            message_type: of the messages.
            sent: site by id of the message.
            seconds: how long to wait for the rest of an answer that has begun to come.
        """
        for asked in list(sent):  # one at a time: each may hold a large update
            for reply in self._reply_to(asked, seconds):
                yield asked, _read(sent[asked], reply, message_type, self.simulated)
                del reply

    def _replies(
        self, messages: list[Message], seconds: float
    ) -> Iterator[tuple[str, Message | None]]:
        """Yield replies as they come, until all are there or the time is over.

        Each comes with the id of the message that it answers, and is None if it is no message.

        Flower's own ``send_and_receive`` returns them all at the end, after sleeps of 3 s, and
        loses those that arrive during the last one.
        """
        if self.simulated:
            for one in self.grid.send_and_receive(messages, timeout=seconds):
                yield one.metadata.reply_to_message_id, one
                del one
            return
        end = time.monotonic() + seconds
        waiting = set(self.grid.push_messages(messages))
        last = False
        while waiting and not last:
            last = time.monotonic() >= end  # one more pull for what came during the last sleep
            before = len(waiting)
            for message_id in sorted(waiting):  # one at a time: each may hold a large update
                left = max(end - time.monotonic(), LAST_SECONDS)
                for reply in self._reply_to(message_id, left):
                    waiting.discard(message_id)
                    yield message_id, reply
                    del reply
            if waiting and len(waiting) == before and not last:
                time.sleep(POLL_SECONDS)

    def _reply_to(self, message_id: str, seconds: float) -> Iterator[Message | None]:
        """Yield what has come in answer to a message; None if it cannot be read.

        Whom it answers is known by what was asked for, not by what it says of itself.
        """
        try:
            with within(seconds):
                found = list(self.grid.pull_messages([message_id]))
        except Unreadable:
            yield None
            return
        if found:
            yield found.pop(0)


def _messages(
    message_type: str,
    instructions: Mapping[str, RecordDict],
    nodes: Mapping[str, int],
    seconds: float,
    group: str,
) -> dict[str, Message]:
    return {
        site: Message(
            records,
            dst_node_id=nodes[site],
            message_type=message_type,
            group_id=group,
            # A site that returns later must not work off instructions of past rounds.
            ttl=seconds + TTL_MARGIN_SECONDS,
        )
        for site, records in instructions.items()
    }


def encode(instruction: Instruction, sites: Iterable[str]) -> dict[str, RecordDict]:
    """Encode one instruction once, for several sites."""
    records = instruction.to_records()
    return dict.fromkeys(sites, records)


def size(records: RecordDict, arrays: bool = True) -> int:
    """Return the bytes of a message's content, as near as it travels; with or without arrays."""
    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values()) if arrays else 0
        else:
            total += sum(len(v) if isinstance(v, str | bytes) else 8 for v in record.values())
    return total


def _read(site: str, message: Message | None, message_type: str, folds: bool) -> Answer:
    if message is None:
        return Answer(site, None, UNREADABLE)
    if message.has_error():  # its own text may quote the site; it is dropped
        return Answer(site, None, NO_REPLY if came_too_late(message) else LOST)
    received = size(message.content, arrays=False)
    try:
        reply = Reply.from_records(message.content, message_type, folded=folds)
    except ValueError:
        return Answer(site, None, UNREADABLE, received)
    failure = "" if reply.status == "ok" else reply.status
    return Answer(site, reply, failure, received)
