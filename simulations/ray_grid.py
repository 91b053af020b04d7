"""Flower's Grid over simulated sites in Ray actors, on one machine or a cluster."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message

from clients.site import load_site
from federation.errors import UserError, WardroundError
from federation.messages import TRAIN, Instruction
from federation.models.build import build_model
from federation.models.stacked import MOST_AT_ONCE, can_stack
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from simulations.cluster import disk_for_objects, start_ray, versions
from simulations.crew import Crew, store_here
from simulations.faults import Faults
from simulations.grids import SimulatedGrid, orders
from simulations.host import Arrival, Inspection, Order, SiteHost, chunks
from simulations.schedule import Costs, halves, spread
from simulations.shipping import SITE_FILE, fingerprint, unpack

logger = logging.getLogger("wardround.simulation")

CHUNK = 16
"""Most sites in one call to a host, before it is known what they cost."""
CALL_SECONDS = 0.1
"""What a call should take at least, then: enough to hide what the call itself costs."""
READ_AT_ONCE = 64
"""Cohorts read in one call, so that one hears of them."""
AT_AN_ACTOR = 2
"""Calls at an actor at once, so that it never idles."""
RETRIES = 2


class RayHost:
    """The actor around a ``SiteHost``.

    Args:
        sites: site file by node id.
        pooled: see `SiteHost`.
        store: name of the folder in which this machine keeps its cohorts.
        together: see `SiteHost`.
    """

    def __init__(self, sites: Mapping[int, str], pooled: int, store: str, together: bool):
        self._sites, self._store = dict(sites), store_here(store)
        self._rest = pooled, self._store, together
        self._archives: dict[int, Any] = {}
        self._made: SiteHost | None = None
        self._fetched: dict[Any, Any] = {}

    @property
    def _host(self) -> SiteHost:
        if self._made is None:
            self._made = SiteHost(self._sites, *self._rest)
        return self._made

    def run(
        self, orders: Sequence[Order], contents: Sequence[Any]
    ) -> tuple[list[Arrival], dict[int, float]]:
        """Answer messages.

        Args:
            orders: with the place of their content in ``contents``.
            contents: references to the object store; what was fetched for the last call is kept.

        Returns:
            The answers, and the seconds that each site's training took.
        """
        import ray

        self._fetch(order.node for order in orders)
        self._fetched = {
            reference: self._fetched[reference]
            if reference in self._fetched
            else ray.get(reference)
            for reference in contents
        }
        opened = [o._replace(content=self._fetched[contents[o.content]]) for o in orders]
        arrivals = self._host.run(opened)
        return arrivals, {o.node: self._host.seconds.get(o.node, 0.0) for o in orders}

    def inspect(self, nodes: Sequence[int], study: Study) -> list[Inspection]:
        """Read some sites' cohorts."""
        self._fetch(nodes)
        return self._host.inspect(nodes, study)

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers in a folder; None for the sites' own."""
        self._host.use_ledgers(folder)

    def use_memories(self, folder: Path) -> None:
        """Keep what sites keep for themselves in a folder."""
        self._host.use_memories(folder)

    def use_faults(self, faults: Faults | None) -> None:
        """Play faults in the rounds that follow."""
        self._host.use_faults(faults)

    def introduce(self) -> tuple[str, dict[str, str]]:
        """Return the id of this machine, and the versions it has."""
        import ray

        return str(ray.get_runtime_context().get_node_id()), versions()

    def room(self, session: Path) -> float:
        """Return how many bytes of objects this machine's disk takes."""
        return disk_for_objects(session)

    def reaches(self, file: Path) -> bool:
        """Whether the actor sees a file that the driver has written."""
        return file.exists()

    def lacking(self, seen: Mapping[str, str]) -> list[str]:
        """Return the site files that are not on this machine as the driver sees them.

        Args:
            seen: `fingerprint` by site file.
        """
        return [file for file, there in seen.items() if fingerprint(file) != there]

    def receive(self, archives: Mapping[str, Any]) -> None:
        """Play copies of some sites, by site file; each is fetched when it is first played."""
        for node, file in self._sites.items():
            if file in archives:
                self._archives[node] = archives[file]
                self._sites[node] = str(self._folder(node) / SITE_FILE)

    def _fetch(self, nodes: Iterable[int]) -> None:
        import ray

        wanted = set(nodes)
        if self._rest[0] in wanted:
            wanted = set(self._sites)
        for node in wanted & set(self._archives):
            unpack(ray.get(self._archives.pop(node)), self._folder(node))

    def _folder(self, node: int) -> Path:
        return self._store / "sites" / str(node)


@dataclass
class _Work:
    """Messages that one host answers in one call."""

    orders: list[Order]
    tries: int = 0
    started: int = 0


