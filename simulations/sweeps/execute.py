"""Running the trials of a sweep on Ray Tune: each is one simulated run in a process of its own."""

from __future__ import annotations

import logging
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clients.site import find_sites, load_site
from federation.errors import UserError, WardroundError
from federation.study import Study
from simulations.grids import LocalGrid
from simulations.runner import simulate
from simulations.sweeps.folder import FAILED, is_resumable, write_json
from simulations.sweeps.plan import cohort_key

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else an interrupt ends as if the sweep were complete
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables ignore verbose=0
}

TRACEBACK, UNEXPECTED = "traceback.txt", 1


@dataclass(frozen=True)
class Job:
    """A trial on its way to a worker, in plain values."""

    name: str
    study: str
    sites: str
    folder: str


@dataclass(frozen=True)
class Ended:
    """How a trial ended; ``reason`` is empty if it succeeded."""

    name: str
    reason: str


def count_workers(wanted: int | None) -> int:
    """Return the number of trials at a time.

    Raises:
        UserError: if more are wanted than there are cores.
    """
    cores = len(os.sched_getaffinity(0))
    if wanted is None:
        return cores
    if not 0 <= wanted <= cores:
        raise UserError("--workers", f"{wanted} is not between 0 and the {cores} cores here")
    return wanted


def run_jobs(
    jobs: Sequence[Job], workers: int, storage: Path, ended: Callable[[Ended], None]
) -> None:
    """Run every job; one that fails leaves its reason in its folder and stops no other.

    Args:
        jobs: in the order in which they start.
        workers: jobs at a time, each on one core; 0 runs them in this process without Ray.
        storage: a folder for what Ray Tune notes; removed at the end.
        ended: told of each job as it ends.
    """
    if workers == 0:
        for job in jobs:
            ended(run_job(job))
    elif jobs:
        _run_on_tune(jobs, workers, storage, ended)


def run_job(job: Job) -> Ended:
    """Run one trial in this process, or continue it after its last checkpoint."""
    study, folder = Study.model_validate_json(job.study), Path(job.folder)
    (folder / FAILED).unlink(missing_ok=True)
    resume = is_resumable(folder, study)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        simulate(
            study,
            Path(job.sites),
            folder,
            workers=0,
            resume=resume,
            grid=_GRIDS.grid(job.sites, study),
        )
    except WardroundError as error:
        return _failed(job, str(error), error.exit_code)
    except Exception as error:  # a bug that one setting meets must not cost the other trials
        where = folder / TRACEBACK
        folder.mkdir(parents=True, exist_ok=True)
        where.write_text(traceback.format_exc(), encoding="utf-8")
        told = f"An error of Wardround: {type(error).__name__}: {error}. See {where.name}."
        return _failed(job, told, UNEXPECTED)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return Ended(job.name, "")


class _Grids:
    """One grid a process: trials that read the same tensors share them."""

    def __init__(self) -> None:
        self._key: object = None
        self._grid: LocalGrid | None = None

    def grid(self, sites: str, study: Study) -> LocalGrid | None:
        """Return the grid of an earlier trial if it read the same; None for a fresh one.

        A grid keeps the joined patients of each study with a pooled comparator: such are not kept.
        """
        if "pooled" in study.evaluation.baselines:
            return None
        key = (sites, cohort_key(study))
        if self._grid is None or key != self._key:
            self._grid = None  # frees what it holds before more is read
            self._grid = LocalGrid({load_site(f).name: f for f in find_sites(Path(sites))})
            self._key = key
        return self._grid


_GRIDS = _Grids()


def _run_on_tune(
    jobs: Sequence[Job], workers: int, storage: Path, ended: Callable[[Ended], None]
) -> None:
    os.environ.update(QUIET)
    import ray
    from ray import tune

    class Told(tune.Callback):
        """Passes on how each trial ended."""

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ended(Ended(trial.config["job"]["name"], trial.last_result.get("reason", "")))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            job = Job(**trial.config["job"])
            ended(_failed(job, "Its process died, for want of memory most likely.", UNEXPECTED))

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its errors are told by trial
    # "local", so that a sweep never joins somebody's cluster by accident.
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        tune.Tuner(
            tune.with_resources(_trial, {"cpu": 1}),
            param_space={"job": tune.grid_search([asdict(job) for job in jobs])},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=workers),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(storage), verbose=0, callbacks=[Told()]
            ),
        ).fit()
    finally:
        ray.shutdown()
        shutil.rmtree(storage, ignore_errors=True)


def _trial(config: Mapping[str, Any]) -> None:
    from ray import tune

    tune.report(asdict(run_job(Job(**config["job"]))))


def _failed(job: Job, reason: str, exit_code: int) -> Ended:
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILED, {"exit_code": exit_code, "reason": reason})
    return Ended(job.name, reason)
