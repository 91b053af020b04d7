"""The outcomes of a site's patients, whatever the kind of task: what shifts of labels act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.label_values import value_columns
from federation.tasks import BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask, Task
from simulations.shifts.kind import Floats
from simulations.shifts.tables import SiteTables

YES_OR_NO = BinaryTask(label="outcome")
"""The task of labels of which nothing is said."""
LABELS = (BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask)
"""The kinds of task whose labels shifts can change and measure."""


def outcomes(tables: SiteTables) -> Mapping[str, Floats]:
    """Return whether each patient has each outcome.

    Returns:
        (patients,) 0, 1 or NaN (not known) by name: of a yes-or-no task its only outcome, the
        classes, the findings, or of a time to an outcome whether it was seen.
    """
    patients, task = tables.patients, tables.task
    if isinstance(task, MulticlassTask):
        label = patients["label"].to_numpy()
        return {name: (label == k) * 1.0 for k, name in enumerate(task.classes)}
    columns = value_columns(task)
    if isinstance(task, MultilabelTask):
        return {
            name: patients[column].to_numpy(np.float64)
            for name, column in zip(task.labels, columns, strict=True)
        }
    return {YES_OR_NO.label: patients[columns[-1]].to_numpy(np.float64)}


def class_names(task: Task) -> tuple[str, ...]:
    """Return the names of the classes of which every patient has one, by their numbers."""
    return task.classes if isinstance(task, MulticlassTask) else ("without", "with")


def told(task: Task, values: Mapping[str, Any]) -> Any:
    """Return what a record says of each outcome: of a single one only its value."""
    several = isinstance(task, MulticlassTask | MultilabelTask)
    return dict(values) if several else next(iter(values.values()))


def untrainable(tables: SiteTables, rows: NDArray[np.bool_]) -> str:
    """Return why nobody could train on some of a site's patients; empty if one could.

    Args:
        tables: of the site.
        rows: (patients,) which.
    """
    found = {name: column[rows] for name, column in outcomes(tables).items()}
    seen = {name: (int((y == 1).sum()), int((y == 0).sum())) for name, y in found.items()}
    task = tables.task
    if isinstance(task, SurvivalTask):
        (events, _), *_ = seen.values()
        return "" if events else "none of whom the outcome was seen in"
    if isinstance(task, MulticlassTask):
        there = sum(ones > 0 for ones, _ in seen.values())
        return "" if there > 1 else f"of {there} class; expected at least two"
    if isinstance(task, MultilabelTask):
        two = any(ones and zeros for ones, zeros in seen.values())
        return "" if two else "and no finding that some have and some have not"
    (ones, zeros), *_ = seen.values()
    return "" if ones and zeros else f"{ones} of them with the outcome; expected both classes"
