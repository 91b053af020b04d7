"""The actors of a run: placed on the machines of a cluster, replaced, and cleared away."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.errors import UserError, WardroundError
from simulations.cluster import (
    SPILLS_UNTIL,
    disk_for_objects,
    gpu_share,
    machines,
    most_workers,
    versions,
)
from simulations.shipping import packed, sealed

PLACED_SECONDS = 60
"""How long an actor may take to be started on a machine."""
CLEARED_SECONDS = 20


class Unfit(Exception):
    """An actor cannot play sites where it is; the text says why."""


class Crew:
    """Actors that play sites, each with a number that stays with it when it is replaced.

    Args:
        ray: the package, connected.
        actor: the actor's class; made with ``arguments``.
        arguments: site file by node first.
        workers: how many are wanted; None for one a site, as far as there are cores.
        shared: whether the cluster is not this run's own: machines may lack the sites, and cores
            may be taken by others.
        store: name of the folder in which each machine keeps what it prepares.
        gpus: whether the sites train on GPUs, where there are any.

    Attributes:
        actors: by number.
        machines: the machine of each actor; empty on this machine alone.
        shipped: packed sites in the object store, by site file.

    Raises:
        UserError: if there are fewer cores than workers, or a machine cannot play sites.
    """

    def __init__(
        self,
        ray: Any,
        actor: type,
        arguments: tuple[Any, ...],
        workers: int | None,
        *,
        shared: bool,
        store: str,
        gpus: bool,
    ):
        self._ray, self._arguments, self._shared, self._store = ray, arguments, shared, store
        self._files: Mapping[int, str] = arguments[0]
        self._told: dict[str, Any] = {}
        self._folders: set[Path] = set()
        self._sent_bytes = 0
        self._copies_do = True
        self._versions = versions()
        self._seen = {f: sealed(f) for f in self._files.values()} if shared else {}
        self._lacking: dict[str, list[str]] = {}
        self.machines: dict[int, str] = {}
        self.shipped: dict[str, Any] = {}
        self.actors: dict[int, Any] = {}
        here = machines(ray)
        most = most_workers(here)
        if most < (workers or 1):
            raise UserError(
                "--workers",
                f"{workers or 1} workers, but the Ray cluster has {most} cores for them",
                remedy="On a cluster with GPUs, only the machines that have some are used."
                if any(machine.gpus for machine in here)
                else "",
            )
        count = min(workers or most, len(self._files))
        share = gpu_share(here, count) if gpus else 0.0
        self._class = ray.remote(actor).options(num_cpus=1, num_gpus=share)
        self.actors = {worker: self._new() for worker in range(count)}
        for worker in self.actors:
            try:
                self._settle(worker)
            except Unfit as error:
                raise UserError(
                    "--ray-address", str(error), remedy="docs/cluster.md says what machines need."
                ) from None

    def tell(self, method: str, value: Any) -> None:
        """Call a method of every actor, and of those that will replace one."""
        self._told[method] = value
        calls = {w: getattr(a, method).remote(value) for w, a in self.actors.items()}
        for worker, call in calls.items():
            try:
                self._ray.get(call)
            except self._ray.exceptions.RayActorError:
                self.replace(worker)

    def allow_copies(self, do: bool) -> None:
        """Say whether machines may play copies of sites.

        Raises:
            UserError: if they may not, and some do.
        """
        self._copies_do = do
        if not do and self.shipped:
            raise UserError(
                "--site-ledgers",
                "some machines of the cluster have copies of the sites' folders only",
                remedy="Put the folders where every machine reaches them by the same path.",
            )

    def all_reach(self, folder: Path) -> bool:
        """Whether every machine sees a folder of this one; replaced actors must, from then on."""
        self._folders.add(folder)
        return not self._shared or self._reached_by(list(self.actors.values()), folder)

    def check_room(self, needed: int) -> None:
        """Make sure that Ray can keep what a run gives it, in memory or on disk.

        Args:
            needed: bytes of objects at once, beside the sites that are sent.

        Raises:
            UserError: naming the folder on whose disk there is no room.
        """
        needed += self._sent_bytes
        for machine in machines(self._ray):
            actors = [a for w, a in self.actors.items() if self.machines.get(w) == machine.id]
            if needed <= machine.memory or not (actors or not self._shared):
                continue
            room = (
                self._ray.get(actors[0].room.remote(machine.session))
                if self._shared
                else disk_for_objects(machine.session)
            )
            if needed - machine.memory > room:
                raise UserError(
                    machine.session,
                    f"Ray keeps here what its memory of {machine.memory / 1e6:,.0f} MB does not "
                    f"hold; the run has up to {needed / 1e6:,.0f} MB, and the disk takes "
                    f"{room / 1e6:,.0f} MB (Ray leaves {1 - SPILLS_UNTIL:.0%} of it free)",
                    remedy="Make room, or start Ray with a larger --object-store-memory or with "
                    "--temp-dir on a larger disk.",
                )

    def replace(self, worker: int) -> None:
        """Start an actor in the place of one; without a machine for it, go on with the others.

        Raises:
            WardroundError: if no actor is left.
        """
        self._ray.kill(self.actors[worker])
        self.actors[worker] = self._new()
        try:
            self._settle(worker)
        except Unfit as error:
            self._ray.kill(self.actors.pop(worker))
            self.machines.pop(worker, None)
            if not self.actors:
                raise WardroundError(
                    f"The Ray cluster has lost all machines that trained. The last one: {error}"
                ) from None

    def close(self) -> None:
        """End the actors, and remove what they kept on their machines."""
        for actor in self.actors.values():
            self._ray.kill(actor)
        if self._shared:
            self._clear_machines()

    def _new(self) -> Any:
        return self._class.remote(*self._arguments)

    def _settle(self, worker: int) -> None:
        """Give an actor what it needs before its first call; it works off its calls in order."""
        actor = self.actors[worker]
        if self._shared:
            try:
                self._outfit(worker, actor)
            except self._ray.exceptions.RayError as error:
                raise Unfit(f"a worker could not be started: {_last_line(error)}") from None
        for method, value in self._told.items():
            getattr(actor, method).remote(value)

    def _outfit(self, worker: int, actor: Any) -> None:
        machine, found = self._placed(actor)
        if found != self._versions:
            different = [
                f"{name} {found.get(name)} instead of {version}"
                for name, version in self._versions.items()
                if found.get(name) != version
            ]
            raise Unfit(f"a machine has other versions: {', '.join(different)}")
        self.machines[worker] = machine
        if machine not in self._lacking:
            self._lacking[machine] = self._ray.get(actor.lacking.remote(self._seen))
        lacking = self._lacking[machine]
        if lacking and not self._copies_do:
            raise Unfit("its machine does not reach the sites' folders")
        if not all(self._reached_by([actor], folder) for folder in self._folders):
            raise Unfit("its machine does not reach the run's folder")
        self._pack(lacking)
        if lacking:
            actor.receive.remote({file: self.shipped[file] for file in lacking})

    def _reached_by(self, actors: list[Any], folder: Path) -> bool:
        folder.mkdir(parents=True, exist_ok=True)
        beacon = folder / f".{self._store}"
        beacon.touch()
        try:
            return all(self._ray.get([actor.reaches.remote(beacon) for actor in actors]))
        finally:
            beacon.unlink()

    def _pack(self, files: list[str]) -> None:
        try:
            for file in files:
                if file not in self.shipped:
                    archive = packed(file)
                    self.shipped[file] = self._ray.put(archive)
                    self._sent_bytes += archive.nbytes
        except (
            self._ray.exceptions.ObjectStoreFullError,
            self._ray.exceptions.OutOfDiskError,
        ) as error:
            raise UserError(
                "--ray-address",
                "Ray's object store has no room for the sites that some machines do not reach: "
                f"{_last_line(error)}",
                remedy="Put them where every machine reaches them by the same path.",
            ) from None

    def _placed(self, actor: Any) -> tuple[str, dict[str, str]]:
        """Wait until an actor runs, for as long as there may be a core for it."""
        call = actor.introduce.remote()
        end = time.monotonic() + PLACED_SECONDS
        while time.monotonic() < end:
            if self._ray.wait([call], timeout=1)[0]:
                found: tuple[str, dict[str, str]] = self._ray.get(call)
                return found
            if most_workers(machines(self._ray)) < len(self.actors):
                raise Unfit("the machine of a worker is gone, and no other has a core for it")
        raise Unfit(
            f"{len(self.actors)} workers were asked for, and not all found a free core within "
            f"{PLACED_SECONDS} s; other work may hold them"
        )

    def _clear_machines(self) -> None:
        """Also where actors were killed or replaced, and could not clear up themselves."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        clear = self._ray.remote(_clear)
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        calls = [
            clear.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(machine, soft=False),
            ).remote(self._store)
            for machine in alive & set(self._lacking)
        ]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=CLEARED_SECONDS)


def store_here(name: str) -> Path:
    """Return this machine's folder of a run's store."""
    return Path(tempfile.gettempdir(), name)


def _clear(name: str) -> None:
    shutil.rmtree(store_here(name), ignore_errors=True)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
