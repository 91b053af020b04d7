"""Case mix: who comes to a site, by age, sex, ethnicity and comorbidity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from simulations.hospitals import Hospital, expected_prevalence, sigmoid
from simulations.shifts.attributes import attributes
from simulations.shifts.kind import Effect, Floats, Kind, Place, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables

Attribute = Literal["age", "sex", "ethnicity", "comorbidity"]
YEARS = 8.0
"""How many years of age one standard deviation of a synthetic hospital's draw is."""


class CaseMix(ShiftSection):
    """``kind = "case_mix"``: each site prefers patients of its own kind."""

    kind: Literal["case_mix"]
    attributes: tuple[Attribute, ...] = Field(
        default=("age", "sex", "ethnicity", "comorbidity"), min_length=1
    )
    sd: float = Field(default=1.0, gt=0, le=5)
    """Standard deviation between sites of the preference, in logits a standard deviation."""
    loses: float = Field(default=0.5, gt=0, lt=1)
    """The share of a site's patients that are taken away at strength 1."""
    comorbidities: tuple[str, ...] = Field(default=("ICD",), min_length=1)
    """How codes of diagnoses begin; a patient's comorbidity is how many of them it has."""


def apply(shift: CaseMix, tables: SiteTables, scope: Scope) -> Effect:
    """Take away patients, those unlike the site's preference first.

    Patients are drawn without replacement with weights exp(preference), which is the order of
    preference + Gumbel noise (Efraimidis and Spirakis, 2006).
    """
    known = attributes(tables, shift.comorbidities)
    preference, drawn = np.zeros(len(tables.patients)), {}
    for name in shift.attributes:
        for level, column in _features(name, known[name]).items():
            weight = scope.strength * shift.sd * scope.random(level).standard_normal()
            preference += weight * column
            drawn[level] = rounded(weight)
    if not drawn:
        return Effect(tables, {}, {}, "no attribute of its patients differs between them")
    order = np.argsort(-(preference + scope.random("patients").gumbel(size=len(preference))))
    stays = np.zeros(len(order), bool)
    stays[order[: round(len(order) * (1 - scope.strength * shift.loses))]] = True
    return Effect(tables.keep(stays), drawn, {"patients taken away": int((~stays).sum())})


def in_profile(
    shift: CaseMix, hospital: Hospital, scope: Scope, place: Place
) -> tuple[Hospital, Mapping[str, Any]]:
    """Change whom the hospital admits; risk follows from the patients, so prevalence does too."""
    drawn: dict[str, Any] = {
        name: rounded(scope.strength * shift.sd * scope.random(name).standard_normal())
        for name in shift.attributes
        if name != "ethnicity"
    }
    female = sigmoid(np.log(hospital.female / (1 - hospital.female)) + drawn.get("sex", 0.0))
    changed = replace(
        hospital,
        age=rounded(hospital.age + YEARS * drawn.get("age", 0.0)),
        female=rounded(female),
        history=rounded(hospital.history + 0.5 * drawn.get("comorbidity", 0.0)),
    )
    if "ethnicity" in shift.attributes:
        tilts = scope.random("ethnicity").standard_normal(len(hospital.ethnicity))
        shares = np.array(hospital.ethnicity) * np.exp(scope.strength * shift.sd * tilts)
        changed = replace(
            changed, ethnicity=tuple(round(float(s), 4) for s in shares / shares.sum())
        )
        drawn["ethnicity"] = changed.ethnicity
    expected = expected_prevalence(changed, place.index, place.seed)
    changed = replace(changed, prevalence=rounded(expected))
    return changed, {**drawn, "prevalence": changed.prevalence}


def _features(name: str, values: Any) -> Mapping[str, Floats]:
    """Standardised columns of one attribute: itself if it is a number, else one for each level."""
    if name in ("age", "comorbidity"):
        given = ~np.isnan(values)
        columns = {name: np.where(given, values, values[given].mean())} if given.any() else {}
    else:
        columns = {f"{name}={level}": (values == level) * 1.0 for level in sorted(set(values))}
    return {
        key: (column - column.mean()) / column.std()
        for key, column in columns.items()
        if column.std() > 0
    }


KIND = Kind(CaseMix, apply, in_profile)
