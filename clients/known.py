"""Outcomes that are known of some patients alone: which of their labels are used, and which leave.

Beside one outcome, another that is known of nearly the same patients tells of those few in whom
they differ. So labels are left out until nobody is alone in that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from federation.metrics.suppression import apart_enough, withheld_outcomes
from federation.tasks import Task

logger = logging.getLogger("wardround.site")

Labels = NDArray[np.float32]
Members = Mapping[str, NDArray[np.bool_]]


def taught_labels(labels: Labels, train: NDArray[np.int64], task: Task, minimum: int) -> Labels:
    """Return labels without those of outcomes that too few training patients have.

    What those few moved, the outcome's own weights in the last layer, would leave with the update.

    Args:
        labels: of all patients of a site.
        train: rows of those who train.
        task: the study's.
        minimum: the site's ``minimum_cell``.
    """
    few = {
        name: columns
        for name, columns in task.apart.items()
        if 0 < int(_known(labels[train], columns).sum()) < minimum
    }
    if not few:
        return labels
    logger.warning(
        "not trained, for fewer than %d training patients have a label: %s", minimum, ", ".join(few)
    )
    labels = labels.copy()
    for columns in few.values():
        _wide(labels)[train, columns] = np.nan
    return labels


def told_labels(labels: Labels, order: NDArray[np.int64], task: Task, minimum: int) -> Labels:
    """Return labels as an evaluation counts them.

    An outcome that is not known of 1 to ``minimum - 1`` patients is left out of more, until so
    many lack it. One that is known of so few who lack another is left out of those. The choice
    follows from who has which label, and from the pseudonyms, so it is the same for every model.

    Args:
        labels: (patients,) or (patients, columns) of a split.
        order: (patients,) rows, in an order that says nothing.
        task: the study's.
        minimum: the site's ``minimum_cell``.
    """
    if not task.apart:
        return labels
    known = np.stack([_known(labels, columns) for columns in task.apart.values()], 1)
    told = apart_enough(known, order, minimum)
    if (told == known).all():
        return labels
    labels = labels.copy()
    for k, columns in enumerate(task.apart.values()):
        _wide(labels)[~told[:, k], columns] = np.nan
    return labels


def outcomes_withheld(
    task: Task, labels: Labels, members: Members, withheld: Mapping[str, str], minimum: int
) -> dict[str, dict[str, str]]:
    """Which outcomes do not leave, by cell, because not all patients have a label of them.

    Args:
        task: the study's.
        labels: of the patients of a split, as ``told_labels`` returns them.
        members: who belongs to each cell, by its name: (patients,) each.
        withheld: the cells that do not leave at all.
        minimum: the site's ``minimum_cell``.
    """
    known = {name: _known(labels, columns) for name, columns in task.apart.items()}
    return withheld_outcomes(known, members, withheld, minimum) if known else {}


def _known(labels: Labels, columns: slice) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(_wide(labels)[:, columns]).all(axis=1))


def _wide(labels: Labels) -> Labels:
    return labels[:, np.newaxis] if labels.ndim == 1 else labels
