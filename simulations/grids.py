"""Flower's Grid over simulated sites: in this process, or in Ray actors.

Flower's own simulation engine is not needed. Both grids run the same ``SiteHost`` and give equal
results, since updates are summed exactly and every site draws from its own generator.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from federation.errors import UserError, WardroundError
from federation.flower import NodeInfo, Run, stamp, take_simulated_identity
from federation.study import Study
from simulations.host import Inspection, SiteHost, chunks

FIRST_NODE = 100
CHUNK = 16
"""Sites answered in one call to a host: enough to hide the call, few enough to balance load."""
RETRIES = 2
HOST_LOST = 1
CONNECT_SECONDS = 10


class SimulatedGrid(Grid):
    """What both grids share: nodes with names, and messages with ids.

    Args:
        sites: site file by name.

    Attributes:
        workers: processes beside this one.
    """

    workers = 0

    def __init__(self, sites: Mapping[str, Path]):
        take_simulated_identity()
        names = sorted(sites)
        self.names = {FIRST_NODE + i: name for i, name in enumerate(names)}
        self.files = {node: str(sites[name]) for node, name in self.names.items()}
        self.pooled_node = FIRST_NODE + len(names)
        self._ids = itertools.count(1)
        self._pushed: list[Message] = []
        self._run: Run | None = None

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
    def inspect(self, study: Study) -> list[Inspection]:
        """Read every site's cohort, and report what was excluded or cannot be read."""

    @abstractmethod
    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""

    def close(self) -> None:
        """Release what the grid holds."""

    @abstractmethod
    def _answer(self, messages: Sequence[Message], end: float | None) -> Iterator[Message]:
        """Answer messages, yielding replies as they come, until the time ``end``."""

    def _stamped(self, messages: Iterable[Message]) -> list[Message]:
        stamped = list(messages)
        for message in stamped:
            stamp(message, f"message-{next(self._ids)}")
        return stamped


class LocalGrid(SimulatedGrid):
    """All sites in this process, one after another; starts at once."""

    def __init__(self, sites: Mapping[str, Path]):
        super().__init__(sites)
        self._host = SiteHost(self.files, self.pooled_node)

    def inspect(self, study: Study) -> list[Inspection]:
        """Read every site's cohort."""
        return self._host.inspect(list(self.names), study)

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""
        self._host.use_ledgers(folder)

    def _answer(self, messages: Sequence[Message], end: float | None) -> Iterator[Message]:
        for chunk in chunks(messages, CHUNK):
            yield from self._host.run(chunk, end)


@dataclass(frozen=True)
class Envelope:
    """A message on its way to a host; messages with the same content share one copy of it."""

    message_id: str
    node: int
    message_type: str
    group: str
    content: Any


class RayHost:
    """The actor around a ``SiteHost``."""

    def __init__(self, sites: Mapping[int, str], pooled: int):
        self._host = SiteHost(sites, pooled)

    def run(self, envelopes: Sequence[Envelope]) -> list[Message]:
        """Open the envelopes and answer them."""
        import ray

        contents = {content: ray.get(content) for content in {e.content for e in envelopes}}
        messages = []
        for envelope in envelopes:
            message = Message(
                contents[envelope.content],
                dst_node_id=envelope.node,
                message_type=envelope.message_type,
                group_id=envelope.group,
            )
            stamp(message, envelope.message_id)
            messages.append(message)
        return self._host.run(messages)

    def inspect(self, nodes: Sequence[int], study: Study) -> list[Inspection]:
        """Read some sites' cohorts."""
        return self._host.inspect(nodes, study)

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers in a folder; None for the sites' own."""
        self._host.use_ledgers(folder)


@dataclass
class _Work:
    """Messages that one host answers in one call."""

    messages: list[Message]
    worker: int
    tries: int = 0
    started: int = 0


