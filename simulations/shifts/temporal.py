"""Temporal drift: another shift that grows with the patients' prediction times at a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.stats import rankdata

from simulations.shifts import concept, covariate, prevalence
from simulations.shifts.concept import Concept
from simulations.shifts.covariate import Covariate
from simulations.shifts.kind import Effect, Floats, Kind, Scope, ShiftSection
from simulations.shifts.prevalence import Prevalence
from simulations.shifts.tables import SiteTables

GROWING: dict[str, tuple[type[ShiftSection], Callable[[Any, SiteTables, Scope, Floats], Effect]]]
GROWING = {
    "concept": (Concept, concept.redraw),
    "covariate": (Covariate, covariate.drift),
    "prevalence": (Prevalence, prevalence.tilt),
}


class Temporal(ShiftSection):
    """``kind = "temporal"``: the shift ``of`` grows from nothing to its whole.

    It is absent for a site's first patient, whole for the last, and grows with the rank of the
    prediction time, whatever period the data cover.
    """

    kind: Literal["temporal"]
    of: Concept | Covariate | Prevalence = Field(discriminator="kind")
    """Its own ``strength`` multiplies; it acts at the sites of this one."""


def apply(shift: Temporal, tables: SiteTables, scope: Scope) -> Effect:
    """Apply the other shift with each patient's own weight."""
    times = tables.patients["prediction_time"].to_numpy()
    if len(np.unique(times)) < 2:
        return Effect(tables, {}, {}, "all prediction times are the same")
    ranks = rankdata(times.astype(np.int64))
    weight = (ranks - ranks.min()) / (ranks.max() - ranks.min())
    _, act = GROWING[shift.of.kind]
    return act(shift.of, tables, scope, weight)


KIND = Kind(Temporal, apply)
