"""Label prevalence: each site's odds of its outcomes are multiplied by factors of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from federation.tasks import MulticlassTask
from simulations.hospitals import Hospital, sigmoid, solve_offset
from simulations.shifts.kind import Effect, Floats, Kind, Place, Scope, ShiftSection, rounded
from simulations.shifts.outcomes import outcomes, told
from simulations.shifts.tables import SiteTables


class Prevalence(ShiftSection):
    """``kind = "prevalence"``: the logit of each site's prevalence moves by strength * N(0, sd)."""

    kind: Literal["prevalence"]
    sd: float = Field(default=1.0, gt=0, le=5)
    """Standard deviation between sites, in logits."""


def apply(shift: Prevalence, tables: SiteTables, scope: Scope) -> Effect:
    """Take away patients with the outcomes that become rarer; see ``tilt``."""
    return tilt(shift, tables, scope, np.ones(len(tables.patients)))


def tilt(shift: Prevalence, tables: SiteTables, scope: Scope, weight: Floats) -> Effect:
    """Multiply the odds of the outcomes by exp(weight * logit), by taking patients away.

    A patient stays with a probability proportional to exp(weight * sum of the logits of the
    outcomes that the patient has), and as likely as can be. So the logit of a single outcome, the
    log odds between any two classes, and the logit of each finding given the others move by just
    what was drawn, and what the classes look like stays. Of a time to an outcome it is the odds
    that the outcome was seen. Of classes, each logit has the standard deviation sd / sqrt(2), so
    that differences have sd.

    Args:
        shift: its section.
        tables: of the site.
        scope: of the shift here.
        weight: (patients,) in [0, 1].
    """
    has = outcomes(tables)
    sd = shift.sd / np.sqrt(2) if isinstance(tables.task, MulticlassTask) else shift.sd
    logits = scope.strength * sd * scope.random("logit").standard_normal(len(has))
    tilted = np.nan_to_num(np.stack(list(has.values()))).T @ logits
    chance = scope.random("patients").random(len(tilted))
    stays = chance < np.exp(weight * (tilted - tilted.max()))
    drawn = {name: rounded(logit) for name, logit in zip(has, logits, strict=True)}
    return Effect(
        tables.keep(stays),
        {"logit": told(tables.task, drawn)},
        {"patients taken away": int((~stays).sum())},
    )


def in_profile(
    shift: Prevalence, hospital: Hospital, scope: Scope, place: Place
) -> tuple[Hospital, Mapping[str, Any]]:
    """Change the hospital's expected prevalence; nobody is taken away."""
    logit = scope.strength * shift.sd * float(scope.random("logit").standard_normal())
    odds = np.log(hospital.prevalence / (1 - hospital.prevalence))
    changed = replace(hospital, prevalence=rounded(sigmoid(odds + logit)))
    changed = replace(changed, offset=solve_offset(changed, place.index, place.seed))
    return changed, {"logit": rounded(logit), "prevalence": changed.prevalence}


KIND = Kind(Prevalence, apply, in_profile, through_logit=True)
