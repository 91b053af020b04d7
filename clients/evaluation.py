"""Local scoring: from a site's patients to suppressed summaries."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clients.site import PolicySection
from clients.workbench import Cohort
from federation.bodies import EvaluateBody
from federation.metrics.summary import ScoreSummary
from federation.metrics.suppression import withheld_cells
from federation.models.build import FlatModel
from federation.study import Split, Study

CHUNK = 512


def evaluate_locally(
    model: FlatModel, cohort: Cohort, study: Study, split: Split, policy: PolicySection
) -> EvaluateBody:
    """Score one split and summarise it, for the site and, on the held-out split, its subgroups."""
    rows = cohort.patients.splits[split]
    scores, labels = predict(model, cohort, rows), cohort.patients.labels[rows]
    members: dict[str, NDArray[np.bool_]] = {"": np.ones(len(rows), bool)}
    sizes: dict[str, dict[str, int]] = {}
    if split == "held_out":
        for attribute in study.evaluation.subgroups:
            if attribute not in cohort.patients.subgroups:
                continue
            levels = cohort.patients.subgroups[attribute][rows]
            sizes[attribute] = {
                str(v): int(n) for v, n in zip(*np.unique(levels, return_counts=True), strict=True)
            }
            members |= {f"{attribute}={level}": levels == level for level in sizes[attribute]}
    withheld = withheld_cells(len(rows), sizes, policy.minimum_cell)
    if "" in withheld:
        return EvaluateBody(cells={}, withheld=withheld)
    cells = {}
    for name, inside in members.items():
        if name in withheld:
            continue
        summary = ScoreSummary.from_scores(scores[inside], labels[inside])
        if policy.score_bins == "merged":
            summary = summary.merged(policy.minimum_cell)
        cells[name] = summary.to_json()
    return EvaluateBody(cells=cells, withheld=withheld)


def predict(model: FlatModel, cohort: Cohort, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return predicted risks in [0, 1], (rows,) float64."""
    model.module.eval()
    device = model.device
    with torch.no_grad():
        logits = [
            model.module(*cohort.inputs(chunk, device)).double().cpu()
            for chunk in torch.split(torch.from_numpy(rows), CHUNK)
        ]
    scores: NDArray[np.float64] = torch.sigmoid(torch.cat(logits)).numpy()
    return scores
