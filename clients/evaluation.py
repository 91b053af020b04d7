"""Local scoring: from a site's patients to suppressed summaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.cohort import Patients
from clients.inputs import inputs_by_window
from clients.known import outcomes_withheld, told_labels
from clients.site import PolicySection
from clients.training import losses_of
from clients.workbench import Cohort
from federation.bodies import LARGEST_LOSS, EvaluateBody, Inputs, PairedBody
from federation.metrics.grid import UNCHANGED, Line, bins_of
from federation.metrics.outcomes import OutcomesSummary
from federation.metrics.paired import auroc_correlation
from federation.metrics.recalibration import FEWEST_EVENTS
from federation.metrics.several import SeveralSummary
from federation.metrics.summaries import Summary
from federation.metrics.summary import ScoreSummary
from federation.metrics.suppression import reason, withheld_cells
from federation.models.build import FlatModel, Vector
from federation.study import Split, Study
from federation.subgroups import WHOLE_SITE, WINDOW, is_window
from federation.tasks import Task
from federation.vocabulary import Vocabulary
from federation.windows import WindowsSection

CHUNK = 512


class Drift(NamedTuple):
    """What is told by window of time.

    Attributes:
        windows: the study's.
        vocabulary: of the health records; None if the study has none.
    """

    windows: WindowsSection
    vocabulary: Vocabulary | None


def evaluate_locally(
    model: FlatModel,
    cohort: Cohort,
    study: Study,
    split: Split,
    policy: PolicySection,
    line: Line = UNCHANGED,
    reference: Vector | None = None,
    drift: Drift | None = None,
) -> EvaluateBody:
    """Score one split and summarise it, for the site and, on the held-out split, its subgroups.

    Args:
        model: loaded with the weights to score.
        cohort: the site's.
        study: names the subgroups.
        split: which patients.
        policy: the site's.
        line: through the model's logits: what a site's own calibration makes of them.
        reference: weights of a second model to compare it with, on all patients of the split.
        drift: what to tell by window of time; None for nothing.
    """
    rows = cohort.patients.splits[split]
    scores = predict(model, cohort, rows, study.task, line)
    order = np.argsort(cohort.patients.subject_ids[rows], kind="stable")
    labels = told_labels(cohort.patients.labels[rows], order, study.task, policy.minimum_cell)
    members = _members(cohort.patients, rows, study, split)
    if drift is not None:
        window = drift.windows.of(cohort.patients.times[rows])
        members |= {f"{WINDOW}={number}": window == number for number in np.unique(window)}
    withheld = withheld_cells(len(rows), _sizes(members), policy.minimum_cell)
    cells = _cells(study.task, scores, labels, members, withheld, policy)
    inputs: Inputs = {}
    if drift is not None:
        told = {name: inside for name, inside in members.items() if name in cells}
        inside = {name: which for name, which in told.items() if is_window(name)}
        inputs = inputs_by_window(
            cohort, study, drift.vocabulary, rows, inside, policy.minimum_cell
        )
    if reference is None or not cells:
        return EvaluateBody(cells=cells, withheld=withheld, inputs=inputs)
    model.load(reference)
    second = predict(model, cohort, rows, study.task)
    paired = PairedBody(
        reference=_as_allowed(study.task.summarise(second, labels), policy).to_json(),
        correlation=auroc_correlation(
            _bins(scores, labels, policy), _bins(second, labels, policy), labels
        ),
    )
    return EvaluateBody(cells=cells, withheld=withheld, paired=paired, inputs=inputs)


def evaluate_existing_score(
    patients: Patients, study: Study, split: Split, policy: PolicySection
) -> EvaluateBody:
    """Summarise the score that a site holds already, of the patients who have one.

    Beside the model's cells, these tell by subtraction how many patients have no score, and how
    many of them the outcome. So an attribute is withheld if that would be fewer than
    ``minimum_cell`` patients of a level, and all if it would be of the site.

    Args:
        patients: the site's, with their events.
        study: names the score, and the subgroups.
        split: which patients.
        policy: the site's.
    """
    assert study.evaluation.existing_score is not None
    scores = last_risks(patients, study.evaluation.existing_score)
    everybody = patients.splits[split]
    rows = everybody[np.isfinite(scores[everybody])]
    minimum = policy.minimum_cell
    if len(rows) < minimum or 0 < len(everybody) - len(rows) < minimum:
        return EvaluateBody(cells={}, withheld={WHOLE_SITE: f"fewer than {minimum} patients"})
    members = _members(patients, rows, study, split)
    sizes, whole = _sizes(members), _sizes(_members(patients, everybody, study, split))
    withheld = withheld_cells(len(rows), sizes, minimum)
    for attribute, levels in whole.items():
        missing = [count - sizes[attribute].get(level, 0) for level, count in levels.items()]
        if any(0 < count < minimum for count in missing):
            withheld |= {f"{attribute}={level}": reason(minimum) for level in sizes[attribute]}
    cells = _cells(study.task, scores[rows], patients.labels[rows], members, withheld, policy)
    return EvaluateBody(cells=cells, withheld=withheld)


def last_risks(patients: Patients, code: str) -> NDArray[np.float64]:
    """Each patient's last value of a code before the prediction time: (patients,).

    Not a number where a patient has none, or the last is no risk from 0 to 1.
    """
    found = np.full(len(patients), np.nan)
    events = patients.events[patients.events["code"] == code]
    # oldest first, so that the last one stays
    found[events["row"].to_numpy()] = events["numeric_value"].to_numpy(np.float64)
    return np.where((found >= 0) & (found <= 1), found, np.nan)


def _members(
    patients: Patients, rows: NDArray[np.int64], study: Study, split: Split
) -> dict[str, NDArray[np.bool_]]:
    """Who of some rows belongs to each cell, by its name: (rows,) each."""
    members: dict[str, NDArray[np.bool_]] = {WHOLE_SITE: np.ones(len(rows), bool)}
    if split != "held_out":
        return members
    for attribute in study.evaluation.subgroups:
        if attribute in patients.subgroups:
            levels = patients.subgroups[attribute][rows]
            members |= {f"{attribute}={level}": levels == level for level in np.unique(levels)}
    return members


def _sizes(members: dict[str, NDArray[np.bool_]]) -> dict[str, dict[str, int]]:
    """Patients by attribute and level."""
    sizes: dict[str, dict[str, int]] = {}
    for name, inside in members.items():
        if name != WHOLE_SITE:
            attribute, _, level = name.partition("=")
            sizes.setdefault(attribute, {})[level] = int(inside.sum())
    return sizes


def _cells(
    task: Task,
    scores: NDArray[np.float64],
    labels: NDArray[np.float32],
    members: dict[str, NDArray[np.bool_]],
    withheld: Mapping[str, str],
    policy: PolicySection,
) -> dict[str, dict[str, Any]]:
    """The summaries of the cells that may leave."""
    if WHOLE_SITE in withheld:
        return {}
    unknown = outcomes_withheld(task, labels, members, withheld, policy.minimum_cell)
    cells = {}
    for name, inside in members.items():
        if name in withheld:
            continue
        summary = task.summarise(scores[inside], labels[inside])
        if isinstance(summary, OutcomesSummary | SeveralSummary):
            summary = summary.without(unknown.get(name, {}))
            summary = summary if name == WHOLE_SITE else summary.of_subgroup()
        cells[name] = _as_allowed(summary, policy).to_json()
    return cells


def _as_allowed(summary: Summary, policy: PolicySection) -> Summary:
    """The summary as the site's policy lets it leave."""
    return summary.merged(policy.minimum_cell) if policy.score_bins == "merged" else summary


