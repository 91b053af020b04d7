"""Synthetic sites on which strategies are compared, and what is measured of a model there."""

from __future__ import annotations

import hashlib
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from federation.errors import WardroundError
from federation.models.build import Vector
from federation.study import Study
from federation.validation import read_toml
from federation.vocabulary import agreed_vocabulary
from server.comparators import train_comparators
from server.evaluator import SiteEvaluation, headline
from server.exchange import Exchange
from server.rounds import run_rounds
from server.scoring import evaluate
from server.task import Task
from simulations.consortium import synthesize
from simulations.faults import Faults
from simulations.grids import LocalGrid
from simulations.shifts.plan import load_shifts
from simulations.shifts.reshape import reshape

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/studies/synthetic.toml"
FRACTIONS = {"train": 0.4, "tuning": 0.1, "held_out": 0.5}
"""The worst site is the lowest of many figures, so each must be of many patients."""
IMAGE_SIZE = 32
PROCESSES = 2


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        sites: hospitals.
        patients: of a hospital on average.
        rounds: of training.
        epochs: passes in a round.
        seeds: one consortium each.
    """

    sites: int
    patients: int
    rounds: int
    epochs: int
    seeds: tuple[int, ...]

    def place(self, folder: Path, seed: int, shift: str) -> Path:
        """Return where the consortium of a seed is kept, as it is under a shift."""
        return folder / f"strategies-{self.sites}-{self.patients}-{seed}-{shift}"


@dataclass(frozen=True)
class Scored:
    """How a model does on held-out patients, each site's by the model that the site uses.

    Attributes:
        sites: AUROC by site that trained and has enough held-out patients of both classes.
        brier: mean of these sites' Brier scores.
        left_out: AUROC at the site that did not train; None if there is none, or it has no model.
        without: how many of the sites that trained have no AUROC.
    """

    sites: Mapping[str, float]
    brier: float
    left_out: float | None = None
    without: int = 0

    @property
    def mean(self) -> float:
        """Mean over the sites, each counted once."""
        return statistics.mean(self.sites.values())

    @property
    def worst(self) -> float:
        """At the site that is served worst."""
        return min(self.sites.values())


@dataclass
class Bench:
    """Sites of one folder, read once, for many models.

    Attributes:
        grid: over the sites.
        folder: for what sites keep and spend; each model has another place below.
    """

    grid: LocalGrid
    folder: Path
    _models: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def of(cls, sites: Path) -> Iterator[Bench]:
        """Open every site of a folder."""
        files = {file.parent.name: file for file in sorted(sites.glob("*/site.toml"))}
        with tempfile.TemporaryDirectory() as folder:
            bench = cls(LocalGrid(files), Path(folder))
            try:
                yield bench
            finally:
                bench.grid.close()

    def file(self, site: str) -> Path:
        """Return a site's file."""
        return Path(self.grid.files[self.grid.members[site]])

    def task(self, study: Study, left_out: str = "") -> Task:
        """Return the task of a study on all sites but one, with nothing kept from before."""
        place = self.folder / str(next(self._models))
        self.grid.use_ledgers(place / "ledgers")
        self.grid.use_memories(place / "memories")
        exchange = Exchange(self.grid, simulated=True, pooled_node=self.grid.pooled_node)
        only = {site: node for site, node in self.grid.members.items() if site != left_out}
        section = study.modalities.ehr
        vocabulary = None if section is None else agreed_vocabulary(section)
        return Task(exchange, study, vocabulary, only=only, measured=False)

    def trained(self, task: Task) -> Vector:
        """Train by rounds, with the study's faults.

        Raises:
            WardroundError: if a round had too few updates.
        """
        self.grid.use_faults(_faults(task))
        try:
            result = run_rounds(task)
        finally:
            self.grid.use_faults(None)
        if result.lost_quorum:
            raise WardroundError(result.lost_quorum)
        return result.weights

    def scored(self, task: Task, weights: Vector) -> Scored:
        """Let every site test the model on its held-out patients."""
        evaluations, failed = evaluate(replace(task, only=None), weights, "held_out")
        if failed:
            raise WardroundError(f"no evaluation: {failed}")
        assert task.only is not None
        inside = [one for one in evaluations if one.site in task.only]
        outside = [one for one in evaluations if one.site not in task.only]
        return scored(inside, outside)

    def alone(self, task: Task) -> Scored:
        """Train each site's model on its own patients, and test it at home."""
        data = task.study.plain().to_dict()
        data["evaluation"]["baselines"] = ["local"]
        found = train_comparators(replace(task, study=Study.model_validate(data)), lambda _: None)
        if found.failed:
            raise WardroundError(f"no model of a site alone: {found.failed}")
        return scored([one for s, tested in found.local.items() for one in tested if one.site == s])


