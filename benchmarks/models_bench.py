"""Sites whose models are trained by the simulation's own code, and scored patient by patient."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from clients.evaluation import logits
from clients.workbench import Cohort
from federation.errors import WardroundError
from federation.models.build import FlatModel, build_model
from federation.study import Study
from federation.vocabulary import Vocabulary, agreed_vocabulary
from server.exchange import Exchange
from server.rounds import run_rounds
from server.task import Task
from simulations.grids import LocalGrid
from simulations.workbench import SimulatedWorkbench

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
STUDIES = ROOT / "examples" / "studies"
RESAMPLES = 2000
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class DividedWorkbench(SimulatedWorkbench):
    """Sites whose patients are divided otherwise than the study says.

    Attributes:
        divide: a cohort -> its splits; None for the study's own.
    """

    divide: Callable[[Cohort], dict[str, Rows]] | None = None

    def hold_out(self, fold: tuple[int, int]) -> None:
        """Hold out one of so many folds, which are even for each class."""

        def divide(cohort: Cohort) -> dict[str, Rows]:
            held_out = folds(cohort, fold[1]) == fold[0]
            return {
                "train": np.flatnonzero(~held_out),
                "tuning": np.zeros(0, np.int64),
                "held_out": np.flatnonzero(held_out),
            }

        self._divide(divide)

    def train_with(self, modality: str) -> None:
        """Let only patients train who have a modality; who is held out stays the same."""

        def divide(cohort: Cohort) -> dict[str, Rows]:
            splits: dict[str, Rows] = {**cohort.patients.splits}
            there = cohort.modalities[modality].present.numpy()
            return {**splits, "train": splits["train"][there[splits["train"]]]}

        self._divide(divide)

    def _divide(self, divide: Callable[[Cohort], dict[str, Rows]]) -> None:
        self.divide = divide
        self._cohorts.clear()

    def _read_cohort(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        cohort = super()._read_cohort(file, study, vocabulary)
        if self.divide is None:
            return cohort
        patients: Any = dataclasses.replace(cohort.patients, splits=self.divide(cohort))
        return dataclasses.replace(cohort, patients=patients)


def folds(cohort: Cohort, number: int) -> NDArray[np.int64]:
    """Return each patient's fold; it follows from the pseudonyms, whose key is fixed."""
    fold = np.zeros(len(cohort.patients), np.int64)
    for label in (0, 1):
        rows = np.flatnonzero(cohort.patients.labels == label)
        ordered = rows[np.argsort(cohort.patients.subject_ids[rows], kind="stable")]
        fold[ordered] = np.arange(len(rows)) % number
    return fold


@dataclass
class Bench:
    """The sites of one folder.

    Attributes:
        grid: over them.
        work: what plays them.
        folder: for what sites keep.
    """

    grid: LocalGrid
    work: DividedWorkbench
    folder: Path
    _models: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def of(cls, sites: Path) -> Iterator[Bench]:
        """Open every site of a folder."""
        files = {file.parent.name: file for file in sorted(sites.glob("*/site.toml"))}
        with tempfile.TemporaryDirectory() as folder:
            grid = LocalGrid(files)
            ordered = [grid.files[node] for node in sorted(grid.files)]
            work = DividedWorkbench(ordered, grid.store)
            grid._host._workbench = work
            try:
                yield cls(grid, work, Path(folder))
            finally:
                grid.close()

    def train(self, study: Study, only: str = "", pooled: bool = False) -> FlatModel:
        """Train by rounds: the federation, one site alone, or all patients in one place."""
        place = self.folder / str(next(self._models))
        self.grid.use_ledgers(place / "ledgers")
        self.grid.use_memories(place / "memories")
        exchange = Exchange(self.grid, simulated=True, pooled_node=self.grid.pooled_node)
        members: dict[str, int] = dict(self.grid.members)
        if only:
            members = {only: members[only]}
        if pooled:
            members = {"pooled": self.grid.pooled_node}
        vocabulary = places(study)
        task = Task(exchange, study, vocabulary, only=members, quorum=1, measured=False)
        if pooled:
            task = dataclasses.replace(task, model="pooled", patience=100.0)
        result = run_rounds(task)
        if result.lost_quorum:
            raise WardroundError(result.lost_quorum)
        model = build_model(study, vocabulary)
        model.load(result.weights)
        return model

    def cohorts(self, study: Study) -> dict[str, Cohort]:
        """Return each site's patients as the study sees them."""
        vocabulary = places(study)
        return {
            site: self.work.cohort(self.grid.files[node], study, vocabulary)
            for site, node in self.grid.members.items()
        }

    def key(self, site: str) -> bytes:
        """Return the key by which a site's patients have their pseudonyms."""
        return self.work.site(self.grid.files[self.grid.members[site]]).patient_key()