class RayGrid(SimulatedGrid):
    """Sites spread over Ray actors, those that take longest first.

    A dead actor is replaced, or its work left to the others if its machine is gone; its unanswered
    messages are sent again, one at a time, so that a site that kills its process fails alone.

    Args:
        sites: site file by name.
        workers: number of actors; None for one a site, as far as the cluster has cores.
        address: of a running Ray cluster; None starts Ray on this machine for this run.
        together: whether small models of several sites may be trained in one pass.

    Raises:
        UserError: if no cluster answers, or it has fewer cores than workers.
    """

    def __init__(
        self,
        sites: Mapping[str, Path],
        workers: int | None,
        address: str | None = None,
        together: bool = True,
    ):
        super().__init__(sites, together)
        import ray

        self._ray = ray
        self._calls = itertools.count()
        self._stackable: dict[str, bool] = {}
        self._costs = Costs(self.files, self.pooled_node)
        start_ray(ray, workers, address)
        try:
            self._crew = Crew(
                ray,
                RayHost,
                (self.files, self.pooled_node, self.store.name, together),
                workers,
                shared=address is not None,
                store=self.store.name,
                gpus=any(load_site(Path(f)).settings.site.device != "cpu" for f in sites.values()),
            )
        except BaseException:
            ray.shutdown()
            raise
        self.workers = len(self._crew.actors)

    def inspect(
        self, study: Study, done: Callable[[int], None] = lambda n: None
    ) -> list[Inspection]:
        """Read every site's cohort, all actors at once.

        Raises:
            UserError: if a disk has no room for the cohorts, or for Ray's objects.
            WardroundError: if a process dies of it.
        """
        self._crew.check_room(self._bytes_at_once(study))
        mine = spread(self._costs.of(self.names), list(self._crew.actors), {})
        calls = [
            self._crew.actors[worker].inspect.remote(some, study)
            for worker, nodes in mine.items()
            for some in chunks(nodes, READ_AT_ONCE)
        ]
        found: list[Inspection] = []
        try:
            while calls:
                ready, calls = self._ray.wait(calls)
                found += self._ray.get(ready[0])
                done(len(found))
        except self._ray.exceptions.RayError as error:
            if isinstance(getattr(error, "cause", None), UserError):
                raise error.cause from None  # type: ignore[attr-defined]
            raise WardroundError(
                f"A process that was reading cohorts died: {type(error).__name__}. Cohorts that do "
                "not fit into memory are the usual cause; fewer --workers need less."
            ) from None
        return sorted(found, key=lambda inspection: inspection.site)

    def use_ledgers(self, folder: Path | None) -> None:
        """Keep the privacy ledgers of the runs that follow in a folder; None for the sites' own.

        Raises:
            UserError: if a machine has copies of the sites only, whose ledgers would be lost with
                the run.
        """
        self._crew.allow_copies(folder is not None)
        self._crew.tell("use_ledgers", None if folder is None else folder.absolute())

    def use_memories(self, folder: Path) -> None:
        """Keep what sites keep for themselves, in the runs that follow, in a folder."""
        self._crew.tell("use_memories", folder.absolute())

    def check_shared(self, folder: Path, what: str) -> None:
        """Make sure that every machine reaches a folder of the run.

        Raises:
            UserError: naming what must be shared.
        """
        if not self._crew.all_reach(folder.absolute()):
            raise UserError(
                "--out",
                f"{folder.absolute().parent} is not reached by every machine of the cluster, and "
                f"the run's {what} are kept there",
                remedy="Give a run folder on a disk that all machines share.",
            )

    def use_faults(self, faults: Faults | None) -> None:
        """Play faults in the rounds that follow."""
        self._crew.tell("use_faults", faults)

    def close(self) -> None:
        """End the actors, and leave Ray."""
        try:
            self._crew.close()
        finally:
            self._ray.shutdown()
            super().close()

    def kill_worker(self, worker: int) -> None:
        """Kill one actor's process, as a crash would; for fault experiments."""
        self._ray.kill(self._crew.actors[worker])

    def _answer(self, messages: Sequence[Message], end: float | None) -> Iterator[Message]:
        shared = {id(m.content): m.content for m in messages}
        references = {key: self._ray.put(content) for key, content in shared.items()}
        sent = [o._replace(content=id(o.content)) for o in orders(messages)]
        together = self._trained_together(messages[0]) if messages else False
        queues = self._queues(sent, together)
        flying: dict[Any, tuple[int, _Work]] = {}

        def launch(worker: int) -> None:
            if sum(w == worker for w, _ in flying.values()) < AT_AN_ACTOR:
                work = self._next(queues, worker)
                if work is not None:
                    work.started = next(self._calls)
                    flying[self._call(worker, work, references)] = worker, work

        for worker in list(self._crew.actors) * AT_AN_ACTOR:
            launch(worker)
        while flying:
            left = None if end is None else max(end - time.monotonic(), 0)
            done, _ = self._ray.wait(list(flying), num_returns=1, timeout=left)
            if not done:
                for worker in {worker for worker, _ in flying.values()}:
                    self._replace(worker)
                return
            worker, work = flying.pop(done[0])
            try:
                arrivals, seconds = self._ray.get(done[0])
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError):
                arrivals, seconds = self._recover(worker, work, flying, queues), {}
            except self._ray.exceptions.RayError as error:
                # The host raised and lives, out of memory say. Its text may hold a patient's value.
                cause = type(getattr(error, "cause", None) or error).__name__
                logger.warning("a host failed on %d sites: %s", len(work.orders), cause)
                arrivals, seconds = _lost(work), {}
            self._costs.note(seconds)
            for arrival in arrivals:
                yield self._reply(arrival, messages)
            for other in list(self._crew.actors):
                launch(other)

    def _call(self, worker: int, work: _Work, references: Mapping[int, Any]) -> Any:
        """Send work to an actor, with one reference for each content."""
        keys = list(dict.fromkeys(order.content for order in work.orders))
        sent = [order._replace(content=keys.index(order.content)) for order in work.orders]
        return self._crew.actors[worker].run.remote(sent, [references[key] for key in keys])

    def _bytes_at_once(self, study: Study) -> int:
        """Return the bytes of weights and sums that are in Ray's object store in a round."""
        section = study.modalities.ehr
        if section is not None and section.vocabulary == "prepared":
            return 0  # not known before the sites were asked
        model = build_model(study, None if section is None else agreed_vocabulary(section))
        return 8 * len(model.vector) * (1 + AT_AN_ACTOR * self.workers)

    def _queues(self, sent: Sequence[Order], together: bool) -> dict[int, deque[_Work]]:
        """Group messages by actor, in chunks that keep all actors busy to the end."""
        by_node = {order.node: order for order in sent}
        mine = spread(self._costs.of(by_node), list(self._crew.actors), self._costs.homes)
        queues = {}
        for worker, nodes in mine.items():
            own = [by_node[node] for node in nodes]
            seconds = self._costs.measured(nodes)
            if seconds is not None:
                calls = halves(own, max(int(len(nodes) * CALL_SECONDS / seconds), 1))
            else:
                most = MOST_AT_ONCE if together else min(CHUNK, max((len(nodes) + 3) // 4, 1))
                calls = chunks(own, most)
            queues[worker] = deque(_Work(call) for call in calls)
        return queues

    def _trained_together(self, message: Message) -> bool:
        if message.metadata.message_type != TRAIN or not self.together:
            return False
        instruction = Instruction.from_records(message.content)
        key = instruction.study.fingerprint
        if key not in self._stackable:
            model = build_model(instruction.study, instruction.vocabulary)
            self._stackable[key] = can_stack(model, instruction.study.training.batch_size)
        return self._stackable[key]

    def _next(self, queues: dict[int, deque[_Work]], worker: int) -> _Work | None:
        """Return an actor's next work: its own, or some of the one with most left on its machine.

        Sites on another machine stay there, where their cohorts are kept.
        """
        if queues[worker]:
            return queues[worker].popleft()
        machine = self._crew.machines.get(worker)
        others = [w for w in self._crew.actors if self._crew.machines.get(w) == machine]
        most = max(others, key=lambda other: len(queues[other]))
        return queues[most].pop() if queues[most] else None

    def _recover(
        self,
        worker: int,
        work: _Work,
        flying: dict[Any, tuple[int, _Work]],
        queues: dict[int, deque[_Work]],
    ) -> list[Arrival]:
        """Queue a dead actor's work again, or give up on the call that killed it."""
        others = [reference for reference, (w, _) in flying.items() if w == worker]
        lost = [work, *(flying.pop(reference)[1] for reference in others)]
        running, *waiting = sorted(lost, key=lambda one: one.started)
        queue = queues[worker]
        queue.extendleft(reversed(waiting))
        tries = running.tries + 1
        given_up = _lost(running) if tries > RETRIES else []
        if not given_up:
            queue.extendleft(_Work([order], tries) for order in reversed(running.orders))
        self._replace(worker)
        if worker not in self._crew.actors:
            heirs = itertools.cycle(self._crew.actors)
            for left in queues.pop(worker):
                queues[next(heirs)].append(left)
        return given_up

    def _replace(self, worker: int) -> None:
        self._crew.replace(worker)
        self.workers = len(self._crew.actors)


def _lost(work: _Work) -> list[Arrival]:
    return [Arrival(order.place, None) for order in work.orders]
