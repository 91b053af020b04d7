"""A simulated round next to a plain loop, Flower's engine and pfl-research, in four columns.

Every contender is a process of its own. They take turns, so that a busy machine slows all of them
alike; the figures are medians of the turns' medians, without the first round.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reporting import Row
from simulation_processes import Timing, Unmeasured, pfl_python, run_contender
from simulation_sites import column_study, site_folder, write_sites
from simulation_work import Column, Job, Kind

from simulations.runner import choose_workers

COLUMNS: dict[Kind, tuple[Column, Column]] = {
    "mlp": (Column("mlp", 100, 100), Column("mlp", 1000, 20)),
    "cnn": (Column("cnn", 100, 100), Column("cnn", 1000, 20)),
}
ROUNDS: dict[Kind, int] = {"mlp": 10, "cnn": 4}
"""Timed in one turn."""
TURNS = 3

OF_PLAIN = {"mlp_100_of_100": 0.2, "cnn_100_of_100": 0.5}
"""Goals: at most this part of the plain loop's time."""
TIMES_FLOWER = {"mlp_100_of_100": 15.0, "cnn_100_of_100": 2.5}
"""Goals: at least this many times as fast as Flower's engine."""
OF_PFL = 1.0
"""Goal in every column: at most this part of pfl-research's time."""

OURS = ("in_process", "ray")
WORKERS = min(2, len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Contender:
    """A way to do a column's work.

    Attributes:
        module: the end of its module's name.
        label: what a reader calls it.
        workers: processes that train; 0 for its own.
        command: its interpreter, with a launcher where it needs one; why it has none if a text.
    """

    module: str
    label: str
    workers: int = 0
    command: tuple[str, ...] | str = (sys.executable,)


def measure(kind: Kind, quick: bool, cache: Path) -> list[Row]:
    """Measure both columns of a model; quickly the first one alone, once, without pfl-research."""
    if quick:
        return column_rows(COLUMNS[kind][0], contenders(None), 1, ROUNDS[kind], quick=True)
    every = contenders(cache)
    return [
        row
        for column in COLUMNS[kind]
        for row in column_rows(column, every, TURNS, ROUNDS[kind], quick=False)
    ]


def contenders(cache: Path | None) -> dict[str, Contender]:
    """Return the contenders by the name that their rows have; with pfl-research's given a cache."""
    known = {
        "plain": Contender("plain", "the plain loop"),
        "in_process": Contender("ours", "--workers 0"),
        "ray": Contender("ours", f"{WORKERS} Ray workers", WORKERS),
        "flower": Contender("flower", f"Flower's engine, {WORKERS} actors", WORKERS),
    }
    if cache is None:
        return known
    alone: tuple[str, ...] | str
    shared: tuple[str, ...] | str
    try:
        alone = (str(pfl_python(cache)),)
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}")
        shared = (*alone, *launcher)
    except Unmeasured as error:
        alone = shared = str(error)
    return known | {
        "pfl": Contender("pfl", "pfl-research, one process", command=alone),
        "pfl_shared": Contender("pfl", f"pfl-research, {WORKERS} processes", command=shared),
    }


def column_rows(
    column: Column, every: Mapping[str, Contender], turns: int, rounds: int, quick: bool
) -> list[Row]:
    """Let the contenders take turns at a column; return its rows."""
    timings: dict[str, list[Timing]] = {name: [] for name in every}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_sites(Path(folder), column.model, column.sites)
        for _ in range(turns):
            for name, contender in every.items():
                if name not in failures:
                    job = Job(column, rounds, contender.workers, str(site_folder(Path(folder))))
                    try:
                        timings[name].append(_run(contender, job))
                    except Unmeasured as error:
                        failures[name] = str(error)
    _check_same_work(column, {name: timings[name] for name in every if name not in failures})
    measured = {
        name: Measured(
            every[name].label,
            statistics.median(t.median for t in timings[name]),
            statistics.median(t.first for t in timings[name]),
        )
        for name in every
        if name not in failures
    }
    workers, _ = choose_workers(
        column_study(Column(column.model, 1, 1), 1), column.sites, None, None
    )
    return list(_rows(column.name, measured, failures, "ray" if workers else "in_process", quick))


@dataclass(frozen=True)
class Measured:
    """A contender's result.

    Attributes:
        label: what a reader calls it.
        round: median seconds of a round after the first.
        first: median seconds from its start to the end of its first round.
    """

    label: str
    round: float
    first: float


def _run(contender: Contender, job: Job) -> Timing:
    if isinstance(contender.command, str):
        raise Unmeasured(contender.command)
    return run_contender(contender.module, job, contender.command)


def _check_same_work(column: Column, timings: Mapping[str, Sequence[Timing]]) -> None:
    """Peers that trained something else are not to be compared with.

    Our sites shuffle their patients, so their model is another one, the same on both grids to the
    last bit. Flower draws its sites by itself.
    """
    weights = {name: found[0].weights for name, found in timings.items()}
    grids = {weights[name] for name in OURS if name in weights}
    assert len(grids) < 2, "the two grids differ"
    alike = {"pfl", "pfl_shared"} | ({"flower"} if column.sampled == column.sites else set())
    for name in alike & weights.keys():
        (total, norm), (plain_total, plain_norm) = weights[name], weights["plain"]
        away = max(abs(total - plain_total), abs(norm - plain_norm))
        assert away < 0.01 * plain_norm, f"{name} trained another model than the plain loop"


def _rows(
    column: str,
    measured: Mapping[str, Measured],
    failures: Mapping[str, str],
    chosen: str,
    quick: bool,
) -> Iterator[Row]:
    """One row for each contender against the plain loop, then ours against the peers.

    Goals are for the grid that ``simulate`` chooses for so many sites.
    """
    start, plain = f"simulation/{column}", measured["plain"]
    yield Row(f"{start}/plain/seconds", plain.round, note="one process, one thread")
    for name, one in measured.items():
        if name == "plain":
            continue
        goal = OF_PLAIN.get(column) if name == chosen else None
        note = f"{_told(one, plain)}; first round after {one.first:.1f} s"
        yield _at_most(f"{start}/{name}/ratio_to_plain", one.round / plain.round, goal, quick, note)
    for name, why in failures.items():
        holds = False if name in OURS else None
        yield Row(f"{start}/{name}/ratio_to_plain", None, None, None, holds, why)
    ours = measured.get(chosen)
    if ours is None:
        return
    if (flower := measured.get("flower")) is not None:
        goal, times = TIMES_FLOWER.get(column), flower.round / ours.round
        holds = None if quick or goal is None else times >= goal
        tolerance = None if goal is None else 0.0
        name = f"{start}/times_as_fast_as_flower"
        yield Row(name, times, goal, tolerance, holds, _told(ours, flower))
    for peer in ("pfl", "pfl_shared"):
        if (other := measured.get(peer)) is not None:
            ratio = ours.round / other.round
            yield _at_most(f"{start}/ratio_to_{peer}", ratio, OF_PFL, quick, _told(ours, other))


def _at_most(name: str, measured: float, goal: float | None, quick: bool, note: str) -> Row:
    if goal is None:
        return Row(name, measured, note=note)
    return Row(name, measured, goal, 0.0, None if quick else measured <= goal, note)


def _told(one: Measured, other: Measured) -> str:
    return f"{one.label} {one.round:.3f} s a round, {other.label} {other.round:.3f} s"
