"""Starting Ray on this machine, or joining a cluster, and what its machines have."""

from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from federation.errors import UserError

CONNECT_SECONDS = 10
LEAST_FREE = 64 * 2**20
"""Bytes of disk without which Ray does not start, after half a minute and without saying why."""
SPILLS_UNTIL = 0.95
"""Ray keeps no objects on a disk that is fuller than this."""
DECIDE_RESULTS = ("wardround", "flwr", "numpy", "opacus", "pandas", "pyarrow", "pydicom", "torch")
"""Packages whose versions can change a result's last bits, or what a message means."""


@dataclass(frozen=True)
class Machine:
    """What one machine lends to Ray.

    Attributes:
        id: Ray's.
        cores: as told to Ray.
        gpus: likewise.
        memory: bytes of its object store.
        session: Ray's folder there, where objects go that memory does not hold.
    """

    id: str
    cores: int
    gpus: float = 0.0
    memory: float = math.inf
    session: Path = Path()


def start_ray(ray: Any, workers: int | None, address: str | None) -> None:
    """Start or join Ray.

    Args:
        ray: the package.
        workers: how many processes are wanted; None for one a core.
        address: of a running cluster; None starts Ray on this machine.

    Raises:
        UserError: if no cluster answers at the address, or it is of another version; if Ray cannot
            start here.
    """
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is not None:
        _check_answers(address)
    else:
        _check_disk(Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()))
    try:
        if address is None:
            # "local", so that a run never joins somebody's cluster by accident.
            ray.init(address="local", num_cpus=workers, include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        ray.shutdown()
        told = " ".join(str(error).split())
        if address is not None:
            raise UserError(
                "--ray-address",
                f'no Ray cluster can be joined at "{address}": {told}',
                remedy="Does it run the same versions of Ray and Python? If it asks for a token, "
                "set RAY_AUTH_MODE=token here, and have its ~/.ray/auth_token.",
            ) from None
        raise UserError(
            "--workers",
            f"Ray does not start on this machine: {told}",
            remedy="--workers 0 runs in one process, without Ray.",
        ) from None


def machines(ray: Any) -> list[Machine]:
    """Return the machines that are there now."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            # SESSION/sockets/plasma_store
            session = Path(node.get("ObjectStoreSocketName", "")).parent.parent
            cores, gpus = int(has.get("CPU", 0)), float(has.get("GPU", 0))
            memory = has.get("object_store_memory", math.inf)
            found.append(Machine(node["NodeID"], cores, gpus, memory, session))
    return found


def most_workers(here: Sequence[Machine]) -> int:
    """Return how many workers have a core; where there are GPUs, beside one.

    A run on both kinds of device would depend on which site is played where.
    """
    with_gpus = [machine.cores for machine in here if machine.gpus >= 1]
    return sum(with_gpus or [machine.cores for machine in here])


def gpu_share(here: Sequence[Machine], workers: int) -> float:
    """Return the part of one GPU that each worker gets; 0 without GPUs.

    A worker's part is of a single GPU, so it is what lets the fewest share one.

    >>> gpu_share([Machine("a", 8, 2)], 3)
    0.5
    """
    with_gpus = [machine for machine in here if machine.gpus >= 1]
    if not with_gpus:
        return 0.0
    sharing, wanted = 1, min(workers, most_workers(with_gpus))
    while sum(min(m.cores, int(m.gpus) * sharing) for m in with_gpus) < wanted:
        sharing += 1
    return math.floor(10_000 / sharing) / 10_000  # Ray counts in these, and rounds up


def versions() -> dict[str, str]:
    """Return the versions, on this machine, of the packages that decide results."""
    return {name: metadata.version(name) for name in DECIDE_RESULTS}


def disk_for_objects(session: Path) -> float:
    """Return how many bytes Ray may write on this machine for what its memory does not hold."""
    usage = shutil.disk_usage(session)
    return max(usage.free - (1 - SPILLS_UNTIL) * usage.total, 0.0)


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise UserError(
            folder,
            f"{free / 1e6:,.0f} MB are free, too few for Ray's files and what its memory does not "
            "hold",
            remedy="Make room, or name a folder on a larger disk in the environment variable "
            "TMPDIR.",
        )


def _check_answers(address: str) -> None:
    """Ray itself waits many minutes for an address at which nobody, or not Ray, listens."""
    import grpc

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like: Ray looks for a cluster on this machine and says if none is
    target = f"{host}:{port}"
    why = "what listens there is not Ray"
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        return
    except OSError as error:
        why = error.strerror or str(error)
    except grpc.FutureTimeoutError:
        pass
    raise UserError(
        "--ray-address",
        f'no Ray cluster answers at "{address}": {why}',
        remedy="`ray start --head` prints the address of a cluster.",
    )