def _bins(
    scores: NDArray[np.float64], labels: NDArray[np.float32], policy: PolicySection
) -> NDArray[np.int64]:
    """The bin in which each patient leaves; a correlation tells of nothing finer."""
    bins = bins_of(scores)
    if policy.score_bins == "fine":
        return bins
    return ScoreSummary.from_scores(scores, labels).places(policy.minimum_cell)[bins]


def predict(
    model: FlatModel,
    cohort: Cohort,
    rows: NDArray[np.int64],
    task: Task,
    line: Line = UNCHANGED,
) -> NDArray[np.float64]:
    """Return predicted risks in [0, 1], as the task has them: (rows,) or (rows, scores) float64."""
    found = logits(model, cohort, rows) * line.slope + line.intercept
    scores: NDArray[np.float64] = task.scores(found).numpy()
    return scores


def logits(model: FlatModel, cohort: Cohort, rows: NDArray[np.int64]) -> Tensor:
    """Return what the model makes of some patients, (rows,) or (rows, outputs) float64."""
    model.module.eval()
    with torch.no_grad():
        found = [
            model.module(*cohort.inputs(chunk, model.device)).double().cpu()
            for chunk in torch.split(torch.from_numpy(rows), CHUNK)
        ]
    return torch.cat(found)


def mean_loss(model: FlatModel, weights: Vector, cohort: Cohort, study: Study) -> float:
    """Return the loss that training would begin with, of all training patients."""
    rows = cohort.patients.splits["train"]
    labels = cohort.labels[torch.from_numpy(rows)]
    model.load(weights)
    losses = losses_of(study, labels)(logits(model, cohort, rows), labels.double())
    return min(float(losses.mean()), LARGEST_LOSS)


def fitted_line(model: FlatModel, cohort: Cohort) -> Line:
    """Fit slope and intercept to the logits of the tuning split, by logistic regression.

    With too few patients of either class the logits stay as they are; and where the fit would turn
    their order around, which is no calibration but chance in a small split.

    Source: Platt, 1999.
    """
    rows = cohort.patients.splits["tuning"]
    labels = cohort.patients.labels[rows]
    if min(np.sum(labels == 1), np.sum(labels == 0)) < FEWEST_EVENTS:
        return UNCHANGED
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=np.inf).fit(
        logits(model, cohort, rows).numpy().reshape(-1, 1), labels
    )
    slope = float(fitted.coef_[0, 0])
    return Line(slope, float(fitted.intercept_[0])) if slope > 0 else UNCHANGED
