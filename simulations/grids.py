"""Flower's Grid over simulated sites, and the one in this process; ``ray_grid`` has Ray's.

Flower's own simulation engine is not needed. Both grids run the same ``SiteHost`` and give equal
results, since updates are summed exactly and every site draws from its own generator.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
import uuid
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from federation.flower import NodeInfo, Run, stamp, take_simulated_identity
from federation.models.stacked import MOST_AT_ONCE
from federation.study import Study
from simulations.faults import Faults
from simulations.host import Arrival, Inspection, Order, SiteHost, chunks

FIRST_NODE = 100
HOST_LOST = 1
"""Code of the error in the place of a reply whose process is gone."""


class SimulatedGrid(Grid):
    """What both grids share: nodes with names, and messages with ids.

    Args:
        sites: site file by name.
        together: whether small models of several sites may be trained in one pass.

    Attributes:
        workers: processes beside this one.
        members: node by site, in order.
        files: site file by node.
    """

    workers = 0

    def __init__(self, sites: Mapping[str, Path], together: bool = True):
        take_simulated_identity()
        names = sorted(sites)
        self.together = together
        self.members = {name: FIRST_NODE + i for i, name in enumerate(names)}
        self.names = {node: name for name, node in self.members.items()}
        self.files = {node: str(sites[name]) for node, name in self.names.items()}
        self.pooled_node = FIRST_NODE + len(names)
        self._ids = itertools.count(1)
        self._pushed: list[Message] = []
        self._run: Run | None = None
        # The same path on every machine of a cluster; who writes there makes it.
        self.store = Path(tempfile.gettempdir(), f"wardround-{uuid.uuid4().hex}")
        weakref.finalize(self, shutil.rmtree, self.store, ignore_errors=True)

    def set_run(self, run: Run) -> None:
        """Set the run; a simulation has one only."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        assert self._run is not None
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a site."""
        return Message(
            content,
            dst_node_id=dst_node_id,
            message_type=message_type,
            group_id=group_id,
            ttl=ttl,
        )

    def get_node_ids(self) -> list[int]:
        """Return the sites' nodes."""
        return list(self.names)

    def get_nodes(self) -> list[NodeInfo]:
        """Return the sites' nodes with their names."""
        return [NodeInfo(node_id=node, name=name) for node, name in self.names.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages until their replies are pulled."""
        pushed = self._stamped(messages)
        self._pushed += pushed
        return [message.metadata.message_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Answer messages that were pushed."""
        wanted = set(message_ids)
        chosen = [m for m in self._pushed if m.metadata.message_id in wanted]
        self._pushed = [m for m in self._pushed if m.metadata.message_id not in wanted]
        return list(self._answer(chosen, None)) if chosen else []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Answer messages, yielding replies as they come, until the timeout."""
        end = None if timeout is None else time.monotonic() + timeout
        yield from self._answer(self._stamped(messages), end)

    @abstractmethod
    def inspect(
        self, study: Study, done: Callable[[int], None] = lambda n: None
    ) -> list[Inspection]:
        """Read every site's cohort, and report what was excluded or cannot be read.

        Args:
            study: the resolved study.
            done: told how many sites have been read.
        """

    @abstractmethod
    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""

    @abstractmethod
    def use_memories(self, folder: Path) -> None:
        """Keep what sites keep for themselves, in the runs that follow, in a folder."""

    def check_shared(self, folder: Path, what: str) -> None:
        """Make sure that all processes reach a folder of the run.

        Args:
            folder: that is there.
            what: is kept in it, in the plural.

        Raises:
            UserError: if one does not.
        """

    @abstractmethod
    def use_faults(self, faults: Faults | None) -> None:
        """Play faults in the rounds that follow."""

    def close(self) -> None:
        """Release what the grid holds."""
        shutil.rmtree(self.store, ignore_errors=True)

    @abstractmethod
    def _answer(self, messages: Sequence[Message], end: float | None) -> Iterator[Message]:
        """Answer messages, yielding replies as they come, until the time ``end``."""

    def _reply(self, arrival: Arrival, messages: Sequence[Message]) -> Message:
        message, content = messages[arrival.place], arrival.content
        if content is None:
            return Message(Error(HOST_LOST, "the site's process was lost"), reply_to=message)
        return Message(content, reply_to=message)

    def _stamped(self, messages: Iterable[Message]) -> list[Message]:
        stamped = list(messages)
        for message in stamped:
            stamp(message, f"message-{next(self._ids)}")
        return stamped


class LocalGrid(SimulatedGrid):
    """All sites in this process, one after another; starts at once."""

    def __init__(self, sites: Mapping[str, Path], together: bool = True):
        super().__init__(sites, together)
        self._host = SiteHost(self.files, self.pooled_node, self.store, together)

    def inspect(
        self, study: Study, done: Callable[[int], None] = lambda n: None
    ) -> list[Inspection]:
        """Read every site's cohort."""
        found: list[Inspection] = []
        for node in self.names:
            found += self._host.inspect([node], study)
            done(len(found))
        return found

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""
        self._host.use_ledgers(folder)

    def use_memories(self, folder: Path) -> None:
        """Keep what sites keep for themselves, in the runs that follow, in a folder."""
        self._host.use_memories(folder)

    def use_faults(self, faults: Faults | None) -> None:
        """Play faults in the rounds that follow."""
        self._host.use_faults(faults)

    def _answer(self, messages: Sequence[Message], end: float | None) -> Iterator[Message]:
        for chunk in chunks(orders(messages), MOST_AT_ONCE):
            for arrival in self._host.run(chunk, end):
                yield self._reply(arrival, messages)


def orders(messages: Sequence[Message]) -> list[Order]:
    """Return what a host has to know of messages."""
    return [
        Order(place, message.metadata.dst_node_id, message.metadata.message_type, message.content)
        for place, message in enumerate(messages)
    ]
