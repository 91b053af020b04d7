"""Starting or joining Ray, and sites' folders for machines that cannot reach them."""

from __future__ import annotations

import io
import logging
import socket
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from federation.errors import UserError

CONNECT_SECONDS = 10
STATE_THAT_TRAVELS = ("patient.key",)
"""Of a site's state folder: what decides its splits, and no ledger."""


def start_ray(ray: Any, workers: int | None, address: str | None) -> int:
    """Start or join Ray.

    Args:
        ray: the package.
        workers: how many processes are wanted; None for one a core.
        address: of a running cluster; None starts Ray on this machine.

    Returns:
        The number of its cores.

    Raises:
        UserError: if no cluster answers, or it has fewer cores than workers.
    """
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
    cores = cores_alive(ray)
    if cores < (workers or 1):
        ray.shutdown()
        raise UserError(
            "--workers", f"{workers or 1} workers, but the Ray cluster has {cores} cores"
        )
    return cores


def cores_alive(ray: Any) -> int:
    """Return the cores of the machines that are there now."""
    return int(sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))


def gpus(ray: Any) -> float:
    """Return the GPUs of the machines that are there now."""
    return float(sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))


def packed(site_file: Path) -> bytes:
    """Return a site's folder as a tar file, without what its state folder holds but its key."""
    folder, state = site_file.parent, site_file.parent / "state"

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = folder / entry.name
        private = state in path.parents and path.name not in STATE_THAT_TRAVELS
        return None if private else entry

    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for child in sorted(folder.iterdir()):
            archive.add(child, child.name, filter=chosen)
    return memory.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Write a packed site's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def absent(files: Iterable[str]) -> list[str]:
    """Return those of the site files that this machine does not reach."""
    return [file for file in files if not Path(file).exists()]


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
