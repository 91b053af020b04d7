"""Class shares drawn from a Dirichlet distribution, as in many papers on uneven clients."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from federation.tasks import BinaryTask, MulticlassTask, Task
from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection, rounded
from simulations.shifts.outcomes import class_names
from simulations.shifts.tables import SiteTables


class LabelDirichlet(ShiftSection):
    """``kind = "label_dirichlet"``: shares of K classes from Dirichlet(K alpha p / strength).

    p are the site's own shares, so the mean stays and the spread grows. Patients do not move
    between sites: each site takes away whom it has too many of.
    """

    kind: Literal["label_dirichlet"]
    alpha: float = Field(default=3.0, gt=0, le=1000)
    """Smaller is more uneven."""


def apply(shift: LabelDirichlet, tables: SiteTables, scope: Scope) -> Effect:
    """Take away patients of all classes but one until the shares are those drawn.

    Classes that nobody at the site has stay so.

    Source: Hsu, Qi and Brown, 2019, with one client's shares at a time.
    """
    labels = tables.patients["label"].to_numpy()
    names = class_names(tables.task)
    counts = np.bincount(labels, minlength=len(names))
    there = np.flatnonzero(counts)
    if len(there) < 2:
        return Effect(tables, {}, {}, "patients of one class only")
    concentration = len(there) * shift.alpha / scope.strength * counts[there] / counts.sum()
    shares = np.zeros(len(names))
    shares[there] = np.maximum(scope.random("shares").dirichlet(concentration), 1e-12)
    total = (counts[there] / shares[there]).min()
    stays, rng = np.ones(len(labels), bool), scope.random("patients")
    for k in there:
        order = rng.permutation(np.flatnonzero(labels == k))
        stays[order[round(total * shares[k]) :]] = False
    drawn = {name: rounded(share) for name, share in zip(names, shares, strict=True)}
    return Effect(
        tables.keep(stays), {"shares": drawn}, {"patients taken away": int((~stays).sum())}
    )


def _unfit(shift: LabelDirichlet, task: Task) -> str:
    if isinstance(task, BinaryTask | MulticlassTask):
        return ""
    return 'a patient is in no single class here; "prevalence" moves such outcomes'


KIND = Kind(LabelDirichlet, apply, unfit=_unfit)
