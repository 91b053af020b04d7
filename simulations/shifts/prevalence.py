"""Label prevalence: each site's odds of the outcome are multiplied by a factor of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from simulations.hospitals import Hospital, sigmoid, solve_offset
from simulations.shifts.kind import Effect, Floats, Kind, Place, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables


class Prevalence(ShiftSection):
    """``kind = "prevalence"``: the logit of each site's prevalence moves by strength * N(0, sd)."""

    kind: Literal["prevalence"]
    sd: float = Field(default=1.0, gt=0, le=5)
    """Standard deviation between sites, in logits."""


def apply(shift: Prevalence, tables: SiteTables, scope: Scope) -> Effect:
    """Take away patients of one class; see ``tilt``."""
    return tilt(shift, tables, scope, np.ones(len(tables.patients)))


def tilt(shift: Prevalence, tables: SiteTables, scope: Scope, weight: Floats) -> Effect:
    """Multiply the odds of the outcome by exp(weight * logit).

    A patient of the class that becomes rarer stays with probability exp(-weight * |logit|), which
    moves the logit of the prevalence by just that, and leaves what the classes look like alone.

    Args:
        shift: its section.
        tables: of the site.
        scope: of the shift here.
        weight: (patients,) in [0, 1].
    """
    logit = _logit(shift, scope)
    labels = tables.patients["label"].to_numpy()
    rarer = labels == (0 if logit > 0 else 1)
    chance = scope.random("patients").random(len(labels))
    stays = ~rarer | (chance < np.exp(-weight * abs(logit)))
    return Effect(
        tables.keep(stays), {"logit": rounded(logit)}, {"patients taken away": int((~stays).sum())}
    )


def in_profile(
    shift: Prevalence, hospital: Hospital, scope: Scope, place: Place
) -> tuple[Hospital, Mapping[str, Any]]:
    """Change the hospital's expected prevalence; nobody is taken away."""
    logit = _logit(shift, scope)
    odds = np.log(hospital.prevalence / (1 - hospital.prevalence))
    changed = replace(hospital, prevalence=rounded(sigmoid(odds + logit)))
    changed = replace(changed, offset=solve_offset(changed, place.index, place.seed))
    return changed, {"logit": rounded(logit), "prevalence": changed.prevalence}


def _logit(shift: Prevalence, scope: Scope) -> float:
    return scope.strength * shift.sd * float(scope.random("logit").standard_normal())


KIND = Kind(Prevalence, apply, in_profile)