class RayGrid(SimulatedGrid):
    """Sites spread over Ray actors, each site always with the same one.

    A dead actor is replaced and its unanswered messages are sent again, one at a time, so that a
    site that kills its process fails alone.

    Args:
        sites: site file by name.
        workers: number of actors; None for one a site, as far as the cluster has cores.
        address: of a running Ray cluster; None starts Ray on this machine for this run.

    Raises:
        UserError: if no cluster answers, or it has fewer cores than workers.
    """

    def __init__(self, sites: Mapping[str, Path], workers: int | None, address: str | None = None):
        super().__init__(sites)
        import ray

        self._ray = ray
        cores = _start_ray(ray, workers, address)
        self.workers = min(workers or cores, len(self.names))
        self._calls = itertools.count()
        self._actor_class = ray.remote(RayHost).options(num_cpus=1)
        self._ledgers: Path | None = None
        self._actors = [self._new_actor() for _ in range(self.workers)]
        self._worker_of = _spread(self.files, self.workers) | {self.pooled_node: 0}

    def inspect(self, study: Study) -> list[Inspection]:
        """Read every site's cohort, all actors at once."""
        mine: list[list[int]] = [[] for _ in self._actors]
        for node in self.names:
            mine[self._worker_of[node]].append(node)
        calls = [
            a.inspect.remote(nodes, study) for a, nodes in zip(self._actors, mine, strict=True)
        ]
        try:
            found = self._ray.get(calls)
        except self._ray.exceptions.RayError as error:
            raise WardroundError(
                f"A process that was reading cohorts died: {type(error).__name__}. Cohorts that do "
                "not fit into memory are the usual cause; fewer --workers need less."
            ) from None
        return sorted(itertools.chain(*found), key=lambda inspection: inspection.site)

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own."""
        self._ledgers = None if folder is None else folder.absolute()
        self._ray.get([actor.use_ledgers.remote(self._ledgers) for actor in self._actors])

    def close(self) -> None:
        """End the actors, and leave Ray."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._ray.shutdown()

    def kill_worker(self, worker: int) -> None:
        """Kill one actor's process, as a crash would; for fault experiments."""
        self._ray.kill(self._actors[worker])

    def _new_actor(self) -> Any:
        actor: Any = self._actor_class.remote(self.files, self.pooled_node)
        actor.use_ledgers.remote(self._ledgers)  # an actor works off its calls in order
        return actor

    def _answer(self, messages: Sequence[Message], end: float | None) -> Iterator[Message]:
        shared = {id(m.content): m.content for m in messages}
        references = {key: self._ray.put(content) for key, content in shared.items()}
        queues = self._queues(messages)
        flying: dict[Any, _Work] = {}

        def launch(worker: int) -> None:
            """Keep two calls at an actor, so that it never idles."""
            while queues[worker] and sum(w.worker == worker for w in flying.values()) < 2:
                work = queues[worker].popleft()
                work.started = next(self._calls)
                envelopes = [_envelope(m, references[id(m.content)]) for m in work.messages]
                flying[self._actors[worker].run.remote(envelopes)] = work

        for worker in range(self.workers):
            launch(worker)
        while flying:
            left = None if end is None else max(end - time.monotonic(), 0)
            done, _ = self._ray.wait(list(flying), num_returns=1, timeout=left)
            if not done:
                self._replace({work.worker for work in flying.values()})
                return
            work = flying.pop(done[0])
            try:
                yield from self._ray.get(done[0])
            except self._ray.exceptions.RayActorError:
                yield from self._recover(work, flying, queues)
            except self._ray.exceptions.RayError:  # the host raised and lives, out of memory say
                yield from _lost(work)
            launch(work.worker)

    def _queues(self, messages: Sequence[Message]) -> list[deque[_Work]]:
        """Group messages by actor, in chunks that keep all actors busy to the end."""
        mine: list[list[Message]] = [[] for _ in range(self.workers)]
        for message in messages:
            mine[self._worker_of[message.metadata.dst_node_id]].append(message)
        return [
            deque(
                _Work(chunk, worker)
                for chunk in chunks(own, min(CHUNK, max(1, (len(own) + 3) // 4)))
            )
            for worker, own in enumerate(mine)
        ]

    def _recover(
        self, work: _Work, flying: dict[Any, _Work], queues: list[deque[_Work]]
    ) -> Iterator[Message]:
        """Replace a dead actor and queue its work again, or give up on the call that killed it."""
        others = [reference for reference, w in flying.items() if w.worker == work.worker]
        lost = [work, *(flying.pop(reference) for reference in others)]
        running, *waiting = sorted(lost, key=lambda one: one.started)
        queue = queues[work.worker]
        queue.extendleft(reversed(waiting))
        self._replace({work.worker})
        tries = running.tries + 1
        if tries > RETRIES:
            yield from _lost(running)
        else:
            queue.extendleft(_Work([m], work.worker, tries) for m in reversed(running.messages))

    def _replace(self, workers: set[int]) -> None:
        for worker in workers:
            self._ray.kill(self._actors[worker])
            self._actors[worker] = self._new_actor()


def _lost(work: _Work) -> Iterator[Message]:
    for message in work.messages:
        yield Message(Error(HOST_LOST, "the simulation's host died"), reply_to=message)


def _start_ray(ray: Any, workers: int | None, address: str | None) -> int:
    """Start or join Ray; return its number of cores."""
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is None:
        # "local", so that a run never joins somebody's cluster by accident.
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **options)
    else:
        _check_answers(address)
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError, TimeoutError) as error:
            raise UserError(
                "--ray-address", f'no Ray cluster answers at "{address}"', remedy=str(error)
            ) from None
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < (workers or 1):
        ray.shutdown()
        raise UserError(
            "--workers", f"{workers or 1} workers, but the Ray cluster has {cores} cores"
        )
    return cores


def _check_answers(address: str) -> None:
    """Ray itself waits many minutes for an address at which nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like: Ray looks for a cluster on this machine and says if none is
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            "--ray-address",
            f'no Ray cluster answers at "{address}": {error.strerror or error}',
            remedy="`ray start --head` prints the address of a cluster.",
        ) from None


def _envelope(message: Message, content: Any) -> Envelope:
    metadata = message.metadata
    return Envelope(
        metadata.message_id,
        metadata.dst_node_id,
        metadata.message_type,
        metadata.group_id,
        content,
    )


def _spread(files: Mapping[int, str], workers: int) -> dict[int, int]:
    """Give each site to the worker with the least to do so far, largest sites first."""
    cost = {node: _bytes_below(Path(file).parent) for node, file in files.items()}
    load = [0] * workers
    chosen = {}
    for node in sorted(cost, key=lambda n: (-cost[n], n)):
        worker = load.index(min(load))
        load[worker] += cost[node]
        chosen[node] = worker
    return chosen


def _bytes_below(folder: Path) -> int:
    return 1 + sum(file.stat().st_size for file in folder.rglob("*.parquet"))
