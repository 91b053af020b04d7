"""Runs contenders and commands as processes, and measures what they take."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from simulation_work import Job

HERE = Path(__file__).parent
CONTENDER = str(HERE / "simulation_contender.py")
CONSTRAINTS = HERE.parent / "constraints.txt"
PFL = "pfl[pytorch]==0.6.0"
SHARED = ("torch", "numpy")
"""Packages that a peer's environment has in our versions, so that both run the same kernels."""
SECONDS = 1800
SAMPLE_SECONDS = 0.5


class Unmeasured(Exception):
    """A contender could not be run; the text is why."""


@dataclass(frozen=True)
class Timing:
    """What one process took.

    Attributes:
        first: seconds from its start to the end of its first round.
        rounds: seconds of each round after it.
        weights: sum and norm of its last model.
        peak_mb: the most memory that it held itself, without its children.
    """

    first: float
    rounds: tuple[float, ...]
    weights: tuple[float, float]
    peak_mb: float

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.rounds)


def run_contender(name: str, job: Job, command: Sequence[str] = (sys.executable,)) -> Timing:
    """Run one contender to its end.

    Args:
        name: the end of its module's name.
        job: what it does.
        command: the interpreter, with a launcher where it needs one.

    Raises:
        Unmeasured: if it ends without a result.
    """
    given = asdict(job)
    del given["watch"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, CONTENDER, name, json.dumps(given)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment(ours=command[0] == sys.executable),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unmeasured(f"no end after {SECONDS} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"first"')]
    if done.returncode or not lines:
        raise Unmeasured(_last_line(done.stderr) or f"exit code {done.returncode}")
    told = json.loads(lines[-1])
    first, rounds, (total, norm) = told["first"] - began, told["rounds"], told["weights"]
    return Timing(first, tuple(rounds), (total, norm), told["peak_mb"])


def pfl_python(cache: Path) -> Path:
    """Return the interpreter of pfl-research's environment, made on first use.

    Raises:
        Unmeasured: if it cannot be installed.
    """
    folder = cache / "pfl"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    venv.create(folder, clear=True, with_pip=True)
    pins = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith(SHARED)]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), PFL],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unmeasured(f"{PFL} cannot be installed: {_last_line(done.stderr)}")
    ready.touch()
    return python


@dataclass(frozen=True)
class Finished:
    """What a command took.

    Attributes:
        first: seconds from its start to the first line that holds the awaited text.
        seconds: to its end.
        peak_mb: the most that it and its children held together; shared pages count once.
    """

    first: float
    seconds: float
    peak_mb: float


def run_command(arguments: Sequence[str], awaited: str) -> Finished:
    """Run a command to its end, watching its error output and its memory.

    Raises:
        Unmeasured: if it fails or never says the awaited text.
    """
    began = time.monotonic()
    first: float | None = None
    last = ""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.PIPE, text=True, env=environment(ours=True)
        )
        memory = _Memory(process.pid)
        memory.start()
        assert process.stderr is not None
        for line in process.stderr:
            if first is None and awaited in line:
                first = time.monotonic() - began
            last = line.strip() or last
        process.wait()
        memory.end()
    if process.returncode or first is None:
        raise Unmeasured(last or f"exit code {process.returncode}")
    return Finished(first, time.monotonic() - began, memory.peak_mb)


def environment(ours: bool) -> dict[str, str]:
    """Return the environment of a process: one thread, nothing sent home, our packages or not."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONWARNINGS": "ignore",
    }
    inherited = {k: v for k, v in os.environ.items() if ours or k != "PYTHONPATH"}
    return inherited | settings


class _Memory(threading.Thread):
    """Samples the memory of a process and all below it."""

    def __init__(self, root: int):
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self._root = root
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until told to end."""
        while not self._over.wait(SAMPLE_SECONDS):
            self.peak_mb = max(self.peak_mb, tree_mb(self._root))

    def end(self) -> None:
        """Stop."""
        self._over.set()
        self.join()


def tree_mb(root: int) -> float:
    """Return the proportional set size of a process and all its descendants, in MB."""
    return sum(_proportional_kb(process) for process in _tree(root)) / 1024


def _tree(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            after_name = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(int(after_name[1]), []).append(int(entry))
    found = [root]
    while found:
        process = found.pop()
        yield process
        found += children.get(process, [])


def _proportional_kb(process: int) -> int:
    try:
        lines = Path("/proc", str(process), "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
