"""Our rounds: site files, messages, screening, exact sums; in process, or on Ray workers."""

from __future__ import annotations

from pathlib import Path

from simulation_sites import column_study
from simulation_work import Job

from federation.models.build import Vector
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from server.course import RoundRecord
from server.exchange import Exchange
from server.rounds import run_rounds
from server.task import Task
from simulations.grids import LocalGrid, SimulatedGrid
from simulations.ray_grid import RayGrid


def run(job: Job) -> Vector:
    """Train with ``run_rounds`` on the sites of a folder; return the last model, flat.

    As `simulate` does: all cohorts are read first, and ledgers are the run's, not the sites' own.
    """
    files = {file.parent.name: file for file in sorted(Path(job.folder).glob("*/site.toml"))}
    study = column_study(job.column, job.rounds + 1)
    grid = RayGrid(files, job.workers) if job.workers else LocalGrid(files)
    try:
        grid.use_ledgers(Path(job.folder).with_name("ledgers"))
        errors = [inspection.error for inspection in grid.inspect(study) if inspection.error]
        assert not errors, errors[0]
        return _rounds(grid, study, job)
    finally:
        grid.close()


def _rounds(grid: SimulatedGrid, study: Study, job: Job) -> Vector:
    def round_done(record: RoundRecord, weights: Vector) -> None:
        missing = record["failed"] | record["rejected"]
        assert len(record["answered"]) == job.column.sampled, missing or record["answered"]
        job.watch.round_done()

    section = study.modalities.ehr
    vocabulary = None if section is None else agreed_vocabulary(section)
    exchange = Exchange(grid, simulated=True, pooled_node=grid.pooled_node, members=grid.members)
    return run_rounds(Task(exchange, study, vocabulary), on_round=round_done).weights
