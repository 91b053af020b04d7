"""Running a sweep, from the command line or from Python."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from clients.site import find_sites, load_site
from federation.errors import NoUsableModel
from federation.study import Study
from simulations.sweeps.execute import Ended, Job, count_workers, run_jobs
from simulations.sweeps.export import write_results
from simulations.sweeps.folder import REPORT, is_finished, prepare_folder, trial_folder
from simulations.sweeps.page import write_page
from simulations.sweeps.plan import Plan, Trial, load_plan
from simulations.sweeps.results import Results, collect

RAY_STARTS, TRIAL_STARTS, ACCOUNTS = 15.0, 0.4, 4.0
SECONDS_A_STEP, TIMES_PRIVATE, SECONDS_AN_IMAGE = 1.3e-3, 4.0, 2e-3
"""From one machine, for a first guess alone; an image of 64 x 64."""


def run_sweep(
    file: Path,
    out: Path,
    *,
    quick: bool = False,
    sites: Path | None = None,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Results:
    """Run the trials of a sweep that are not finished yet, and write its tables and report.

    Args:
        file: the sweep file.
        out: the sweep's folder; new, or of the same sweep.
        quick: fewer seeds, as the file says.
        sites: a folder of sites instead of the file's.
        workers: trials at a time; 0 runs them in this process without Ray; None for one a core.
        tell: told of what begins and of each trial as it ends.

    Raises:
        UserError: if the sweep, its study, a setting or the sites cannot be used; nothing has
            been trained then.
        NoUsableModel: if no trial succeeded; the tables say why.
    """
    count = count_workers(workers)
    plan = load_plan(file, quick=quick, sites=sites)
    folders = prepare_folder(out, plan, tell)
    todo = [t for t in plan.trials if not is_finished(trial_folder(out, t), t.study)]
    tell(_announce(plan, todo, folders, count))
    jobs = [
        Job(
            trial.name,
            trial.study.canonical,
            str(folders[trial.population.name].resolve()),
            str(trial_folder(out, trial).resolve()),
        )
        for trial in todo
    ]
    run_jobs(jobs, count, out.resolve() / ".tune", _Follow(len(jobs), tell).ended)
    results = collect(plan, out)
    write_results(results, out)
    write_page(results, out / REPORT)
    if len(results.failed) == len(results.rows):
        raise NoUsableModel(
            f"None of the {len(results.rows)} trials succeeded. The first: "
            f"{results.rows[0].reason} All reasons are in {out / 'results.csv'}."
        )
    return results


def guess_seconds(study: Study, patients: int, sites: int) -> float:
    """Guess how long a trial takes on one core, from the work that its study asks for."""
    training = study.training
    if training.local_steps is not None:
        steps = sites * training.local_steps
    else:
        share = study.split.fractions.train * patients / training.batch_size
        steps = int((training.local_epochs or 1) * max(share, sites))
    private = study.privacy.mechanism != "none"
    seconds = SECONDS_A_STEP * (TIMES_PRIVATE if private else 1)
    if study.modalities.image is not None:
        pixels = math.prod(study.modalities.image.shape) / 64**2
        seconds += SECONDS_AN_IMAGE * training.batch_size * pixels
    models = 1 + len(study.evaluation.baselines)
    fixed = TRIAL_STARTS + (ACCOUNTS if private else 0)
    return fixed + training.rounds * steps * seconds * models


class _Follow:
    """Tells of each trial as it ends, and of the time left by those that ended after the first."""

    def __init__(self, trials: int, tell: Callable[[str], None]):
        self._trials, self._tell = trials, tell
        self._times: list[float] = []

    def ended(self, one: Ended) -> None:
        """Count one more."""
        self._times.append(time.monotonic())
        done = len(self._times)
        told = f"{done}/{self._trials} {one.name}"
        if one.reason:
            told += f" failed: {one.reason}"
        if 1 < done < self._trials:
            pace = (self._times[-1] - self._times[0]) / (done - 1)
            told += f"; {_duration(pace * (self._trials - done))} left"
        self._tell(told)


def _announce(plan: Plan, todo: Sequence[Trial], folders: Mapping[str, Path], workers: int) -> str:
    told = (
        f"{len(plan.trials)} trials: {len(plan.settings)} settings x {len(plan.seeds)} seeds"
        f"{'' if len(todo) == len(plan.trials) else f', {len(todo)} of them to run'}"
    )
    if not todo:
        return told
    sizes = {name: _count_patients(folder) for name, folder in folders.items()}
    seconds = sum(guess_seconds(one.study, *sizes[one.population.name]) for one in todo)
    seconds = seconds / max(workers, 1) + (RAY_STARTS if workers else 0)
    where = f"on {workers} Ray workers" if workers else "in this process"
    return f"{told}, {where}; {_duration(seconds)} by a first guess"


def _count_patients(sites: Path) -> tuple[int, int]:
    """Return the number of patients, and of sites."""
    files = find_sites(sites)
    found = (map(_count_labels, load_site(file).label_files.values()) for file in files)
    return sum(max(counts, default=0) for counts in found), len(files)


def _count_labels(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (OSError, ValueError):  # the trials say what is wrong with it
        return 0


def _duration(seconds: float) -> str:
    """Write a rough duration.

    >>> _duration(40), _duration(200), _duration(9000)
    ('about 40 seconds', 'about 3 minutes', 'about 2.5 hours')
    """
    if seconds < 90:
        return f"about {seconds:.0f} seconds"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
