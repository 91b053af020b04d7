"""Missing modality: images, notes or measurements that some patients of a site do not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection, rounded
from simulations.shifts.tables import IMAGES, NOTES, SiteTables

Modality = Literal["ehr", "image", "text"]


class Missing(ShiftSection):
    """``kind = "missing"``: a share of patients, drawn by site and modality, lacks it."""

    kind: Literal["missing"]
    modalities: tuple[Modality, ...] = Field(default=("image", "text"), min_length=1)
    """``ehr`` is every number; facts and codes without one stay."""
    most: float = Field(default=0.9, gt=0, le=1)
    """The largest share of patients that lose it at strength 1; each site draws from 0 to it."""


def apply(shift: Missing, tables: SiteTables, scope: Scope) -> Effect:
    """Take away all events of a modality of the patients drawn; an image's file goes with it."""
    patients = len(tables.patients)
    gone = np.zeros(len(tables.events), bool)
    drawn: dict[str, float] = {}
    touched: dict[str, int] = {}
    for modality in dict.fromkeys(shift.modalities):
        share = scope.strength * shift.most * float(scope.random("share", modality).random())
        lacks = scope.random("patients", modality).random(patients) < share
        of_it = _events(tables.events, modality) & np.append(lacks, False)[tables.place_of]
        gone |= of_it
        drawn[modality] = rounded(share)
        touched[f"patients without {modality}"] = len(np.unique(tables.place_of[of_it]))
    has = [m for m in shift.modalities if _events(tables.events, m).any()]
    note = "" if has else "none of these modalities"
    return Effect(replace(tables, events=tables.events[~gone]), drawn, touched, note)


def _events(events: pd.DataFrame, modality: Modality) -> NDArray[np.bool_]:
    if modality == "ehr":
        return np.asarray(np.isfinite(events["numeric_value"].to_numpy()))
    codes = events["code"].cat.categories
    start = {"image": IMAGES, "text": NOTES}[modality]
    return np.asarray(events["code"].isin([c for c in codes if c.startswith(start)]))


KIND = Kind(Missing, apply)
