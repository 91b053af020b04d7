"""Keeping programs running: started again with a growing pause, ended together.

A coordinator and a site each run a few programs of Flower's. One that ends is started again; each
is the leader of a process group of its own, so that nothing it started is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.errors import UserError
from federation.flower import OFFLINE

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
SETTLED_SECONDS = 120.0
"""A program that ran for so long is not failing: the next pause is the shortest again."""
GRACE_SECONDS = 15.0
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Program:
    """What is run.

    Attributes:
        name: for messages.
        command: the program and its arguments.
        variables: its whole environment.
        folder: where it runs.
        log: where its output is appended; None for this process's own.
    """

    name: str
    command: Sequence[str]
    variables: Mapping[str, str]
    folder: Path
    log: Path | None = None


def supervise(
    programs: Sequence[Program],
    stop: threading.Event,
    tell: Callable[[str], None],
    every: Callable[[], None] = lambda: None,
    held: int | None = None,
    grace: float = GRACE_SECONDS,
) -> None:
    """Run programs until ``stop`` is set, starting each again when it ends; then end them all.

    Args:
        programs: in the order in which they are started.
        stop: set to end.
        tell: one line on what happens.
        every: called several times a second.
        held: a file descriptor that the programs inherit, as the lock of ``only_one``.
        grace: seconds that all together have between SIGTERM and SIGKILL.
    """
    kept = [_Kept(program, held) for program in programs]
    try:
        while not stop.is_set():
            for one in kept:
                one.look(tell)
            every()
            stop.wait(LOOK_SECONDS)
    finally:
        for one in kept:
            one.ask_to_end()
        deadline = time.monotonic() + grace
        for one in kept:
            one.end(deadline)


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Iterator[int]:
    """Hold a folder for this process and what inherits the descriptor, as long as one lives.

    Raises:
        UserError: if another process holds it.
    """
    file = folder / "running.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(file, f"cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(
            file,
            f"{what} runs already, or a program of an earlier run has not ended",
            remedy="Stop that one first.",
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    kept = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def variables(home: Path, first: Path | None = None) -> dict[str, str]:
    """Return the environment of Flower's programs: offline, and with our own scripts on PATH.

    Args:
        home: where Flower keeps its files.
        first: a folder whose programs stand before all others.
    """
    direct = ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY")]))
    path = [*([str(first)] if first else []), str(scripts()), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ,
        **OFFLINE,
        "PATH": os.pathsep.join(path),
        "FLWR_HOME": str(home.absolute()),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # Flower's own is a second, for each message
        "NO_PROXY": direct,
        "no_proxy": direct,
        "PYTHONUNBUFFERED": "1",
    }


def scripts() -> Path:
    """Return the folder of this environment's programs; the interpreter itself may be a link."""
    return Path(sys.executable).parent


class _Kept:
    """A program that is kept running."""

    def __init__(self, program: Program, held: int | None):
        self._program, self._held = program, held
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._again = 0.0
        self._pause = SHORTEST_PAUSE

    def look(self, tell: Callable[[str], None]) -> None:
        """Start it if it is time; note that it ended."""
        now, name = time.monotonic(), self._program.name
        if self._process is None:
            if now >= self._again:
                self._start()
                tell(f"{name}: started")
            return
        code = self._process.poll()
        if code is None:
            return
        _signal(self._process.pid, signal.SIGKILL)  # what it left behind
        if now - self._began > SETTLED_SECONDS:
            self._pause = SHORTEST_PAUSE
        tell(f"{name}: ended with {code}; again in {self._pause:g} s")
        self._process, self._again = None, now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def ask_to_end(self) -> None:
        """Send SIGTERM to the whole group."""
        if self._process is not None:
            _signal(self._process.pid, signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Wait for the group to end, and kill what has not by then."""
        if self._process is None:
            return
        while time.monotonic() < deadline:
            self._process.poll()  # a leader that is not reaped keeps its group alive
            if not _signal(self._process.pid, 0):
                return
            time.sleep(0.05)
        _signal(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _start(self) -> None:
        self._began = time.monotonic()
        log = self._program.log
        with contextlib.nullcontext() if log is None else log.open("ab") as sink:
            self._process = subprocess.Popen(
                list(self._program.command),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=None if sink is None else subprocess.STDOUT,
                env=dict(self._program.variables),
                cwd=self._program.folder,
                start_new_session=True,
                pass_fds=() if self._held is None else (self._held,),
            )


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
