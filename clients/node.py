"""A site's connection: Flower's SuperNode, kept running, with our own programs before Flower's.

All connections go out. The SuperNode starts a program for each message, by name, from PATH; the
first folder there is ours, where ``flwr-clientapp`` is ``clients.clientapp`` and every other kind
of program that a coordinator could ask for is one that refuses.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from clients.approvals import audit_log
from clients.site import Site, load_site, open_site
from federation.errors import UserError
from federation.flower import COMMANDS
from federation.supervision import Program, only_one, scripts, supervise, variables
from federation.validation import Section, read_toml, validate

CONNECTION, KEY, AUTHORITY = "connection.toml", "node.key", "ca.crt"
ANSWERS = "flwr-clientapp"

OURS = """#!/bin/sh
exec "{python}" -P -m clients.clientapp "$@"
"""
REFUSES = """#!/bin/sh
echo "this site runs no $(basename "$0") for a coordinator" >&2
exit 1
"""


class Connection(Section):
    """The start kit's ``connection.toml``: whom to connect to, and as whom."""

    consortium: str
    site: str
    address: str


def run_site(site: Path, kit: Path, stop: threading.Event, tell: Callable[[str], None]) -> None:
    """Keep a site connected until ``stop`` is set.

    Args:
        site: the site's folder or file.
        kit: the folder of its start kit.
        stop: set to end.
        tell: one line on what happens.

    Raises:
        UserError: if the site file or the kit cannot be used, or the site runs already.
    """
    at = load_site(site)
    connection = load_connection(kit, at)
    with only_one(at.state, f"the site {at.name}") as held:
        own = at.state / "bin"
        write_programs(own)
        audit_log(at).append("started", version=version("wardround"), to=connection.address)
        tell(f"{at.name}: connecting to {connection.address}")
        try:
            supervise([_supernode(at, kit, connection, own)], stop, tell, held=held)
        finally:
            audit_log(at).append("stopped")


def is_healthy(site: Path) -> bool:
    """Return whether a site's service and its SuperNode run on this machine.

    The SuperNode ends when the coordinator refuses it, so one that runs is let in or tries.

    Raises:
        UserError: if the site file cannot be used.
    """
    at = open_site(site)
    wanted = _node_config(at).encode()
    return any(wanted in arguments for arguments in _arguments_of_processes())


def load_connection(kit: Path, site: Site) -> Connection:
    """Read and check what the start kit says and holds.

    Raises:
        UserError: naming the file.
    """
    file = kit / CONNECTION
    connection = validate(Connection, read_toml(file), file)
    if connection.site != site.name:
        raise UserError(
            file,
            f'this is the kit of "{connection.site}", and the site file is that of "{site.name}"',
            field="site",
            remedy="Each site has a kit of its own; the names have to be equal.",
        )
    for name in (AUTHORITY, KEY):
        if not (kit / name).is_file():
            raise UserError(kit / name, "there is no such file", remedy="It came with the kit.")
    if (kit / KEY).stat().st_mode & 0o077:
        raise UserError(
            kit / KEY,
            "others than its owner may read the site's private key",
            remedy=f"chmod 600 {kit / KEY}",
        )
    return connection


def write_programs(folder: Path) -> None:
    """Write the programs that stand before Flower's own on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for command in COMMANDS:
        file = folder / command
        text = OURS.format(python=sys.executable) if command == ANSWERS else REFUSES
        draft = file.with_name(f".{command}")
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o700)
        draft.replace(file)


def _supernode(site: Site, kit: Path, connection: Connection, own: Path) -> Program:
    command = [str(scripts() / "flower-supernode"), "--superlink", connection.address]
    command += ["--root-certificates", str((kit / AUTHORITY).absolute())]
    command += ["--auth-supernode-private-key", str((kit / KEY).absolute())]
    # Its own programs reach it here; nobody outside of this machine does.
    command += ["--host", "127.0.0.1", "--port", str(_free_port())]
    command += ["--node-config", _node_config(site)]
    home = site.state / "flwr"
    home.mkdir(exist_ok=True)
    return Program("SuperNode", command, variables(home, first=own.absolute()), home)


def _node_config(site: Site) -> str:
    return f"site={json.dumps(str(site.file))}"


def _arguments_of_processes() -> Iterator[list[bytes]]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield file.read_bytes().split(b"\0")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
