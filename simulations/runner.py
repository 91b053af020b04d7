"""Running a study on simulated sites, from the command line or from Python."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clients.site import find_sites, load_site
from clients.workbench import stackable
from federation.errors import UserError
from federation.messages import model_digest
from federation.models.build import build_model
from federation.models.stacked import MOST_AT_ONCE, MOST_PARAMETERS, can_stack
from federation.models.weights import check_weights
from federation.study import Study
from federation.validation import listed
from federation.vocabulary import agreed_vocabulary
from server.coordinator import Outcome, Progress, run_study
from server.exchange import Exchange
from server.finished_run import predecessor
from server.report.page import write_report
from server.run_folder import RunFolder
from server.witness import WITNESS, Witness
from simulations.faults import Faults, record
from simulations.grids import LocalGrid, SimulatedGrid
from simulations.host import Inspection
from simulations.quorum import check_quorum
from simulations.ray_grid import RayGrid
from simulations.shifts.record import copy_record

MANY_SITES = 32
TELL_SECONDS = 10.0
LEDGERS, MEMORIES = "ledgers", "personal"


def simulate(
    study: Study,
    sites: Path,
    out: Path,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    site_ledgers: bool = False,
    together: bool = True,
    grid: SimulatedGrid | None = None,
    compare_with: Path | None = None,
    weights: Path | None = None,
) -> Outcome:
    """Run a study on the sites of a folder and write the run folder with its report.

    Args:
        study: the resolved study.
        sites: a folder with one folder per site.
        out: the run folder.
        workers: Ray actors; 0 runs in this process without Ray; None chooses by a rule.
        ray_address: of a running Ray cluster.
        resume: continue the run in ``out`` after its last checkpoint.
        progress: told of rounds as they end.
        site_ledgers: spend from the sites' own privacy ledgers, which last beyond the run, instead
            of ledgers in the run folder.
        together: whether small models of several sites may be trained in one pass.
        grid: over these sites, of an earlier run; it keeps what it has read, and stays open.
        compare_with: an earlier run, whose model the sites score beside the new one.
        weights: folder of the files of weights that the study names.

    Raises:
        UserError: if a site or the study cannot be used; nothing has been trained then.
        NoUsableModel, Refused: as ``run_study``.
    """
    progress = progress or Progress()
    _check_comparators(study, site_ledgers)
    check_weights(study, weights)
    earlier = None if compare_with is None else predecessor(study, compare_with)
    study = study if earlier is None else study.succeeding(model_digest(earlier))
    files = _named_files(sites, study)
    count, why = choose_workers(study, len(files), workers, ray_address)
    folder = RunFolder(out, study, resume)
    _check_same_sites(folder, files)
    progress.tell(f"{len(files)} sites, {why}")
    others = [path for path in sorted(sites.iterdir()) if path.is_dir()]
    skipped = [
        f"The folder {path.name} was skipped: it holds no site.toml."
        for path in others
        if not (path / "site.toml").exists()
    ]
    try:
        given, grid = grid, grid or _grid(files, count, ray_address, together)
    except UserError:
        folder.leave_nothing()
        raise
    try:
        grid.use_ledgers(None if site_ledgers else folder.path / LEDGERS)
        grid.use_memories(folder.path / MEMORIES)
        if study.privacy.mechanism == "dp_sgd" and not site_ledgers:
            grid.check_shared(folder.path / LEDGERS, "privacy ledgers")
        if study.strategy.keeps:
            grid.check_shared(folder.path / MEMORIES, "sites' own models")
        inspections = _inspect(grid, study, progress)
        _check_same_patients(folder, inspections)
        faults = _faults(study, inspections)
        grid.use_faults(faults)
        if faults is not None:
            skipped += check_quorum(faults, study, files)
        training = _training(study, together)
        progress.tell(training)
        exchange = Exchange(
            grid,
            simulated=True,
            pooled_node=grid.pooled_node,
            members=grid.members,
            struck=None if faults is None else partial(_struck, faults),
            delay=partial(_delay, faults),
        )
        environment = {
            "grid": type(grid).__name__,
            "workers": grid.workers,
            "workers chosen": why,
            "training": training,
            "devices": sorted({inspection.device for inspection in inspections}),
        }
        witness = Witness(sites / WITNESS) if site_ledgers else None
        outcome = run_study(
            exchange, folder, environment, progress, skipped, witness, earlier, weights
        )
    except UserError:
        folder.leave_nothing(LEDGERS, MEMORIES)
        raise
    finally:
        if given is None:
            grid.close()
    copy_record(sites, folder.path)
    progress.tell("report")
    write_report(out)
    return outcome


def choose_workers(
    study: Study, sites: int, wanted: int | None, ray_address: str | None
) -> tuple[int | None, str]:
    """Return the number of Ray actors, 0 for no Ray, None for the cluster's; and why, in words.

    The choice depends on the study, the number of sites and the cores, never on a timing.

    Raises:
        UserError: if more workers are wanted than there are cores.
    """
    cores = len(os.sched_getaffinity(0))
    if wanted is not None:
        if wanted < 0 or (wanted > cores and ray_address is None):
            raise UserError("--workers", f"{wanted} is not between 0 and the {cores} cores here")
        return wanted, "in this process, as asked" if wanted == 0 else f"{wanted} Ray workers"
    if ray_address is not None:
        return None, "one Ray worker a site on the cluster, as far as it has cores"
    if study.modalities.image is None and sites < MANY_SITES:
        return 0, "in this process: a small study, for which starting Ray does not pay"
    return min(cores, sites), f"{min(cores, sites)} Ray workers"


def _training(study: Study, together: bool) -> str:
    """Say how sites are trained; it follows from the study."""
    if not together:
        return "sites are trained one after another, as asked"
    if not stackable(study):
        return (
            "sites are trained one after another: one pass is for one yes-or-no outcome, and its "
            "cross-entropy"
        )
    section = study.modalities.ehr
    vocabulary = None
    if section is not None:
        if section.vocabulary == "prepared":
            return (
                f"up to {MOST_AT_ONCE} sites are trained in one pass, if the prepared model has at "
                f"most {MOST_PARAMETERS:,} parameters"
            )
        vocabulary = agreed_vocabulary(section)
    model = build_model(study, vocabulary)
    size = f"{len(model.vector):,} parameters"
    if can_stack(model, study.training.batch_size):
        return f"up to {MOST_AT_ONCE} sites are trained in one pass: {size}"
    return (
        f"sites are trained one after another: {size}, or layers for which one pass gains nothing"
    )


def _faults(study: Study, inspections: Sequence[Inspection]) -> Faults | None:
    simulation = study.simulation
    if simulation is None or simulation.faults is None:
        return None
    sizes = {inspection.site: inspection.training for inspection in inspections}
    return Faults(simulation.faults, sizes, study.study.seed)


def _delay(faults: Faults | None, site: str, round_: int, model: str) -> float:
    return 0.0 if faults is None else faults.fate(site, round_, model).delay_seconds


def _struck(faults: Faults, sites: Sequence[str], round_: int, model: str) -> dict[str, Any]:
    return record({site: faults.fate(site, round_, model) for site in sites})


def _check_same_patients(folder: RunFolder, inspections: Sequence[Inspection]) -> None:
    """Refuse to resume a run on other patients under the same hospitals' names."""
    now = {inspection.site: inspection.digest for inspection in inspections}
    then = folder.cohorts()
    if then:
        other = sorted(site for site in then.keys() & now.keys() if then[site] != now[site])
        if other:
            raise UserError(
                folder.path,
                f"the run was started on other patients or values (they differ at {listed(other)})",
                remedy="A run is resumed on the sites it was started with, unchanged.",
            )
    folder.keep_cohorts(now)


