"""Covariate shift: the same patients measured with other devices and assays (feature drift)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from simulations.shifts.kind import Effect, Floats, Kind, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables


class Covariate(ShiftSection):
    """``kind = "covariate"``: each code's values are stretched and moved, by site.

    value' = mean + exp(strength * N(0, scale)) * (value - mean) + strength * N(0, offset) * sd,
    with the mean and standard deviation of the code at the site. Values of a code that is never
    negative stay at or above 0.
    """

    kind: Literal["covariate"]
    codes: tuple[str, ...] = Field(default=("",), min_length=1)
    """How the codes begin that drift; all with numbers by default."""
    offset: float = Field(default=0.5, ge=0, le=10)
    """Standard deviation between sites, in standard deviations of the code."""
    scale: float = Field(default=0.2, ge=0, le=2)
    """Standard deviation between sites of the logarithm of the stretch."""


def apply(shift: Covariate, tables: SiteTables, scope: Scope) -> Effect:
    """Move the values of every event of the chosen codes."""
    return drift(shift, tables, scope, np.ones(len(tables.patients)))


def drift(shift: Covariate, tables: SiteTables, scope: Scope, weight: Floats) -> Effect:
    """Move each patient's values by a part of the way.

    Args:
        shift: its section.
        tables: of the site.
        scope: of the shift here.
        weight: (patients,) part of the way in [0, 1]; events of subjects without a label do not
            move.
    """
    values = tables.events["numeric_value"].to_numpy(np.float64, copy=True)
    rows_of = tables.events.groupby("code", observed=True).indices
    known = np.isfinite(values) & (tables.place_of >= 0)
    part = np.concatenate([weight, [0.0]])[tables.place_of]
    drawn, moved = {}, np.zeros(len(values), bool)
    for code in tables.codes(shift.codes):
        here = rows_of[code][known[rows_of[code]]]
        before = values[here]
        if len(before) < 2 or before.std() == 0:
            continue
        rng = scope.random("code", code)
        offset = scope.strength * shift.offset * rng.standard_normal()
        stretch = np.exp(scope.strength * shift.scale * rng.standard_normal())
        mean, sd = before.mean(), before.std()
        after = mean + stretch * (before - mean) + offset * sd
        after = before + part[here] * (after - before)
        values[here] = np.maximum(after, 0) if before.min() >= 0 else after
        moved[here] = part[here] > 0
        drawn[code] = {"offset": rounded(offset), "stretch": rounded(stretch)}
    if not drawn:
        return Effect(tables, {}, {}, "no code of its events has different numbers")
    old = tables.events["numeric_value"].to_numpy()
    new = np.where(moved, values.astype(old.dtype), old)
    events = tables.events.assign(numeric_value=new)
    return Effect(replace(tables, events=events), drawn, {"values changed": int(moved.sum())})


KIND = Kind(Covariate, apply)
