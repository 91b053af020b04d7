"""The coordinator's service: the SuperLink and its executor, apart, and who is registered.

The executor is a process of its own, so that a run's coordinator outlives the SuperLink and goes
on when it is back. Which sites are registered follows the folder ``sites`` of the kit.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from federation.errors import UserError
from federation.supervision import Program, only_one, scripts, supervise, variables
from server.certificates import server_names
from server.control import KIT, REGISTERED, Control, Kit, registered

LOOK_SECONDS = 2.0


def run_server(
    kit: Kit, stop: threading.Event, tell: Callable[[str], None], host: str = "0.0.0.0"
) -> None:
    """Run the coordinator's service until ``stop`` is set.

    Args:
        kit: the server's.
        stop: set to end.
        tell: one line on what happens.
        host: the address to listen on.

    Raises:
        UserError: if the kit cannot be used, or the server runs already.
    """
    _, until = server_names(kit.folder / "server.crt")
    if until <= datetime.now(UTC):
        raise UserError(
            kit.folder / "server.crt",
            f"the certificate ended on {until:%Y-%m-%d}, so no site would connect",
            remedy="`wardround provision CONSORTIUM --out DIR --renew server` makes a new one.",
        )
    tell(f"{kit.settings.consortium}: the server's certificate ends on {until:%Y-%m-%d}")
    with only_one(kit.state, "the server") as held:
        _check_port(kit, host)
        home = kit.state / "flwr"
        home.mkdir(parents=True, exist_ok=True)
        programs = [_superlink(kit, host, home), _executor(kit, home)]
        supervise(programs, stop, tell, _Registrar(kit, tell).look, held)


def _check_port(kit: Kit, host: str) -> None:
    """Raise if nobody can listen there: Flower would be started again and again."""
    port = kit.settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise UserError(
            kit.folder / "server.toml",
            f"the server cannot listen at {host}: {error.strerror}",
            field=f"port {port}",
            remedy="Stop what uses the port, or choose another in the consortium file; "
            "--host chooses the address.",
        ) from None


def is_healthy(kit: Kit) -> bool:
    """Return whether the SuperLink answers on this machine, under its certificate."""
    context = ssl.create_default_context(cafile=str(kit.folder / "ca.crt"))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(f"https://{kit.local_address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, ssl.SSLCertVerificationError):
            raise UserError(
                kit.folder / "server.crt", f"is not accepted: {problem.reason.verify_message}"
            ) from None
        return False
    except OSError:
        return False


def _superlink(kit: Kit, host: str, home: Path) -> Program:
    command = [sys.executable, "-P", "-m", "server.superlink"]
    command += ["--host", host, "--port", str(kit.settings.port)]
    command += ["--ssl-certfile", str(kit.folder / "server.crt")]
    command += ["--ssl-keyfile", str(kit.folder / "server.key")]
    command += ["--ssl-ca-certfile", str(kit.folder / "ca.crt")]
    command += ["--enable-supernode-auth", "--isolation", "process"]
    command += ["--database", str(kit.state / "superlink.db")]
    own = variables(home) | {KIT: str(kit.folder)}
    return Program("SuperLink", command, own, kit.state)


def _executor(kit: Kit, home: Path) -> Program:
    command = [str(scripts() / "flower-superexec"), "--runtime-api-address", kit.local_address]
    command += ["--root-certificates", str(kit.folder / "ca.crt")]
    return Program("executor", command, variables(home), kit.state)


class _Registrar:
    """Registers who has a key in the kit's folder of sites, and nobody else."""

    def __init__(self, kit: Kit, tell: Callable[[str], None]):
        self._kit, self._tell = kit, tell
        self._control = Control(kit)
        self._next = 0.0
        self._done: dict[str, str] | None = None

    def look(self) -> None:
        """Follow the folder, if it changed and the SuperLink is there."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOOK_SECONDS
        wanted = self._wanted()
        if wanted == self._done:
            return
        try:
            if not is_healthy(self._kit):
                return
            self._follow(wanted)
        except UserError as error:
            self._tell(f"registration: {error}")
            self._next = time.monotonic() + 10 * LOOK_SECONDS
        else:
            self._done = wanted

    def _follow(self, wanted: dict[str, str]) -> None:
        there = {str(node["node-id"]) for node in self._control.nodes()}
        known = {name: one for name, one in registered(self._kit).items() if one["node"] in there}
        for name, one in list(known.items()):
            if one["key"] != wanted.get(name):
                self._control.unregister(one["node"])
                del known[name]
                self._keep(known)
                self._tell(f"{name}: registered no more")
        for name, key in wanted.items():
            if name not in known:
                node = self._control.register(self._kit.folder / "sites" / f"{name}.pub", name)
                known[name] = {"key": key, "node": node}
                self._keep(known)
                self._tell(f"{name}: registered")

    def _wanted(self) -> dict[str, str]:
        files = sorted((self._kit.folder / "sites").glob("*.pub"))
        return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def _keep(self, known: dict[str, dict[str, str]]) -> None:
        file = self._kit.state / REGISTERED
        draft = file.with_name(f".{file.name}")
        draft.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        draft.replace(file)
