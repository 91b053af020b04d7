"""How soon a simulation trains, and what thousands of sites cost."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from reporting import Row
from simulation_columns import WORKERS
from simulation_processes import Finished, Timing, Unmeasured, run_command, run_contender
from simulation_sites import column_study, site_folder, write_sites
from simulation_work import Column, Job

START_GOALS = {"ray": 15.0, "in_process": 6.0}
"""Seconds from the command to the end of the first round."""
GROWTH, GROWTH_TOLERANCE = 1.0, 0.2
"""Of time and of the driver's memory, from 20 of 1,000 sites to 20 of 10,000."""
MANY_MB = 4096.0
"""Over all processes, while 10,000 sites train once."""
FEW, MANY, SAMPLED = 1000, 10_000, 20
FIRST_ROUND = "round 1/1, loss"
"""In the line at the end of the only round; lines within a round give no loss."""


def measure_start(quick: bool) -> list[Row]:
    """Time ``wardround simulate`` from its start to the end of its first round, 100 sites."""
    rows = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_sites(folder, "mlp", 100)
        for name, workers in (("in_process", 0), ("ray", WORKERS)):
            row = f"simulation/start/{name}/first_round_seconds"
            goal, turns = START_GOALS[name], 1 if quick else 3
            try:
                found = [
                    simulate(folder, Column("mlp", 100, 100), folder / f"{name}-{turn}", workers)
                    for turn in range(turns)
                ]
            except Unmeasured as error:
                rows.append(Row(row, None, goal, 0.0, False, str(error)))
                continue
            first = statistics.median(one.first for one in found)
            note = f"wardround simulate --workers {workers}, 100 sites, reading included"
            rows.append(Row(row, first, goal, 0.0, None if quick else first <= goal, note))
    return rows


def measure_scale(quick: bool) -> list[Row]:
    """Compare 20 of many sites with 20 of ten times as many, and let all of these train once.

    Quickly, with a tenth of the sites.
    """
    few, many = (FEW // 10, MANY // 10) if quick else (FEW, MANY)
    return [*growth_rows(few, many, quick), *_everybody_rows(many, quick)]


def growth_rows(few: int, many: int, quick: bool) -> list[Row]:
    """Compare the seconds of a round, and the driver's memory, between numbers of sites."""
    turns, rounds = (1, 5) if quick else (3, 10)
    timings: dict[int, list[Timing]] = {few: [], many: []}
    with tempfile.TemporaryDirectory() as text:
        for sites in timings:
            write_sites(Path(text, str(sites)), "mlp", sites)
        try:
            for _ in range(turns):
                for sites, found in timings.items():
                    column = Column("mlp", sites, SAMPLED)
                    folder = str(site_folder(Path(text, str(sites))))
                    found.append(run_contender("ours", Job(column, rounds, WORKERS, folder)))
        except Unmeasured as error:
            return [
                Row(
                    f"simulation/scale/growth/{what}",
                    None,
                    GROWTH,
                    GROWTH_TOLERANCE,
                    False,
                    str(error),
                )
                for what in ("seconds", "driver_memory")
            ]
    figures: Mapping[str, tuple[str, Callable[[Timing], float]]] = {
        "seconds": ("s a round", lambda timing: timing.median),
        "driver_memory": ("MB", lambda timing: timing.peak_mb),
    }
    rows = []
    for what, (unit, figure) in figures.items():
        small, large = (statistics.median(figure(t) for t in timings[n]) for n in (few, many))
        holds = None if quick else large / small <= GROWTH + GROWTH_TOLERANCE
        note = (
            f"{SAMPLED} of {few} sites {small:.4g} {unit}, {SAMPLED} of {many} {large:.4g} {unit}; "
            f"{WORKERS} Ray workers"
        )
        name = f"simulation/scale/growth/{what}"
        rows.append(Row(name, large / small, GROWTH, GROWTH_TOLERANCE, holds, note))
    return rows


def _everybody_rows(sites: int, quick: bool) -> list[Row]:
    name = f"simulation/scale/{sites}_sites"
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_sites(folder, "mlp", sites)
        try:
            found = simulate(folder, Column("mlp", sites, sites), folder / "run", None)
        except Unmeasured as error:
            return [Row(f"{name}/peak_mb", None, MANY_MB, 0.0, False, str(error))]
    holds = None if quick else found.peak_mb <= MANY_MB
    note = "all train once in one `wardround simulate`; over all processes, shared pages once"
    return [
        Row(f"{name}/peak_mb", found.peak_mb, MANY_MB, 0.0, holds, note),
        Row(f"{name}/first_round_seconds", found.first, note="from the start of the command"),
        Row(f"{name}/seconds", found.seconds, note="the whole command, its report included"),
    ]


def simulate(folder: Path, column: Column, out: Path, workers: int | None) -> Finished:
    """Run ``wardround simulate`` for one round; None lets it choose the workers."""
    study = folder / "study.toml"
    study.write_text(column_study(column, 1).to_toml())
    chosen = [] if workers is None else ["--workers", str(workers)]
    sites = str(site_folder(folder))
    command = ["-m", "wardround", "simulate", str(study), "--sites", sites, "--out", str(out)]
    return run_command([sys.executable, *command, *chosen], FIRST_ROUND)
