"""Hannover: radiograph, laboratory values, or both, for intensive care or death.

One hospital and 67 patients: every patient is scored out of fold, five folds, each five times with
another seed of the model, whose scores are averaged. The intervals are of patients; they are wide.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from models_bench import DATA, STUDIES, Bench, Scores, difference, say
from reporting import Row

from federation.study import Study, load_study
from simulations.datasets import DATASETS

SOURCE = DATA / "hannover_covid_cxr"
FOLDS, SEEDS = 5, (1, 2, 3, 4, 5)


def measure(quick: bool, folder: Path) -> list[Row]:
    """Train and score image, laboratory values, and both."""
    if not SOURCE.is_dir():
        return [Row("models/hannover", None, note=f"no {SOURCE}")]
    sites = folder / "models-hannover"
    if not sites.exists():
        DATASETS["hannover-cxr"].convert(SOURCE, sites)
    seeds, folds = (SEEDS[:1], 2) if quick else (SEEDS, FOLDS)
    with Bench.of(sites) as bench:
        found = {
            name: _mean([_out_of_fold(bench, name, seed, folds) for seed in seeds])
            for name in ("image", "ehr", "both")
        }
    told = {"image": "image", "ehr": "labs", "both": "both"}
    rows = []
    for name, scores in found.items():
        say(f"hannover: {told[name]} {scores.told()}")
        against = "" if name == "both" else f"; both minus this {difference(found['both'], scores)}"
        people = f"{int(scores.label.sum())} of {len(scores.label)} patients"
        note = f"{scores.told()}; {people}{against}"
        rows.append(Row(f"models/hannover/{told[name]}/auroc", scores.auroc, note=note))
    return rows


def _study(name: str, seed: int) -> Study:
    study = load_study(
        STUDIES / "hannover-icu.toml", ["evaluation={every=0, subgroups=[]}"], seed=seed
    )
    return study if name == "both" else study.only(name)  # type: ignore[arg-type]


def _out_of_fold(bench: Bench, name: str, seed: int, folds: int) -> Scores:
    study, parts = _study(name, seed), []
    for fold in range(folds):
        bench.work.hold_out((fold, folds))
        found = Scores.of(bench.train(study), bench.cohorts(study))
        # Ranks within a fold: models of two folds do not share a scale.
        parts.append(dataclasses.replace(found, score=_ranks(found.score)))
    return Scores.joined(parts)


def _ranks(score: np.ndarray) -> np.ndarray:
    return (np.argsort(np.argsort(score)) + 0.5) / len(score)


def _mean(runs: list[Scores]) -> Scores:
    return dataclasses.replace(runs[0], score=np.mean([run.score for run in runs], axis=0))