def places(study: Study) -> Vocabulary | None:
    """Return the study's vocabulary, if it uses the EHR."""
    return None if study.modalities.ehr is None else agreed_vocabulary(study.modalities.ehr)


@dataclass(frozen=True)
class Scores:
    """Held-out patients of all sites: who they are, whether they had the outcome, their scores."""

    site: NDArray[np.str_]
    subject: NDArray[np.int64]
    label: Floats
    score: Floats

    @classmethod
    def of(cls, model: FlatModel, cohorts: Mapping[str, Cohort]) -> Scores:
        """Score the held-out patients."""
        parts = []
        for site, cohort in cohorts.items():
            rows = cohort.patients.splits["held_out"]
            if not len(rows):
                continue
            parts.append(
                cls(
                    np.full(len(rows), site),
                    cohort.patients.subject_ids[rows],
                    cohort.patients.labels[rows].astype(float),
                    logits(model, cohort, rows).numpy().astype(float),
                )
            )
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Put patients together, such as those of several folds, in one order."""
        columns = [
            np.concatenate([getattr(part, name.name) for part in parts])
            for name in dataclasses.fields(cls)
        ]
        order = np.lexsort((columns[1], columns[0]))
        return cls(*(column[order] for column in columns))

    def some(self, chosen: NDArray[np.bool_]) -> Scores:
        """Return some of the patients."""
        return Scores(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))

    @property
    def auroc(self) -> float:
        """Of all patients at once."""
        return auroc(self.label, self.score)

    @property
    def mean_of_sites(self) -> float:
        """Mean of the sites' AUROCs, of those that have both classes."""
        found = [auroc(p.label, p.score) for p in (self.some(self.site == s) for s in self.sites)]
        return float(np.nanmean(found))

    @property
    def sites(self) -> list[str]:
        """Who has patients here."""
        return sorted(set(self.site.tolist()))

    def interval(self) -> tuple[float, float]:
        """Return the 95% interval of the AUROC, by resampling patients within the classes."""
        found = [auroc(self.label[r], self.score[r]) for r in resamples(self.label)]
        return float(np.percentile(found, 2.5)), float(np.percentile(found, 97.5))

    def told(self) -> str:
        """Return AUROC and interval for a note."""
        low, high = self.interval()
        return f"{self.auroc:.3f} ({low:.3f} to {high:.3f})"


def difference(one: Scores, other: Scores) -> str:
    """Return by how much one AUROC is above another of the same patients, with its interval."""
    assert (one.subject == other.subject).all()
    found = [
        auroc(one.label[r], one.score[r]) - auroc(one.label[r], other.score[r])
        for r in resamples(one.label)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return f"{one.auroc - other.auroc:+.3f} ({low:+.3f} to {high:+.3f})"


def resamples(label: Floats) -> Iterator[NDArray[np.int64]]:
    """Yield patients drawn with replacement within each class, the same for the same labels."""
    rng = np.random.default_rng(0)
    classes = [np.flatnonzero(label == value) for value in (0, 1)]
    for _ in range(RESAMPLES):
        yield np.concatenate([rng.choice(rows, len(rows)) for rows in classes])


def auroc(label: Floats, score: Floats) -> float:
    """Area under the curve from ranks; NaN with one class."""
    positives = label.sum()
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)[label == 1].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def without_images(cohort: Cohort) -> Cohort:
    """Take away the image of every patient who has one."""
    image = cohort.modalities["image"]
    hidden = dataclasses.replace(image, present=torch.zeros_like(image.present))
    return dataclasses.replace(cohort, modalities={**cohort.modalities, "image": hidden})


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)
