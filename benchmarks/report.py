"""What the report of a large run costs: 100 hospitals, 12 subgroups, 100 rounds, local models.

The run folder is made up: 400 held-out patients a hospital, in fine bins; each hospital's own model
is tested at every other. Measured is what ``wardround report`` does, from the files to the page and
the model card, in a process that has done nothing before, the fastest of three. A quick run has 20
hospitals.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from reporting import Row, parser, publish

from federation.metrics.summary import ScoreSummary
from federation.metrics.threshold import Threshold
from federation.study import load_study
from server.evaluator import evaluate_local_models, evaluate_model, metrics_document
from server.operating import Operating
from server.run_folder import RunFolder
from server.site_evaluation import SiteEvaluation

SITES, PATIENTS, ROUNDS = 100, 400, 100
LEVELS = {"sex": 2, "age_band": 5, "ethnicity": 5}
GOAL_SECONDS, GOAL_BYTES = 5.0, 6_000_000
STUDY = Path(__file__).resolve().parents[1] / "examples/studies/synthetic.toml"
AT = Operating(Threshold(0.2), told={"rule": "fixed", "value": 0.2})


def main() -> None:
    """Measure, print, and write."""
    options = parser(__doc__).parse_args()
    sites = SITES // 5 if options.quick else SITES
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", sites)
        seconds = min(_reported(run) for _ in range(3))
        size = (run / "report.html").stat().st_size
    note = f"{sites} hospitals, {sum(LEVELS.values())} subgroups, {ROUNDS} rounds, cross-site"
    timely = None if options.quick else seconds < GOAL_SECONDS
    small = None if options.quick else size < GOAL_BYTES
    publish(
        [
            Row("report/seconds", seconds, GOAL_SECONDS, 0.0, timely, note),
            Row("report/bytes", size, GOAL_BYTES, 0.0, small, "report.html"),
        ],
        options.json,
    )


def write_run(path: Path, sites: int) -> Path:
    """A run folder of so many hospitals with all that a report shows; returns its path."""
    names = [f"hospital-{k:03d}" for k in range(sites)]
    rng = np.random.default_rng(1)
    federated = [_evaluation(name, rng, with_subgroups=True) for name in names]
    trained = {name: [_evaluation(one, rng) for one in names] for name in names}
    local, cross_site = evaluate_local_models(trained, AT)
    models = {"federated": evaluate_model(federated, AT), "local": local}
    study = load_study(STUDY, [f"training.rounds={ROUNDS}"])
    folder = RunFolder(path, study)
    folder.write_study()
    folder.write_environment({"grid": "LocalGrid", "seconds": None})
    folder.write_json(
        "metrics.json",
        metrics_document(study.study.name, study.fingerprint, 42, models, cross_site),
    )
    sent = {one.site: _sent(one) for one in federated}
    folder.write_json("summaries.json", {"models": {"federated": {"sites": sent}}})
    folder.write_json("privacy.json", {"mechanism": "none", "sites": {}})
    counts = {"train": 3 * PATIENTS, "tuning": PATIENTS, "held_out": PATIENTS}
    described = {"patients": counts, "modalities": {"ehr": 5 * PATIENTS}, "excluded": {}}
    folder.write_json("sites.json", {name: described for name in names})
    for number in range(1, ROUNDS + 1):
        folder.append_round(_round(number, names, rng))
    return path


def _reported(run: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "wardround", "report", str(run)], check=True, capture_output=True
    )
    return time.perf_counter() - began


def _evaluation(
    site: str, rng: np.random.Generator, with_subgroups: bool = False
) -> SiteEvaluation:
    labels = (rng.random(PATIENTS) < 0.3).astype(int)
    scores = 1 / (1 + np.exp(1 - 1.4 * labels - rng.normal(size=PATIENTS)))
    cells = {"": ScoreSummary.from_scores(scores, labels)}
    for attribute, levels in LEVELS.items() if with_subgroups else ():
        level = rng.integers(0, levels, PATIENTS)
        for k in range(levels):
            cells[f"{attribute}=level-{k}"] = ScoreSummary.from_scores(
                scores[level == k], labels[level == k]
            )
    return SiteEvaluation(site, cells, {})


def _sent(one: SiteEvaluation) -> dict[str, Any]:
    return {"cells": {name: cell.to_json() for name, cell in one.cells.items()}, "withheld": {}}


def _round(number: int, names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    gone = {str(name): "no answer within 600 s" for name in rng.choice(names, 3, replace=False)}
    areas = dict(zip(names, rng.uniform(0.7, 0.9, len(names)).tolist(), strict=True))
    return {
        "round": number,
        "loss": 1 / number,
        "metrics": {"auroc": 0.8},
        "site_metrics": {name: {"auroc": area} for name, area in areas.items()},
        "asked": names,
        "answered": [name for name in names if name not in gone],
        "failed": gone,
        "seconds": 1.0,
        "bytes": {"sent": 1_000_000, "received": 1_000_000},
    }


if __name__ == "__main__":
    main()
