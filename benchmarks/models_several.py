"""Three tasks on one trunk beside each of them alone, on a synthetic consortium.

The sites hold labels of each task, not of all patients. Every model is trained on those who have
a label of its task, the three together on those who have any; all are tested on the same patients,
by the figures of metrics.json, without suppression.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from models_bench import STUDIES, Bench, say
from reporting import Row

from clients.evaluation import predict
from federation.models.build import FlatModel
from federation.study import Study, load_study
from federation.tasks import SeveralTask
from server.judges import judge_of
from server.judges.several import first_metric
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation
from simulations.consortium import synthesize

SITES, PATIENTS, SEED = 6, 500, 12
QUICK = {"sites": 3, "patients": 120}
SEEDS = (1, 2, 3)
CHANGES = (
    'evaluation={every=0, subgroups=[], threshold={rule="fixed", value=0.5}}',
    'selection={metric="mean"}',
    "split.fractions={train=0.4,tuning=0.1,held_out=0.5}",
    "strategy.minimum_sites=1",
)


def measure(quick: bool, folder: Path) -> list[Row]:
    """Train the three together and each alone, by several seeds."""
    sites, patients = (QUICK["sites"], QUICK["patients"]) if quick else (SITES, PATIENTS)
    place = folder / f"several-{sites}-{patients}-{SEED}"
    if not (place / "truth.json").exists():
        synthesize(place, sites=sites, patients=patients, seed=SEED, image_size=16, task="several")
    together = load_study(STUDIES / "synthetic-several.toml", CHANGES)
    assert isinstance(together.task, SeveralTask)
    with Bench.of(place) as bench:
        found = [_of_seed(bench, together, seed) for seed in SEEDS[: 1 if quick else None]]
    rows = []
    for name, task in together.task.tasks.items():
        shared, lone = ([one[name][which] for one in found] for which in ("on one trunk", "alone"))
        gained = float(np.mean(np.subtract(shared, lone)))
        told = f"{task.metrics[0]} of {len(found)} seeds, on one trunk {_told(shared)}, alone "
        told += f"{_told(lone)}; {found[0][name]['patients']} patients"
        say(f"several: {name}: {told}")
        start = f"models/several/{name}"
        rows += [
            Row(f"{start}/on_one_trunk", float(np.mean(shared)), note=told),
            Row(f"{start}/alone", float(np.mean(lone))),
            Row(f"{start}/gained", gained),
        ]
    return rows


def _of_seed(bench: Bench, together: Study, seed: int) -> dict[str, dict[str, Any]]:
    """Return each task's first metric on one trunk and alone, and on how many patients."""
    assert isinstance(together.task, SeveralTask)
    document = together.to_dict()
    document["study"]["seed"] = seed
    study = Study.model_validate(document)
    cells = _overall(bench, study, bench.train(study))["tasks"]
    found = {}
    for name, task in together.task.tasks.items():
        one = {**document, "task": document["task"]["tasks"][name]}
        one["selection"] = {"metric": task.metrics[0]}
        lone = Study.model_validate(one)
        cell = _overall(bench, lone, bench.train(lone))
        assert cell["n"] == cells[name]["n"]
        shared, alone = first_metric(cells[name], task), first_metric(cell, task)
        assert shared is not None and alone is not None
        found[name] = {
            "on one trunk": shared["value"],
            "alone": alone["value"],
            "patients": cell["n"],
        }
    return found


def _overall(bench: Bench, study: Study, model: FlatModel) -> dict[str, Any]:
    """What the sites' held-out patients say of a model, all together."""
    told = []
    for site, cohort in bench.cohorts(study).items():
        rows = cohort.patients.splits["held_out"]
        scores = predict(model, cohort, rows, study.task)
        summary = study.task.summarise(scores, cohort.patients.labels[rows])
        told.append(SiteEvaluation(site, {"": summary}, {}))
    found: dict[str, Any] = judge_of(study).model(Scored(told, [], {}))["overall"]
    return found


def _told(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
