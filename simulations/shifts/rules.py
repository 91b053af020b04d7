"""Labels that follow rules of a site's own, at the shares that its patients had before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from clients.label_values import value_columns
from federation.tasks import MulticlassTask, MultilabelTask, SurvivalTask, Task
from simulations.hospitals import offset_to, sigmoid
from simulations.shifts.kind import Floats
from simulations.shifts.tables import SiteTables

Drawn = Mapping[str, Floats]
STEPS = 60


def rule_names(task: Task) -> tuple[str, ...]:
    """Return what there is a rule of: every class, every finding, or the only outcome."""
    if isinstance(task, MulticlassTask):
        return task.classes
    return task.labels if isinstance(task, MultilabelTask) else (task.label,)


def drawn_by_rule(
    tables: SiteTables, scores: Floats, anew: NDArray[np.bool_], rng: np.random.Generator
) -> Drawn:
    """Draw labels of some patients by rules.

    An outcome, and each finding that is known, has the probability sigmoid(a + score), with a such
    that its expected share stays; a class softmax(a + scores), likewise. Times to an outcome, with
    their ends, are dealt out anew among the patients drawn, so that hazards are proportional to
    exp(score) and the times stay those of the site.

    Args:
        tables: of the site.
        scores: (rules, patients), in logits.
        anew: (patients,) whose labels are drawn.
        rng: of the draws.

    Returns:
        (patients,) by column of values.
    """
    task, patients = tables.task, tables.patients
    columns = value_columns(task)
    before = {name: patients[name].to_numpy(np.float64) for name in columns}
    if isinstance(task, SurvivalTask):
        days, event = (before[name] for name in columns)
        rows = np.flatnonzero(anew)
        order = rows[dealt(days[rows], event[rows], scores[0, rows], rng)]
        return {name: _placed(column, rows, column[order]) for name, column in before.items()}
    if isinstance(task, MulticlassTask):
        new = _classes(before[columns[0]], scores, rng)
        return {columns[0]: np.where(anew, new, before[columns[0]])}
    return {
        name: np.where(anew & ~np.isnan(column), _yes_or_no(column, score, rng), column)
        for (name, column), score in zip(before.items(), scores, strict=True)
    }


def dealt(days: Floats, event: Floats, score: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """Deal times to an outcome, or of leaving without it, out to patients by their hazards.

    From the earliest time on, an outcome goes to one of the patients who have none yet, with a
    chance in proportion to exp(score); a time without the outcome to any of them.

    Args:
        days: (patients,).
        event: (patients,) 1 where the outcome ended the days.
        score: (patients,) log hazard.
        rng: of the draws.

    Returns:
        (patients,) whose days and end each patient gets.

    Source: Sylvestre and Abrahamowicz, Statistics in Medicine 2008, the permutational algorithm.
    """
    given = np.empty(len(days), np.intp)
    left = np.arange(len(days))
    for place in np.argsort(days, kind="stable"):
        luck = rng.gumbel(size=len(left))
        chosen = int(np.argmax(luck + score[left] * event[place]))
        given[left[chosen]] = place
        left = np.delete(left, chosen)
    return given


def _placed(column: Floats, rows: NDArray[np.intp], values: Floats) -> Floats:
    changed = column.copy()
    changed[rows] = values
    return changed


def _yes_or_no(label: Floats, score: Floats, rng: np.random.Generator) -> Floats:
    chance = rng.random(len(label))
    known = ~np.isnan(label)
    if not known.any():
        return label
    offset = offset_to(float(label[known].mean()), score[known])
    return np.asarray(chance < sigmoid(score + offset), np.float64)


def _classes(label: Floats, scores: Floats, rng: np.random.Generator) -> Floats:
    """Scores are (classes, patients); a class that nobody has stays without any."""
    shares = np.array([(label == k).mean() for k in range(len(scores))])
    there = shares > 0
    logits = np.where(there[:, None], scores, -np.inf)
    for _ in range(STEPS):
        risk = np.exp(logits - logsumexp(logits, axis=0))
        logits[there] += np.log(shares[there] / risk[there].mean(1))[:, None]
    return np.asarray(np.argmax(logits + rng.gumbel(size=logits.shape), axis=0), np.float64)
