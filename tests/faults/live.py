"""A small consortium in real processes over TLS, whose parties can be hurt and healed.

Kits, commands and files are those of docs/deploy.md. Every process started here is ended here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from federation.errors import UserError
from federation.study import load_study
from server.control import load_kit
from server.submissions import site_states

ROOT = Path(__file__).parents[2]
SITES = ["bayview", "st-elsewhere"]
WARDROUND = [sys.executable, "-P", "-m", "wardround"]
PATIENCE = 300.0
"""Seconds that anything may take on a loaded machine."""


class TookTooLong(AssertionError):
    """What was waited for; holds the last lines of the logs."""


@dataclass
class Party:
    """The coordinator or a site: its command, and the process while it runs."""

    name: str
    command: list[str]
    log: Path
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, **variables: str) -> None:
        """Start it as the leader of a process group."""
        assert self.process is None or self.process.poll() is not None
        own = {**os.environ, "OMP_NUM_THREADS": "1", **self.variables, **variables}
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=own,
                start_new_session=True,
            )

    def stop(self) -> None:
        """SIGTERM, as a service manager sends it; SIGKILL to what does not end."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """What a power failure does: SIGKILL to it and all that it started, at once."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def signal(self, number: int) -> None:
        """Send a signal to the party and all that it started."""
        assert self.process is not None
        for process in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def program(self, text: str) -> int:
        """Return the process of this party whose command holds a text."""
        assert self.process is not None
        (found, *_) = [p for p in descendants(self.process.pid) if text in command_of(p)]
        return found

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")


