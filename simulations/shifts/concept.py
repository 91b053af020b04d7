"""Concept shift: at each site the outcome depends on the patient in another way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from simulations.hospitals import Effects, Hospital, solve_offset
from simulations.shifts.kind import Effect, Floats, Kind, Place, Scope, ShiftSection, rounded
from simulations.shifts.outcomes import told
from simulations.shifts.rules import drawn_by_rule, rule_names
from simulations.shifts.tables import SiteTables

COMMON = 0.5
"""A code with numbers is a candidate if this share of the patients has it."""
RARE = 0.05
"""A code without numbers is one if at least this share has it, and this share has it not."""


class Concept(ShiftSection):
    """``kind = "concept"``: a part of each site's labels follows a rule of the site's own."""

    kind: Literal["concept"]
    share: float = Field(default=0.6, gt=0, le=1)
    """The share of patients whose label is drawn anew at strength 1."""
    features: int = Field(default=4, gt=0, le=100)
    """How many codes the site's rule looks at."""
    slope: float = Field(default=3.0, gt=0, le=20)
    """How steep the rule is, in logits a standard deviation of its score."""
    sd: float = Field(default=0.8, gt=0, le=5)
    """Synthetic hospitals: spread of each coefficient, as a share of its usual size."""


def apply(shift: Concept, tables: SiteTables, scope: Scope) -> Effect:
    """Draw some labels anew by the site's rule."""
    return redraw(shift, tables, scope, np.ones(len(tables.patients)))


def redraw(shift: Concept, tables: SiteTables, scope: Scope, weight: Floats) -> Effect:
    """Draw labels anew by a rule of the site's own, for a random part of the patients.

    A rule's score is a random linear one of the last values of some codes before the prediction
    time (of whether a code is there, where it has no number), standardised over the site's
    patients. ``simulations.shifts.rules`` says how labels of each kind follow from it.

    Args:
        shift: its section.
        tables: of the site.
        scope: of the shift here.
        weight: (patients,) in [0, 1]; a label is drawn anew with probability
            weight * strength * share.
    """
    features = _features(tables)
    if features.empty:
        return Effect(tables, {}, {}, "no code of its events differs between its patients")
    rng, chance = scope.random("rule"), scope.random("patients")
    anew = chance.random(len(weight)) < weight * scope.strength * shift.share
    rules, scores = {}, []
    for name in rule_names(tables.task):
        chosen = rng.permutation(features.columns.to_numpy())[: shift.features]
        rule = rng.standard_normal(len(chosen))
        score = features[chosen].to_numpy() @ rule
        scores.append(shift.slope * (score - score.mean()) / (score.std() or 1.0))
        rules[name] = {str(code): rounded(w) for code, w in zip(chosen, rule, strict=True)}
    new = drawn_by_rule(tables, np.stack(scores), anew, chance)
    before = tables.patients
    moved = np.any([before[name].notna() & (before[name] != new[name]) for name in new], axis=0)
    touched = {"labels drawn anew": int(anew.sum()), "labels changed": int(moved.sum())}
    drawn = {"share": rounded(scope.strength * shift.share), "rule": told(tables.task, rules)}
    return Effect(tables.relabel(new), drawn, touched)


def in_profile(
    shift: Concept, hospital: Hospital, scope: Scope, place: Place
) -> tuple[Hospital, Mapping[str, Any]]:
    """Change the coefficients of the hospital's outcome; its expected prevalence stays."""
    usual = asdict(hospital.effects)
    factors = 1 + scope.strength * shift.sd * scope.random("effects").standard_normal(len(usual))
    effects = {name: rounded(usual[name] * f) for name, f in zip(usual, factors, strict=True)}
    changed = replace(hospital, effects=Effects(**effects))
    return replace(changed, offset=solve_offset(changed, place.index, place.seed)), effects


def _features(tables: SiteTables) -> pd.DataFrame:
    """(patients, codes) standardised last values, and whether a code without numbers is there."""
    past, patients = tables.past, range(len(tables.patients))
    past = past[past["code"].isin(tables.codes())]
    is_number = np.isfinite(past["numeric_value"].to_numpy())
    numbers, others = past[is_number], past[~past["code"].isin(past["code"][is_number].unique())]
    numbers = _had_by(numbers, COMMON * len(patients), len(patients))
    last = numbers.drop_duplicates(["patient", "code"], keep="last")
    values = last.pivot(index="patient", columns="code", values="numeric_value")
    values = values.reindex(patients).astype(np.float64)
    others = _had_by(others, RARE * len(patients), (1 - RARE) * len(patients))
    there = pd.crosstab(others["patient"], others["code"]).reindex(patients, fill_value=0) > 0
    both = pd.concat([values.fillna(values.mean()), there.astype(np.float64)], axis=1)
    both = both.sort_index(axis=1)
    spread = both.std(ddof=0)
    return ((both - both.mean()) / spread).loc[:, spread > 0]


def _had_by(events: pd.DataFrame, fewest: float, most: float) -> pd.DataFrame:
    """The events of codes that so many patients have, with the code as text."""
    patients = events.groupby("code", observed=True)["patient"].nunique()
    counts = patients.to_numpy()
    chosen = patients.index[(counts >= fewest) & (counts <= most)]
    kept = events[events["code"].isin(chosen)]
    return kept.assign(code=kept["code"].astype(str))


KIND = Kind(Concept, apply, in_profile, through_logit=True)
