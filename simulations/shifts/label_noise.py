"""Label noise: readers who disagree, by site."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables


class LabelNoise(ShiftSection):
    """``kind = "label_noise"``: each site's reader gets a share of the labels wrong."""

    kind: Literal["label_noise"]
    rate: float = Field(default=0.2, gt=0, le=0.5)
    """Mean over sites of the share of wrong labels at strength 1; each draws from 0 to twice it."""
    errors: Literal["both", "missed", "false_alarms"] = "both"
    """``missed``: only 1 is read as 0; ``false_alarms``: only 0 as 1."""


def apply(shift: LabelNoise, tables: SiteTables, scope: Scope) -> Effect:
    """Flip labels, those that are later held out too: nobody at the site knows the truth."""
    rate = scope.strength * shift.rate * 2 * float(scope.random("rate").random())
    labels = tables.patients["label"].to_numpy()
    at_risk = {"both": [0, 1], "missed": [1], "false_alarms": [0]}[shift.errors]
    wrong = np.isin(labels, at_risk) & (scope.random("patients").random(len(labels)) < rate)
    flipped = np.where(wrong, 1 - labels, labels)
    touched = {"labels changed": int(wrong.sum())}
    return Effect(tables.relabel(flipped), {"rate": rounded(rate)}, touched)


KIND = Kind(LabelNoise, apply, None)
