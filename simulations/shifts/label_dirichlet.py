"""Class shares drawn from a Dirichlet distribution, as in many papers on uneven clients."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection, rounded
from simulations.shifts.tables import SiteTables


class LabelDirichlet(ShiftSection):
    """``kind = "label_dirichlet"``: shares of the classes from Dirichlet(2 alpha p / strength).

    p are the site's own shares, so the mean stays and the spread grows. Patients do not move
    between sites: each site takes away whom it has too many of.
    """

    kind: Literal["label_dirichlet"]
    alpha: float = Field(default=3.0, gt=0, le=1000)
    """Smaller is more uneven."""


def apply(shift: LabelDirichlet, tables: SiteTables, scope: Scope) -> Effect:
    """Take away patients of one class until the shares are those drawn.

    Source: Hsu, Qi and Brown, 2019, with one client's shares at a time.
    """
    labels = tables.patients["label"].to_numpy()
    counts = np.bincount(labels, minlength=2)
    if counts.min() == 0:
        return Effect(tables, {}, {}, "patients of one class only")
    concentration = 2 * shift.alpha / scope.strength * counts / counts.sum()
    shares = scope.random("shares").dirichlet(concentration)
    rarer = int(shares[0] > counts[0] / counts.sum())
    wanted = counts[1 - rarer] * shares[rarer] / max(shares[1 - rarer], 1e-12)
    order = scope.random("patients").permutation(np.flatnonzero(labels == rarer))
    stays = np.ones(len(labels), bool)
    stays[order[round(wanted) :]] = False
    drawn = {"prevalence": rounded(shares[1])}
    return Effect(tables.keep(stays), drawn, {"patients taken away": int((~stays).sum())})


KIND = Kind(LabelDirichlet, apply, None)
