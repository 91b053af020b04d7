"""A consortium on this machine: a Flower SuperLink and a SuperNode per site, over TLS.

Real processes, real certificates and keys, nothing shared but the loopback interface. Every
process group started here is ended here, and nothing is written outside the folder given.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from clients.node import write_programs
from federation.bundle import write_bundle
from federation.flower import OFFLINE
from server.certificates import make_authority, make_server_certificate, make_site_key

CONSORTIUM = "consortium"
STARTUP_SECONDS = 90.0
POLL_SECONDS = 0.1

# Without these flwr calls home, and runs `uv sync` for every app. The last one shortens the wait
# for an app process from 1 s; the two polls of 3 s (SuperNode, `send_and_receive`) are fixed.
ENVIRONMENT = {
    **OFFLINE,
    "PYTHONUNBUFFERED": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


class DeploymentError(AssertionError):
    """Something did not start, stopped, failed or took too long; holds the logs' last lines."""


@dataclass
class Deployment:
    """A running consortium.

    Attributes:
        coordinator: everything the server side wrote: database, logs, Flower's files.
        sites: folder of each SuperNode by site name: its key, log and Flower's files.
        services: the processes that must stay up, by name.
    """

    coordinator: Path
    sites: dict[str, Path]
    services: dict[str, Service]
    variables: Mapping[str, str]
    runs: list[Path] = field(default_factory=list)

    def run(
        self, study: Path, out: Path, timeout: float = 300.0, bundle: Path | None = None
    ) -> str:
        """Submit a study, under another bundle if one is given, and wait until it has ended.

        Returns:
            What `flwr run --stream` printed: the log of the ServerApp.

        Raises:
            DeploymentError: if the run failed or took longer than `timeout` seconds, or if a
                service stopped meanwhile.
        """
        bundle = bundle or write_bundle(self.coordinator / "bundle")
        settings = f'study="{study.resolve()}" out="{out.resolve()}"'
        log = self.coordinator / f"run-{len(self.runs) + 1}.log"
        self.runs.append(log)
        command = ["flwr", "run", str(bundle), CONSORTIUM, "--run-config", settings, "--stream"]
        with _service("flwr run", command, log, self.variables) as submission:
            self._wait(lambda: not submission.running, timeout, f"{study.name} to end", submission)
        if submission.process.returncode != 0 or self.status() != "finished:completed":
            raise self._failure("the run failed", submission)
        return _read(log)

    def status(self) -> str:
        """The last run's status and sub-status, such as `finished:completed`."""
        # `flwr run --stream` exits with 0 however the run ended.
        listing = _flwr(["list", CONSORTIUM, "--format", "json"], self.variables)
        runs = json.loads(listing)["runs"]
        return str(max(runs, key=lambda run: run["pending-at"])["status"])

    def _wait(
        self,
        condition: Callable[[], bool],
        timeout: float,
        what: str,
        submission: Service | None = None,
    ) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            stopped = [name for name, service in self.services.items() if not service.running]
            if stopped:
                raise self._failure(f"{', '.join(stopped)} stopped", submission)
            if time.monotonic() > deadline:
                raise self._failure(f"waited {timeout:g} s for {what}", submission)
            time.sleep(POLL_SECONDS)

    def _failure(self, problem: str, submission: Service | None = None) -> DeploymentError:
        services = [*self.services.values(), *([submission] if submission else [])]
        tails = [f"--- {service.log}\n{_tail(service.log)}" for service in services]
        return DeploymentError("\n".join([problem, *tails]))