class LiveConsortium:
    """Two sites and a coordinator.

    Attributes:
        folder: of everything.
        kits: what `wardround provision` wrote.
        sites: the site folders.
        parties: by name; the coordinator is ``server``.
    """

    def __init__(self, folder: Path):
        self.folder, self.kits, self.sites = folder, folder / "kits", folder / "sites"
        self.file = folder / "consortium.toml"
        self.parties: dict[str, Party] = {}
        self.port = free_port()

    @property
    def kit(self) -> Path:
        """The server's start kit."""
        return self.kits / "server"

    def found(self) -> None:
        """Write sites and kits."""
        wardround("synthesize", self.sites, "--sites", 2, "--patients", 60, "--seed", 3)
        self.write_file(SITES)
        self.provision()
        for name in SITES:
            self.allow(name)
        command = [*WARDROUND, "server", "run", str(self.kit), "--host", "0.0.0.0"]
        self.parties["server"] = Party("server", command, self.folder / "server.log")
        for name in SITES:
            self.add(name)

    def write_file(self, names: list[str], host: str = "127.0.0.1") -> None:
        """Write the consortium file."""
        document = {
            "consortium": {"name": "faults"},
            "server": {"host": host, "port": self.port, "names": ["10.99.7.1"]},
            "sites": [{"name": name} for name in names],
        }
        self.file.write_text(tomli_w.dumps(document))

    def provision(self, *arguments: str) -> None:
        """Run `wardround provision`."""
        wardround("provision", self.file, "--out", self.kits, *arguments)

    def allow(self, name: str) -> None:
        """Let a site run any study, as `wardround site approve` would for each."""
        file = self.sites / name / "site.toml"
        file.write_text(file.read_text().replace("[policy]\n", "[policy]\napprove = false\n"))

    def add(self, name: str, kit: Path | None = None, prefix: tuple[str, ...] = ()) -> Party:
        """Make a site's party, which is not started yet."""
        kit = kit or self.kits / "sites" / name
        command = [*prefix, *WARDROUND, "site", "run", str(self.sites / name), "--kit", str(kit)]
        self.parties[name] = Party(name, command, self.folder / f"{name}.log")
        return self.parties[name]

    def heal(self) -> None:
        """Start what does not run, and wait until every site is online."""
        self.end_runs()
        for party in self.parties.values():
            if party.process is None or party.process.poll() is not None:
                party.process = None
                party.start()
        self.wait(lambda: self.online() == SITES, "all sites to be online")

    def end_runs(self) -> None:
        """Stop a run that a failed test left behind."""
        running = self.parties["server"].process
        if running is None or running.poll() is not None or not (self.kit / "state").exists():
            return
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            if self.status()["run"] is not None and self.status()["ended"] is None:
                wardround("stop", "--server", self.kit)

    def stop(self) -> None:
        """End every process."""
        for party in self.parties.values():
            if party.process is not None:
                party.process.send_signal(signal.SIGCONT)
                party.process.terminate()
        for party in self.parties.values():
            party.stop()

    def study(self, name: str, **changes: Any) -> Path:
        """Write a tiny study of events alone."""
        settings = {
            "study.name": name,
            "modalities": '{ehr={width=8, reference_ranges={"LAB//CRP"=[0, 50]}}}',
            "fusion": "{kind='late'}",
            "evaluation.every": 0,
            "evaluation.baselines": "[]",
            "strategy.minimum_sites": 1,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
        study = load_study(
            ROOT / "examples/studies/synthetic.toml", [f"{k}={v}" for k, v in settings.items()]
        )
        file = self.folder / f"{name}.toml"
        file.write_text(study.to_toml())
        return file

    def submit(self, study: Path, *arguments: str) -> Path:
        """Submit a study and return its run folder."""
        return Path(wardround("submit", study, "--server", self.kit, *arguments).splitlines()[-1])

    def status(self) -> Any:
        """Return what `wardround status --json` tells."""
        return json.loads(wardround("status", "--server", self.kit, "--json"))

    def online(self) -> list[str]:
        """Return the sites that are online, as the coordinator sees it."""
        try:
            sites = list(site_states(load_kit(self.kit), None))
        except UserError:
            return []
        return [site.site for site in sites if site.connection == "online"]

    def wait_for_sites(self, names: list[str], seconds: float = PATIENCE) -> None:
        """Wait until exactly these sites are online."""
        self.wait(lambda: self.online() == names, f"{names} to be online", seconds)

    def wait_for_end(self, run: Path, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait until a run has ended, and return how."""
        self.wait((run / "ended.json").exists, f"{run.name} to end", seconds)
        return read(run / "ended.json")

    def wait_for_round(self, run: Path, number: int) -> dict[str, Any]:
        """Wait until a round is recorded, and return its record."""
        self.wait(lambda: len(rounds(run)) >= number, f"round {number} of {run.name}")
        return rounds(run)[number - 1]

    def wait_until_asked(self, name: str, study: str, number: int) -> None:
        """Wait until a site has been asked for a round of a study: its audit log says so."""

        def asked() -> bool:
            return any(
                (e["event"], e.get("study"), e.get("round")) == ("received", study, number)
                for e in self.audit(name)
            )

        self.wait(asked, f"{name} to be asked for round {number} of {study}", every=0.05)

    def audit(self, name: str) -> list[dict[str, Any]]:
        """Return the entries of a site's audit log."""
        file = self.sites / name / "state/audit.jsonl"
        if not file.exists():
            return []
        *lines, _ = file.read_text().split("\n")
        return [json.loads(line) for line in lines]

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        seconds: float = PATIENCE,
        every: float = 0.5,
    ) -> None:
        """Wait for something; on failure show the ends of all logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                tails = [f"--- {p.name}\n{p.said()[-2500:]}" for p in self.parties.values()]
                raise TookTooLong("\n".join([f"waited {seconds:g} s for {what}", *tails]))
            time.sleep(every)

    def simulated(self, study: Path) -> Path:
        """Run the same study in simulation; return its run folder."""
        out = self.folder / f"{study.stem}-simulated"
        wardround(
            "simulate", study, "--sites", self.sites, "--out", out, "--workers", 0,
            "--set", "evaluation.baselines=[]",
        )  # fmt: skip
        return out


@contextmanager
def standing_in(file: Path, change: Callable[[str], str]) -> Iterator[None]:
    """Change a text file, and put it back."""
    kept = file.read_bytes()
    file.write_text(change(kept.decode()))
    try:
        yield
    finally:
        file.write_bytes(kept)


def wardround(*arguments: object) -> str:
    """Run a command of ours that has to succeed."""
    result = subprocess.run(
        [*WARDROUND, *map(str, arguments)], capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def refused(*arguments: object) -> tuple[int, str]:
    """Run a command of ours that fails; return its exit code and what it said."""
    result = subprocess.run(
        [*WARDROUND, *map(str, arguments)], capture_output=True, text=True, timeout=100
    )
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout + result.stderr


def same_metrics(run: Path, simulation: Path) -> bool:
    """Whether two runs measured the same to 1e-6."""
    from simulations.rehearsal import differences

    return not list(differences(read(run / "metrics.json"), read(simulation / "metrics.json")))


def rounds(run: Path) -> list[dict[str, Any]]:
    """Return the rounds that a run has recorded."""
    file = run / "rounds.jsonl"
    if not file.exists():
        return []
    *lines, _ = file.read_text().split("\n")
    return [json.loads(line) for line in lines]


def read(file: Path) -> Any:
    """Read a JSON file."""
    return json.loads(file.read_text())


def settings_of(file: Path) -> Mapping[str, Any]:
    """Read a TOML file."""
    return tomllib.loads(file.read_text())


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def descendants(process: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [process]
    while waiting:
        some = children.get(waiting.pop(), [])
        found += some
        waiting += some
    return found


def command_of(process: int) -> str:
    """Return a process's command line; nothing if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""
