"""Two hostile sites of ten: what they do to FedAvg and to each robust strategy, and its price.

Ten hospitals of 400 patients on average, records alone, ten rounds of one pass (plain SGD at
0.3, the best of 0.1, 0.3 and 1 for FedAvg when nobody is hostile, batches of 16); three seeds. The
two hostile ones are others with each seed, and the same for every strategy. Bulyan needs eleven
sites against two, and has an eleventh honest one; the figures are of the same eight honest sites
for all.

Strategies know that there are two hostile sites, where they have an option for it. Norm bounding
has the norm of a usual honest update (0.4 in the median of a consortium of another seed, whence the
learning rate is too), and screening drops updates three times as long as the median one, or that
point away from the others.

The backdoor's updates are five times as long, so that two would replace the mean of ten. Its
success is the share of the honest sites' held-out patients without the outcome whom the trigger
brings above a risk of one half; the trigger alone does that to some, as the figure without hostile
sites shows.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import Row
from strategies_sites import (
    Bench,
    Size,
    consortia,
    draw_sites,
    pool,
    shift_sites,
    spread,
    study_of,
)

from clients.evaluation import predict
from clients.workbench import Workbench
from federation.errors import WardroundError
from federation.models.build import Vector, build_model
from federation.study import Study
from server.task import Task
from simulations.hospitals import draw_hospitals
from simulations.tampering import with_trigger

HOSTILE, SITES = 2, 10
FULL, QUICK = Size(SITES + 1, 400, 10, 1, (21, 22, 23)), Size(SITES + 1, 100, 3, 1, (21,))
RATE, USUAL_NORM = 0.3, 0.5

STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "norm_bound": {"name": "norm_bound", "norm": USUAL_NORM},
    "screening": {"name": "fedavg", "screening": {"norm_ratio": 3.0, "least_cosine": 0.0}},
    "median": {"name": "median"},
    "trimmed_mean": {"name": "trimmed_mean", "fraction": 0.2},
    "geometric_median": {"name": "geometric_median"},
    "krum": {"name": "krum", "hostile": HOSTILE, "minimum_sites": 7},
    "multi_krum": {"name": "multi_krum", "hostile": HOSTILE, "minimum_sites": 7},
    "bulyan": {"name": "bulyan", "hostile": HOSTILE, "minimum_sites": 11},
}
ATTACKS: Mapping[str, Mapping[str, Any] | None] = {
    "nobody": None,
    "sign_flip": {"attack": "sign_flip"},
    "scale_x10": {"attack": "scaled_update"},
    "label_flip": {"attack": "label_flip"},
    "backdoor": {"attack": "backdoor", "scale": SITES / HOSTILE},
}
SHIFTS = ("concept",)
"""Between honest sites, when nobody is hostile: whoever is far from the others then need not be."""


@dataclass(frozen=True)
class Defended:
    """A model that was trained beside hostile sites.

    Attributes:
        honest: held-out AUROC of the honest sites.
        success: of the trigger.
        problem: why there is no model; empty if there is one.
    """

    honest: Mapping[str, float]
    success: float = 0.0
    problem: str = ""


Results = Mapping[tuple[str, str], Defended]
"""By attack, or ``nobody`` and a shift, and strategy."""


def measure(quick: bool, cache: Path | None = None) -> list[Row]:
    """Train every strategy under every attack, and on honest sites that differ.

    Args:
        quick: smaller sites, few rounds and one seed; nothing then holds.
        cache: folder in which the consortia are kept from run to run.
    """
    size = QUICK if quick else FULL
    count = len(size.seeds)
    with consortia(cache) as folder, pool() as workers:
        found = list(workers.map(_of_seed, [folder] * count, [size] * count, size.seeds))
    return _table(found)


def _of_seed(folder: Path, size: Size, seed: int) -> dict[tuple[str, str], Defended]:
    torch.set_num_threads(1)
    plain = size.place(folder, seed, "plain")
    if not plain.exists():
        draw_sites(plain, size.sites, size.patients, seed)
    names = [hospital.name for hospital in draw_hospitals(size.sites, size.patients, seed)]
    chosen = np.random.default_rng(seed).choice(SITES, HOSTILE, replace=False)
    hostile = sorted(names[place] for place in chosen)
    found: dict[tuple[str, str], Defended] = {}
    with Bench.of(plain) as bench:
        for attack, table in ATTACKS.items():
            tested = _defended(bench, _studies(seed, size, table, hostile), names, hostile)
            found |= {(attack, name): one for name, one in tested.items()}
    for shift in SHIFTS:
        sites = size.place(folder, seed, shift)
        if not sites.exists():
            shift_sites(plain, sites, [shift], seed, 1.0)
        with Bench.of(sites) as bench:
            tested = _defended(bench, _studies(seed, size, None, hostile), names, hostile)
            found |= {(f"nobody_{shift}", name): one for name, one in tested.items()}
    return found


def _studies(
    seed: int, size: Size, attack: Mapping[str, Any] | None, hostile: Sequence[str]
) -> dict[str, Study]:
    """Return the study of each strategy under an attack."""
    faults = {} if attack is None else {"hostile": [{**attack, "sites": hostile}]}
    training = {
        "rounds": size.rounds,
        "local_epochs": size.epochs,
        "batch_size": 16,
        "optimizer": {"name": "sgd", "lr": RATE},
    }
    return {
        name: study_of(
            seed,
            ("ehr",),
            training=training,
            strategy={"minimum_sites": 5, **strategy},
            simulation={"faults": faults},
        )
        for name, strategy in STRATEGIES.items()
    }


def _defended(
    bench: Bench, studies: Mapping[str, Study], names: Sequence[str], hostile: Sequence[str]
) -> dict[str, Defended]:
    """Train on ten sites, or eleven for Bulyan, and test at the honest ones of the ten."""
    honest = [site for site in names[:SITES] if site not in hostile]
    found: dict[str, Defended] = {}
    triggered: Triggered | None = None
    for name, study in studies.items():
        task = bench.task(study, left_out="" if name == "bulyan" else names[-1])
        triggered = triggered or Triggered([bench.file(site) for site in honest], task)
        try:
            weights = bench.trained(task)
        except WardroundError as error:
            found[name] = Defended({}, problem=str(error))
            continue
        sites = bench.scored(task, weights).sites
        found[name] = Defended({s: sites[s] for s in honest}, triggered.success(task, weights))
        print(f"{study.study.seed} {name}: {_told(found[name])}", file=sys.stderr, flush=True)
    return found


class Triggered:
    """The honest sites' patients, all of them bearing the trigger.

    Args:
        files: of the honest sites.
        task: says what is read of them.
    """

    def __init__(self, files: Sequence[Path], task: Task):
        workbench = Workbench()
        read = [workbench.cohort(str(file), task.study, task.vocabulary) for file in files]
        everybody = [np.arange(len(cohort.patients)) for cohort in read]
        self._cohorts = [
            replace(cohort, modalities=with_trigger(cohort, rows))
            for cohort, rows in zip(read, everybody, strict=True)
        ]

    def success(self, task: Task, weights: Vector) -> float:
        """Return the share of held-out negatives with a risk above one half."""
        model = build_model(task.study, task.vocabulary)
        model.load(weights)
        above = []
        for cohort in self._cohorts:
            rows = cohort.patients.splits["held_out"]
            negatives = rows[cohort.patients.labels[rows] == 0]
            above.append(predict(model, cohort, negatives, task.study.task) > 0.5)
        return float(np.concatenate(above).mean())


def _told(found: Defended) -> str:
    if found.problem:
        return found.problem
    return f"{statistics.mean(found.honest.values()):.3f}, trigger {found.success:.2f}"


def _table(runs: Sequence[Results]) -> list[Row]:
    rows = []
    for attack, name in runs[0]:
        place = f"strategies/robustness/{attack}/{name}"
        of = [run[attack, name] for run in runs]
        problems = [one.problem for one in of if one.problem]
        if problems:
            told = f"{len(problems)} of {len(of)} runs ended without a model: {problems[0]}"
            rows.append(Row(f"{place}/honest_mean_auroc", None, note=told))
            continue
        figures = {
            "honest_mean_auroc": [statistics.mean(one.honest.values()) for one in of],
            "honest_worst_auroc": [min(one.honest.values()) for one in of],
        }
        if attack in ("nobody", "backdoor"):
            figures["trigger_success"] = [one.success for one in of]
        rows += [
            Row(f"{place}/{figure}", statistics.mean(values), note=spread(values))
            for figure, values in figures.items()
        ]
    return rows