@contextmanager
def deployment(
    folder: Path, sites: Sequence[Path], variables: Mapping[str, str] | None = None
) -> Iterator[Deployment]:
    """Start a consortium; end every process of it on leaving.

    Args:
        folder: an empty folder for keys, database and logs.
        sites: site folders, each with its `site.toml`.
        variables: environment variables for every process, over the ones set here.
    """
    coordinator = folder / "coordinator"
    coordinator.mkdir(parents=True)
    path = os.pathsep.join([str(_bin()), os.environ.get("PATH", os.defpath)])
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    shared = {**inherited, **ENVIRONMENT, "PATH": path, **(variables or {})}
    certificates = _write_certificates(coordinator / "certificates")
    named = {_site_name(site): site for site in sites}
    port, *node_ports = _free_ports(1 + len(named))
    address = f"127.0.0.1:{port}"

    with ExitStack() as stack:
        ours = {**shared, "FLWR_HOME": str(coordinator / "flwr")}
        running = Deployment(coordinator, {}, {}, ours)

        def start(name: str, command: list[str], log: Path, own: Mapping[str, str]) -> None:
            service = stack.enter_context(_service(name, command, log, own))
            running.services[name] = service

        _write_connection(coordinator / "flwr", address, certificates / "ca.crt")
        # The SuperLink's own SuperExec would run in a session of its own, out of our reach.
        command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--ssl-certfile", str(certificates / "server.crt")]
        command += ["--ssl-keyfile", str(certificates / "server.key")]
        command += ["--ssl-ca-certfile", str(certificates / "ca.crt")]
        command += ["--enable-supernode-auth", "--isolation", "process"]
        command += ["--database", str(coordinator / "state.db")]
        start("superlink", command, coordinator / "superlink.log", ours)
        running._wait(
            lambda: _healthy(address, certificates / "ca.crt"), STARTUP_SECONDS, "the SuperLink"
        )
        command = ["flower-superexec", "--runtime-api-address", address]
        command += ["--root-certificates", str(certificates / "ca.crt")]
        start("superexec", command, coordinator / "superexec.log", ours)

        keys = {}
        for name in named:
            running.sites[name] = folder / "sites" / name
            keys[name] = running.sites[name] / "node.key"
            make_site_key(keys[name], keys[name].with_suffix(".pub"), name)
        _register({name: key.with_suffix(".pub") for name, key in keys.items()}, ours)
        for (name, site), node_port in zip(named.items(), node_ports, strict=True):
            home = running.sites[name]
            command = ["flower-supernode", "--superlink", address]
            command += ["--root-certificates", str(certificates / "ca.crt")]
            command += ["--auth-supernode-private-key", str(keys[name])]
            command += ["--host", "127.0.0.1", "--port", str(node_port)]
            command += ["--node-config", f'site="{(site / "site.toml").resolve()}"']
            write_programs(home / "bin")  # as `wardround site run` does: the site's door
            first = os.pathsep.join([str(home / "bin"), path])
            own = {**shared, "FLWR_HOME": str(home / "flwr"), "PATH": first}
            start(name, command, home / "supernode.log", own)
        logs = [running.services[name].log for name in named]
        running._wait(
            lambda: all("SuperNode ID" in _read(log) for log in logs),
            STARTUP_SECONDS,
            "the SuperNodes",
        )
        try:
            yield running
        finally:
            # Together, as each takes seconds; the stack then waits for one after the other.
            for service in running.services.values():
                _signal(service.process.pid, signal.SIGTERM)


@dataclass(frozen=True)
class Service:
    """A process, started as the leader of its own group, and where it logs."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None


@contextmanager
def _service(
    name: str, command: list[str], log: Path, variables: Mapping[str, str]
) -> Iterator[Service]:
    """Run a command with its output in `log`; end its process group on leaving."""
    executable = str(_bin() / command[0])
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [executable, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(variables),
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield Service(process, log)
    finally:
        if not _end(process):
            raise DeploymentError(f"{name}: some process of group {process.pid} would not end")


def _end(process: subprocess.Popen[bytes], grace: float = 8.0) -> bool:
    """SIGTERM, then SIGKILL, to the group that this process leads; whether it is empty now."""
    for signal_number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        _signal(process.pid, signal_number)
        while time.monotonic() < deadline:
            process.poll()  # a leader that is not reaped keeps its group alive
            if not _signal(process.pid, 0):
                return True
            time.sleep(0.05)
    return False


def _signal(group: int, signal_number: int) -> bool:
    try:
        os.killpg(group, signal_number)
    except ProcessLookupError:
        return False
    return True


def _flwr(arguments: list[str], variables: Mapping[str, str]) -> str:
    result = subprocess.run(
        [str(_bin() / "flwr"), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=dict(variables),
        timeout=60,
    )
    if result.returncode != 0:
        raise DeploymentError(f"flwr {' '.join(arguments)}\n{result.stdout}{result.stderr}")
    return result.stdout


def _register(public_keys: Mapping[str, Path], variables: Mapping[str, str]) -> None:
    def register(name: str) -> None:
        key = str(public_keys[name])
        _flwr(["supernode", "register", key, CONSORTIUM, "--name", name], variables)

    with ThreadPoolExecutor() as pool:
        list(pool.map(register, public_keys))


def _write_certificates(folder: Path) -> Path:
    make_authority(folder / "ca.key", folder / "ca.crt", CONSORTIUM)
    hosts = ["localhost", "127.0.0.1", "::1"]
    make_server_certificate(folder, folder / "server.key", folder / "server.crt", hosts, days=1)
    return folder


def _bin() -> Path:
    """The environment's scripts; the interpreter itself may be a link to somewhere else."""
    return Path(sys.executable).parent


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(_read(log).splitlines()[-lines:])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _healthy(address: str, root: Path) -> bool:
    context = ssl.create_default_context(cafile=str(root))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(f"https://{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, ssl.SSLCertVerificationError):
            raise
        return False
    except OSError:
        return False


def _site_name(site: Path) -> str:
    return str(tomllib.loads((site / "site.toml").read_text(encoding="utf-8"))["site"]["name"])


def _write_connection(home: Path, address: str, root: Path) -> None:
    home.mkdir(parents=True)
    connection = {"address": address, "root-certificates": str(root.resolve())}
    config = {"superlink": {"default": CONSORTIUM, CONSORTIUM: connection}}
    (home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
