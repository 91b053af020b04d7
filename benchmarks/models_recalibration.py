"""Recalibration of overconfident models on a synthetic consortium, from counts alone.

``balanced``: class weights, which raise every risk. ``overfitted``: many local epochs on few
patients, which makes risks extreme. Each is trained once and its summaries are judged with and
without the line; the figures are those of metrics.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models_bench import STUDIES, Bench, say
from reporting import Row

from clients.evaluation import logits
from federation.metrics.summary import ScoreSummary
from federation.models.build import FlatModel
from federation.study import Study, load_study
from server.judges import judge_of
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation
from simulations.consortium import synthesize

SITES, PATIENTS, SEED = 6, 500, 11
QUICK = {"sites": 3, "patients": 150}
KINDS: Mapping[str, tuple[str, ...]] = {
    "balanced": ("training.rounds=8", 'training.loss.class_weight="balanced"'),
    "overfitted": ("training.rounds=3", "training.local_epochs=25"),
}
METHODS = ("temperature", "platt")
FIGURES = ("auroc", "brier", "ece", "calibration_slope", "calibration_intercept")


def measure(quick: bool, folder: Path) -> list[Row]:
    """Train each kind of overconfident model, and judge it before and after."""
    sites, patients = (QUICK["sites"], QUICK["patients"]) if quick else (SITES, PATIENTS)
    place = folder / f"recalibration-{sites}-{patients}-{SEED}"
    if not (place / "truth.json").exists():
        synthesize(place, sites=sites, patients=patients, seed=SEED, image_size=16)
        for number, site in enumerate(sorted(place.glob("*/site.toml"))):
            (site.parent / "state").mkdir(exist_ok=True)
            (site.parent / "state" / "patient.key").write_text(f"{SEED + number:064x}")
    with Bench.of(place) as bench:
        return [row for kind in KINDS for row in _rows(bench, kind, quick)]


def _study(kind: str, method: str | None) -> Study:
    changes = [
        "modalities={ehr={}, text={}}",
        "evaluation={every=0, subgroups=[]}",
        "split.fractions={train=0.4,tuning=0.3,held_out=0.3}",
        "strategy.minimum_sites=1",
        *KINDS[kind],
    ]
    if method is not None:
        changes.append(f"evaluation.recalibration.method={method}")
    return load_study(STUDIES / "synthetic.toml", changes)


def _rows(bench: Bench, kind: str, quick: bool) -> list[Row]:
    plain = _study(kind, None)
    tested = _scored(bench, plain, bench.train(plain))
    cells = {"raw": judge_of(plain).model(tested)["overall"]}
    lines = {}
    for method in METHODS:
        found = judge_of(_study(kind, method)).model(tested)
        cells[method], lines[method] = found["overall"], found["recalibration"]
    rows = []
    for name, cell in cells.items():
        told = _told(cell, lines.get(name))
        say(f"recalibration: {kind} {name}: {told}")
        start = f"models/recalibration/{kind}/{name}"
        rows += [Row(f"{start}/{figure}", cell[figure]["value"]) for figure in FIGURES]
        if name != "raw":
            same = cell["auroc"] == cells["raw"]["auroc"]
            better = cell["ece"]["value"] < cells["raw"]["ece"]["value"]
            rows.append(Row(f"{start}/same_auroc", float(same), 1.0, holds=same, note=told))
            rows.append(
                Row(
                    f"{start}/ece_gained",
                    cells["raw"]["ece"]["value"] - cell["ece"]["value"],
                    0.0,
                    holds=None if quick else better,
                    note="above the goal",
                )
            )
    return rows


def _scored(bench: Bench, study: Study, model: FlatModel) -> Scored:
    """What the sites send of a model, without suppression."""
    sent: dict[str, list[SiteEvaluation]] = {"held_out": [], "tuning": []}
    for site, cohort in bench.cohorts(study).items():
        for split, found in sent.items():
            rows = cohort.patients.splits[split]
            scores = logits(model, cohort, rows).sigmoid().numpy()
            summary = ScoreSummary.from_scores(scores, cohort.patients.labels[rows])
            found.append(SiteEvaluation(site, {"": summary}, {}))
    return Scored(sent["held_out"], sent["tuning"], {})


def _told(cell: Mapping[str, Any], line: Mapping[str, Any] | None) -> str:
    """The figures with their intervals, and the line."""
    told = [
        f"{name} {one['value']:.3f}"
        + (f" ({one['low']:.3f} to {one['high']:.3f})" if one.get("low") is not None else "")
        for name in FIGURES
        for one in (cell[name],)
    ]
    moved = "" if line is None else f"; slope {line['slope']}, intercept {line['intercept']}"
    return f"{cell['n']} patients, {cell['positives']} with the outcome: {', '.join(told)}{moved}"
