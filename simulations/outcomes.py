"""Labels of the synthetic patients for each kind of task, each from the same latents.

``binary``: deterioration, as `simulations.hospitals` has it. ``multiclass``: its severity, a
proportional-odds model of the same logit. ``multilabel``: three findings, each of one latent, some
of them uncertain (-1) or blank, as a reader of reports leaves them. ``survival``: days to death,
exponential with the logit as its linear predictor, of patients who leave at some time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from federation.errors import UserError
from federation.tasks import TASKS, Task
from simulations.hospitals import Person, random_stream, sigmoid

Kind = Literal["binary", "multiclass", "multilabel", "survival"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GRADES = ("stable", "deteriorates", "critical")
GRADE_STEPS = (0.0, 1.5)
"""What is taken from the logit for the odds of each grade or a worse one."""
FINDINGS = {"sepsis": ("a", -0.6), "effusion": ("b", -0.4), "frailty": ("c", -0.8)}
"""Each finding's latent, and its logit at the latent's mean."""
FINDING_EFFECT = 1.8
UNCERTAIN_SHARE, BLANK_SHARE = 0.06, 0.5
"""Of all labels; and of the labels without the finding."""
DAILY_HAZARD, HAZARD_EFFECT = 1 / 240, 0.8
FOLLOW_UP_DAYS = (60.0, 720.0)

FOLLOW_LOGIT: tuple[Kind, ...] = ("binary", "multiclass", "survival")
"""The kinds whose labels follow from the logit of deterioration; findings have latents instead."""

Columns = dict[str, pa.Array]


def label_columns(kind: Kind, people: Sequence[Person], index: int, seed: int) -> Columns:
    """Return the columns of values of a hospital's labels file; `index` is its place."""
    draws = [random_stream(seed, index, "label", i) for i in range(len(people))]
    return _WRITERS[kind](people, draws)


def known_kind(task: str) -> Kind:
    """Return a kind of task by its name.

    Raises:
        UserError: if synthetic patients have no such labels.
    """
    for kind in KINDS:
        if kind == task:
            return kind
    raise UserError("--task", f'"{task}" is not one of {", ".join(KINDS)}')


def task_of(kind: Kind) -> Task:
    """Return the task that reads the labels of a kind."""
    options: Mapping[Kind, Mapping[str, Any]] = {
        "binary": {},
        "multiclass": {"classes": GRADES},
        "multilabel": {"labels": tuple(FINDINGS)},
        "survival": {"intervals": FOLLOW_UP_DAYS},
    }
    return TASKS[kind].model_validate({"label": "deterioration", **options[kind]})


def _binary(people: Sequence[Person], draws: Sequence[np.random.Generator]) -> Columns:
    return {"boolean_value": pa.array([p.deteriorates for p in people], pa.bool_())}


def _multiclass(people: Sequence[Person], draws: Sequence[np.random.Generator]) -> Columns:
    grades = []
    for person, rng in zip(people, draws, strict=True):
        chance = rng.random()
        grades.append(sum(chance < sigmoid(person.logit - step) for step in GRADE_STEPS))
    return {"categorical_value": pa.array([GRADES[grade] for grade in grades], pa.string())}


def _multilabel(people: Sequence[Person], draws: Sequence[np.random.Generator]) -> Columns:
    found: dict[str, list[int | None]] = {name: [] for name in FINDINGS}
    for person, rng in zip(people, draws, strict=True):
        for name, (latent, base) in FINDINGS.items():
            chance, read = rng.random(2)
            there = chance < sigmoid(base + FINDING_EFFECT * getattr(person, latent))
            label: int | None = int(there)
            if read < UNCERTAIN_SHARE:
                label = -1
            elif not there and read < UNCERTAIN_SHARE + BLANK_SHARE:
                label = None
            found[name].append(label)
    return {name: pa.array(labels, pa.int64()) for name, labels in found.items()}


def _survival(people: Sequence[Person], draws: Sequence[np.random.Generator]) -> Columns:
    days, deaths = [], []
    for person, rng in zip(people, draws, strict=True):
        hazard = DAILY_HAZARD * np.exp(HAZARD_EFFECT * person.logit)
        death, left = rng.exponential(1 / hazard), rng.uniform(*FOLLOW_UP_DAYS)
        days.append(round(float(min(death, left)), 3))
        deaths.append(bool(death <= left))
    return {
        "float_value": pa.array(days, pa.float32()),
        "boolean_value": pa.array(deaths, pa.bool_()),
    }


_WRITERS: Mapping[Kind, Callable[[Sequence[Person], Sequence[np.random.Generator]], Columns]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "survival": _survival,
}
