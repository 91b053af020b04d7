"""Label noise: readers who disagree, by site."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from clients.label_values import value_columns
from federation.tasks import MulticlassTask, SurvivalTask, Task
from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables

READ_WRONG = {"both": (0, 1), "missed": (1,), "false_alarms": (0,)}


class LabelNoise(ShiftSection):
    """``kind = "label_noise"``: each site's reader gets a share of the labels wrong."""

    kind: Literal["label_noise"]
    rate: float = Field(default=0.2, gt=0, le=0.5)
    """Mean over sites of the share of wrong labels at strength 1; each draws from 0 to twice it."""
    errors: Literal["both", "missed", "false_alarms"] = "both"
    """``missed``: only 1 is read as 0; ``false_alarms``: only 0 as 1."""


def apply(shift: LabelNoise, tables: SiteTables, scope: Scope) -> Effect:
    """Read labels wrongly, those that are later held out too: nobody at the site knows the truth.

    One of several classes is taken for any other; of findings each is read by itself; of a time to
    an outcome only whether the outcome ended it.
    """
    rate = scope.strength * shift.rate * 2 * float(scope.random("rate").random())
    columns = value_columns(tables.task)
    if isinstance(tables.task, SurvivalTask):
        columns = columns[1:]
    before = tables.patients[list(columns)].to_numpy(np.float64)
    wrong = scope.random("patients").random(before.shape) < rate
    if isinstance(tables.task, MulticlassTask):
        classes = len(tables.task.classes)
        after = (before + scope.random("classes").integers(1, classes, before.shape)) % classes
    else:
        wrong &= np.isin(before, READ_WRONG[shift.errors])
        after = 1 - before
    read = np.where(wrong, after, before)
    touched = {"labels changed": int(wrong.sum())}
    changed = tables.relabel(dict(zip(columns, read.T, strict=True)))
    return Effect(changed, {"rate": rounded(rate)}, touched)


def _unfit(shift: LabelNoise, task: Task) -> str:
    if isinstance(task, MulticlassTask) and shift.errors != "both":
        return f'classes have no order, so that none is "{shift.errors}"'
    return ""


KIND = Kind(LabelNoise, apply, unfit=_unfit)