def _check_comparators(study: Study, site_ledgers: bool) -> None:
    """The pooled comparator is a fit on every site's patients that no ledger would hold."""
    if site_ledgers and "pooled" in study.evaluation.baselines:
        raise UserError(
            "--site-ledgers",
            'the comparator "pooled" trains on all sites\' patients at once, beside their ledgers',
            remedy="Leave it out: --set 'evaluation.baselines=[\"local\"]'.",
        )


def _named_files(folder: Path, study: Study) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in find_sites(folder):
        name = load_site(file).name
        if name in files:
            raise UserError(file, f'"{name}" is also the name of {files[name]}', field="site.name")
        files[name] = file
    screening = study.strategy.screening
    if screening is not None and screening.judge is not None and screening.judge not in files:
        raise UserError(
            folder,
            f'no site is named "{screening.judge}"',
            field="strategy.screening.judge",
            remedy=f"The sites are: {listed(sorted(files))}.",
        )
    needed = study.strategy.minimum_sites
    asked = study.strategy.participation.sites
    if asked is not None and asked > len(files):
        raise UserError(
            folder,
            f"{len(files)} sites were found, the study asks {asked} in each round",
            field="strategy.participation.sites",
        )
    if len(files) < needed:
        raise UserError(
            folder,
            f"{len(files)} sites were found, the study needs {needed}",
            field="strategy.minimum_sites",
        )
    return files


def _check_same_sites(folder: RunFolder, files: Mapping[str, Path]) -> None:
    """Refuse to resume a run on other hospitals than it was started with."""
    if not folder.resumed:
        return
    known = folder.sites()
    if known and known != set(files):
        other = ", ".join(sorted(known ^ set(files)))
        raise UserError(
            folder.path,
            f"the run was started on other sites (the difference: {other})",
            remedy="A run is resumed on the sites it was started with.",
        )


def _grid(
    files: Mapping[str, Path], workers: int | None, ray_address: str | None, together: bool
) -> SimulatedGrid:
    if workers == 0:
        return LocalGrid(files, together)
    return RayGrid(files, workers, ray_address, together)


def _inspect(grid: SimulatedGrid, study: Study, progress: Progress) -> list[Inspection]:
    """Read all cohorts before anything is trained, so that a mistake costs seconds."""
    progress.tell("reading cohorts")
    inspections = grid.inspect(study, _Reading(progress, len(grid.names)).done)
    errors = [inspection.error for inspection in inspections if inspection.error is not None]
    if errors:
        if len(errors) > 1:
            progress.tell(f"{len(errors)} of {len(inspections)} sites cannot be used; the first:")
        raise errors[0]
    if len(inspections) <= MANY_SITES:
        for inspection in inspections:
            patients = f"{inspection.site}: {inspection.patients} patients"
            progress.tell(patients + _counted(inspection.counted))
        return inspections
    total = sum(inspection.patients for inspection in inspections)
    counted = sum((Counter(inspection.counted) for inspection in inspections), Counter())
    progress.tell(f"{len(inspections)} sites: {total:,} patients{_counted(counted)}")
    return inspections


class _Reading:
    """Tells at times how many cohorts have been read."""

    def __init__(self, progress: Progress, sites: int):
        self._progress, self._sites = progress, sites
        self._told = time.monotonic()

    def done(self, read: int) -> None:
        """Tell, unless it was told a moment ago."""
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._progress.tell(f"read {read} of {self._sites} sites")


def _counted(counted: Mapping[str, int]) -> str:
    told = "; ".join(f"{reason}: {n}" for reason, n in counted.items())
    return f" ({told})" if told else ""
