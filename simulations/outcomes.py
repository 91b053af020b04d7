"""Labels of the synthetic patients for each kind of task, each from the same latents.

``binary``: deterioration, as `simulations.hospitals` has it. ``multiclass``: its severity, a
proportional-odds model of the same logit. ``multilabel``: three findings, each of one latent, some
of them uncertain (-1) or blank, as a reader of reports leaves them. ``survival``: days to death,
exponential with the logit as its linear predictor, of patients who leave at some time.
``several``: all of these, each in a file of its own, and of some patients not all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from federation.errors import UserError
from federation.tasks import TASKS, SeveralTask, Task
from simulations.hospitals import Person, random_stream, sigmoid

Kind = Literal["binary", "multiclass", "multilabel", "survival", "several"]
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

LABELS: Mapping[Kind, str] = {
    "binary": "deterioration",
    "multiclass": "severity",
    "multilabel": "findings",
    "survival": "death",
}
"""What the labels of each kind are of."""
UNLABELLED = {"multiclass": 0.2, "multilabel": 0.3, "survival": 0.15}
"""Shares of patients without a label, where a hospital has labels of several kinds."""

Columns = dict[str, pa.Array]


def label_files(
    kind: Kind, people: Sequence[Person], index: int, seed: int
) -> dict[str, tuple[list[int], Columns]]:
    """Return whom each labels file of a hospital is of, and its columns of values.

    Of one kind the file is named ``labels``, of several each after its label; the values are the
    same either way.

    Args:
        kind: of labels.
        people: the hospital's patients, whose places are returned.
        index: the hospital's place.
        seed: of the consortium.
    """
    if kind != "several":
        return {"labels": (list(range(len(people))), _columns(kind, people, index, seed))}
    files = {}
    places = range(len(people))
    chances = [random_stream(seed, index, "labelled", i).random(len(LABELS)) for i in places]
    for k, (one, label) in enumerate(LABELS.items()):
        whom = [i for i in places if chances[i][k] >= UNLABELLED.get(one, 0.0)]
        columns = _columns(one, people, index, seed)
        files[label] = whom, {name: values.take(whom) for name, values in columns.items()}
    return files


def _columns(kind: Kind, people: Sequence[Person], index: int, seed: int) -> Columns:
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
    if kind == "several":
        each = {LABELS[one]: {"kind": one, "label": LABELS[one], **options[one]} for one in options}
        return SeveralTask.model_validate({"tasks": each})
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
