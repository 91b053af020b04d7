"""What each fusion loses where images are missing at test time, over several trainings.

Half of the images of those who have one are taken away at test time. The expectation over all such
removals is exact: each image is there or not by a toss of its own, and the two patients of a pair
are different ones, so the expected AUROC is that of all patients at once, each scored with and
without the image, two scores of the same weight.

A model that makes nothing of images loses nothing. So beside the loss stand what the best possible
score loses, and how a model whose patients all lost their image compares with one of the same
fusion that never had images: that one is as good as the fusion can be without.

In a second consortium only patients with an image train, so that nobody lacks one before the test.

Images have 32 x 32 pixels: of 64 x 64 the fusions make no more, and take three times as long.
Intervals resample trainings and held-out patients, the same for all fusions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from models_bench import Bench, Floats, Rows, Scores, auroc, say, without_images
from models_synthetic import FUSIONS, SMALL, Oracle, consortium, study_of
from numpy.typing import NDArray
from reporting import Row

from clients.workbench import Cohort
from federation.study import Study

TRAININGS, QUICK_TRAININGS = 5, 2
RESAMPLES = 1000


@dataclass(frozen=True)
class Trainings:
    """Scores of the same patients by models of one fusion that differ in their seed.

    Attributes:
        label: (patients,).
        shown: (trainings, patients), with the image of those who have one.
        hidden: likewise, without it.
        never: likewise, by models without images; None if there are none.
    """

    label: Floats
    shown: Floats
    hidden: Floats
    never: Floats | None = None

    def figures(self, trainings: Rows, patients: Rows) -> dict[str, float]:
        """Return means over some trainings, of some patients."""
        label, found = self.label[patients], []
        for training in trainings:
            shown, hidden = self.shown[training, patients], self.hidden[training, patients]
            whole = auroc(label, shown)
            one = {"auroc": whole, "lost": whole - half_removed(label, shown, hidden)}
            if self.never is not None:
                never = auroc(label, self.never[training, patients])
                one |= {"gained": whole - never, "behind": never - auroc(label, hidden)}
            found.append(one)
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def half_removed(label: Floats, shown: Floats, hidden: Floats) -> float:
    """Expected AUROC where each patient's image is there by the toss of a coin.

    Args:
        label: (patients,) 0 or 1.
        shown: (patients,) scores with all that a patient has.
        hidden: (patients,) scores without the image; the same for who has none.
    """
    return auroc(np.concatenate([label, label]), np.concatenate([shown, hidden]))


def measure(quick: bool, folder: Path) -> list[Row]:
    """Train each fusion several times, and score everybody with and without the image."""
    place = consortium(quick, folder, SMALL)
    with Bench.of(place) as bench:
        best = _best(bench, place, study_of("early", quick, SMALL))
        found = {"best": best, **_of_fusions(bench, quick, never=True)}
        rows = _rows("models/robustness", found, quick)
        bench.work.train_with("image")
        found = _of_fusions(bench, quick, never=False)
        return [*rows, *_rows("models/robustness/all_train_with_images", found, quick)]


def _best(bench: Bench, place: Path, study: Study) -> Trainings:
    cohorts, oracle = bench.cohorts(study), Oracle(place, bench)
    shown = oracle.scores(cohorts)
    hidden = oracle.scores(_without_images(cohorts))
    return Trainings(shown.label, shown.score[None], hidden.score[None])


def _of_fusions(bench: Bench, quick: bool, never: bool) -> dict[str, Trainings]:
    found = {}
    for fusion in FUSIONS:
        parts = []
        for seed in range(QUICK_TRAININGS if quick else TRAININGS):
            study = study_of(fusion, quick, SMALL, f"study.seed={seed}")
            parts.append(_one(bench, study, never))
            say(f"robustness: {fusion}, training {seed + 1}: {parts[-1].figures(*_all(parts[-1]))}")
        found[fusion] = Trainings(
            parts[0].label,
            np.concatenate([part.shown for part in parts]),
            np.concatenate([part.hidden for part in parts]),
            np.concatenate([p.never for p in parts if p.never is not None]) if never else None,
        )
    return found


def _one(bench: Bench, study: Study, never: bool) -> Trainings:
    model, cohorts = bench.train(study), bench.cohorts(study)
    shown, hidden = Scores.of(model, cohorts), Scores.of(model, _without_images(cohorts))
    without = None
    if never:
        blind = _without_modality(study)
        without = Scores.of(bench.train(blind), bench.cohorts(blind)).score[None]
    return Trainings(shown.label, shown.score[None], hidden.score[None], without)


def _without_images(cohorts: Mapping[str, Cohort]) -> dict[str, Cohort]:
    return {site: without_images(cohort) for site, cohort in cohorts.items()}


def _without_modality(study: Study) -> Study:
    document = study.to_dict()
    del document["modalities"]["image"]
    return Study.model_validate(document)


TOLD = {
    "auroc": "AUROC with all images",
    "lost": "AUROC lost without half of the images",
    "gained": "AUROC above the same fusion without images",
    "behind": "AUROC, all images taken away, below the same fusion that never had images",
}


def _rows(name: str, found: Mapping[str, Trainings], quick: bool) -> list[Row]:
    rows = []
    draws = {kind: _drawn(one) for kind, one in found.items()}
    for kind, one in found.items():
        for figure, value in one.figures(*_all(one)).items():
            note = f"{TOLD[figure]}; {_interval(draws[kind][figure])}; {len(one.shown)} trainings"
            rows.append(Row(f"{name}/{kind}/{figure}", value, note=note))
    first = FUSIONS[0]
    for kind in FUSIONS[1:]:
        less = found[first].figures(*_all(found[first]))["lost"]
        less -= found[kind].figures(*_all(found[kind]))["lost"]
        spread = draws[first]["lost"] - draws[kind]["lost"]
        rows.append(
            Row(
                f"{name}/{kind}/loses_less_than_{first}",
                less,
                0.0,
                holds=None if quick else bool(np.percentile(spread, 2.5) > 0),
                note=f"{_interval(spread)}; holds if all of the interval is above the goal",
            )
        )
    return rows


def _all(one: Trainings) -> tuple[Rows, Rows]:
    return np.arange(len(one.shown)), np.arange(len(one.label))


def _drawn(one: Trainings) -> dict[str, Floats]:
    found = [one.figures(*rows) for rows in _resamples(one)]
    return {name: np.array([figures[name] for figures in found]) for name in found[0]}


def _resamples(one: Trainings) -> Iterator[tuple[Rows, Rows]]:
    """Yield trainings and patients, drawn with replacement; the same for as many of both."""
    seeds, patients = np.random.default_rng(0), np.random.default_rng(1)
    classes = [np.flatnonzero(one.label == value) for value in (0, 1)]
    for _ in range(RESAMPLES):
        drawn = [patients.choice(rows, len(rows)) for rows in classes]
        yield seeds.integers(0, len(one.shown), len(one.shown)), np.concatenate(drawn)


def _interval(values: NDArray[np.float64]) -> str:
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{low:+.4f} to {high:+.4f}"