def study_of(seed: int, modalities: Sequence[str], **sections: Any) -> Study:
    """Return the example study with some of its modalities, and sections of one's own."""
    data = read_toml(EXAMPLE)
    encoders = data["modalities"]
    if "image" in encoders:
        encoders["image"] |= {"size": IMAGE_SIZE}
    data["modalities"] = {name: encoders[name] for name in modalities}
    return Study.model_validate(
        {
            **data,
            "study": {"name": "strategies", "seed": seed},
            "split": {"by": "patient", "fractions": FRACTIONS},
            "evaluation": {"every": 0, "subgroups": []},
            **sections,
        }
    )


def draw_sites(folder: Path, sites: int, patients: int, seed: int) -> None:
    """Write synthetic hospitals, with keys of their own that divide patients alike each time."""
    synthesize(folder, sites=sites, patients=patients, seed=seed, image_size=IMAGE_SIZE)
    for file in folder.glob("*/site.toml"):
        state = file.parent / "state"
        state.mkdir(exist_ok=True)
        key = hashlib.sha256(f"{seed} {file.parent.name}".encode()).hexdigest()
        (state / "patient.key").write_text(key, encoding="utf-8")


def shift_sites(sites: Path, out: Path, kinds: Sequence[str], seed: int, strength: float) -> None:
    """Write the same hospitals with shifts between them."""
    plan = out.with_suffix(".toml")
    tables = "".join(f'[[shift]]\nkind = "{kind}"\n' for kind in kinds)
    plan.write_text(f"[shifts]\nseed = {seed}\nstrength = {strength}\n{tables}", encoding="utf-8")
    reshape(sites, load_shifts(plan), out)


def scored(inside: Sequence[SiteEvaluation], outside: Sequence[SiteEvaluation] = ()) -> Scored:
    """Return what the sites that trained, and those that did not, found."""
    found = {one.site: headline(one.cells[""]) for one in (*inside, *outside) if "" in one.cells}

    def values(name: str, evaluations: Sequence[SiteEvaluation]) -> dict[str, float]:
        of = {one.site: found[one.site][name] for one in evaluations if one.site in found}
        return {site: value for site, value in of.items() if value is not None}

    aurocs, others = values("auroc", inside), list(values("auroc", outside).values())
    return Scored(
        aurocs,
        statistics.mean(values("brier", inside).values()),
        statistics.mean(others) if others else None,
        len(inside) - len(aurocs),
    )


@contextmanager
def consortia(cache: Path | None) -> Iterator[Path]:
    """Yield a folder for sites: one that stays, or a temporary one."""
    with tempfile.TemporaryDirectory() if cache is None else nullcontext(cache) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)


def pool() -> ProcessPoolExecutor:
    """Return processes for what can be trained side by side."""
    return ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"))


def spread(values: Sequence[float]) -> str:
    """Say the interval of a mean over seeds."""
    if len(values) < 2:
        return "one seed"
    low, high = interval(values)
    return f"{low:.3f} to {high:.3f}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean of several values, by Student's t.

    >>> [round(end, 3) for end in interval([0.70, 0.72, 0.74])]
    [0.67, 0.77]
    """
    mean = statistics.mean(values)
    quantile = float(student.ppf(0.975, len(values) - 1))
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def _faults(task: Task) -> Faults | None:
    simulation = task.study.simulation
    if simulation is None or simulation.faults is None:
        return None
    assert task.only is not None
    return Faults(simulation.faults, dict.fromkeys(task.only, 1), task.study.study.seed)
