"""Measurement frequency: some sites measure less often."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables


class Frequency(ShiftSection):
    """``kind = "frequency"``: a share of the measurements, drawn by site, was never made."""

    kind: Literal["frequency"]
    codes: tuple[str, ...] = Field(default=("",), min_length=1)
    """How the codes begin that are measured less; all with numbers by default."""
    most: float = Field(default=0.9, gt=0, le=1)
    """The largest share that a site loses at strength 1; each draws from 0 to it."""


def apply(shift: Frequency, tables: SiteTables, scope: Scope) -> Effect:
    """Take away measurements, but never a patient's last of a code before the prediction time.

    Whether something was ever measured is another shift ("missing").
    """
    share = scope.strength * shift.most * float(scope.random("share").random())
    events = tables.events
    measured = events["code"].isin(tables.codes(shift.codes)).to_numpy()
    measured &= np.isfinite(events["numeric_value"].to_numpy()) & (tables.place_of >= 0)
    last = tables.past[~tables.past.duplicated(["patient", "code"], keep="last")]
    measured[events.index.get_indexer(last.index)] = False
    gone = measured & (scope.random("events").random(len(events)) < share)
    note = "" if measured.any() else "nothing is measured more than once"
    touched = {"measurements taken away": int(gone.sum())}
    return Effect(replace(tables, events=events[~gone]), {"share": rounded(share)}, touched, note)


KIND = Kind(Frequency, apply)
