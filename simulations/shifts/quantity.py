"""Quantity: sites of very different size, by a power law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from simulations.hospitals import Hospital
from simulations.shifts.kind import Effect, Kind, Place, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables


class Quantity(ShiftSection):
    """``kind = "quantity"``: the site of rank r keeps r^(-strength * exponent) of its patients."""

    kind: Literal["quantity"]
    exponent: float = Field(default=1.0, gt=0, le=5)


def apply(shift: Quantity, tables: SiteTables, scope: Scope) -> Effect:
    """Take patients away at random; a weaker shift keeps whom a stronger one keeps."""
    rank, share = _share(shift, scope)
    size = len(tables.patients)
    order = scope.random("patients").permutation(size)
    stays = np.zeros(size, bool)
    stays[order[: round(size * share)]] = True
    drawn = {"rank": rank, "share": rounded(share)}
    return Effect(tables.keep(stays), drawn, {"patients taken away": int((~stays).sum())})


def in_profile(
    shift: Quantity, hospital: Hospital, scope: Scope, place: Place
) -> tuple[Hospital, Mapping[str, Any]]:
    """Change how many patients the hospital has."""
    rank, share = _share(shift, scope)
    changed = replace(hospital, size=max(1, round(hospital.size * share)))
    return changed, {"rank": rank, "share": rounded(share), "patients": changed.size}


def _share(shift: Quantity, scope: Scope) -> tuple[int, float]:
    order = scope.shared_random("ranks").permutation(len(scope.sites))
    rank = 1 + int(order[scope.sites.index(scope.site)])
    return rank, float(rank ** (-scope.strength * shift.exponent))


KIND = Kind(Quantity, apply, in_profile)
