"""The example study of each kind of task, from synthetic patients to the report."""

import json
from pathlib import Path

import pytest

from federation.study import load_study
from server.report.comparison import comparison
from server.report.glossary import GLOSSARY
from server.report.run_folder import read_run_folder
from server.report.sections.outcomes import outcomes
from server.report.sections.survival import survival
from server.report.several import runs_of_tasks
from server.tracking import measured
from simulations.consortium import synthesize
from simulations.runner import simulate

STUDIES = Path(__file__).parents[2] / "examples" / "studies"
KINDS = {
    "multiclass": "synthetic-severity.toml",
    "multilabel": "synthetic-findings.toml",
    "survival": "synthetic-survival.toml",
    "several": "synthetic-several.toml",
}
CHANGES = (
    "training.rounds=2",
    'evaluation.baselines=["local"]',
    'evaluation.subgroups=["sex"]',
    "split.fractions={train=0.4,tuning=0.2,held_out=0.4}",
)
FIRST = ("c_index", "auroc", "auroc")
"""The first metrics of the tasks of ``synthetic-several.toml``, in the order of their names."""
NAMES = {"Hospital", "Subgroup", "Model", "Outcome", "Days", "True class"}
"""Columns that are no metric."""


def columns(run):
    """Return the columns of the tables that only other tasks than binary have."""
    read = read_run_folder(run)
    each = runs_of_tasks(read).values() or [read]
    shown = [section(one) for one in each for section in (outcomes, survival)]
    tables = [table for section in shown if section is not None for table in section.tables]
    return {column for table in tables for column in table.columns}


def check_several(study, metrics, rounds, page):
    """Each task stands by itself: cells, thresholds, rounds, figures."""
    federated = metrics["models"]["federated"]
    death, deterioration, severity = (federated["overall"]["tasks"][n] for n in study.task.tasks)
    assert {"c_index", "auroc_at"} < death.keys()
    assert {"auroc", "at_threshold"} < deterioration.keys()
    assert severity["classes"].keys() == set(study.task.tasks["severity"].classes)
    assert deterioration["n"] > death["n"]  # not everybody has a label of each
    assert federated["by_task"]["deterioration"]["threshold"]["value"] is not None
    assert metrics["joining"]["tasks"]["death"]["sites"].keys() == set(federated["sites"])
    for one in rounds:
        told = one["metrics"]
        firsts = [told[f"{n}.{m}"] for n, m in zip(study.task.tasks, FIRST, strict=True)]
        mean = None if None in firsts else pytest.approx(sum(firsts) / 3)
        assert told["mean"] == mean
    assert "predicts death, deterioration and severity from" in page
    assert page.count('id="death-') == 0
    assert all(f'id="deterioration-{figure}"' in page for figure in ("forest", "roc"))


@pytest.mark.parametrize("kind", KINDS)
def test_example_of_each_kind_trains_and_is_reported(kind, tmp_path):
    changes = [*CHANGES]
    if kind == "multilabel":
        changes += ["modalities.image.size=32", "evaluation.recalibration.method=platt"]
        changes += ["split.fractions={train=0.3,tuning=0.4,held_out=0.3}"]
    study = load_study(STUDIES / KINDS[kind], changes)
    sites = tmp_path / "sites"
    synthesize(sites, sites=2, patients=90, seed=4, image_size=16, task=kind)
    site = sites / "st-elsewhere" / "site.toml"
    site.write_text(site.read_text().replace('"fine"', '"merged"'))
    runs = [tmp_path / "run", tmp_path / "again"][: 2 if kind == "survival" else 1]
    for run in runs:
        simulate(study, sites, run, workers=0)
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    assert json.loads((runs[-1] / "metrics.json").read_text()) == metrics
    federated = metrics["models"]["federated"]
    overall = federated["overall"]
    assert set(federated["sites"]) == {"st-elsewhere", "bayview"}
    assert set(metrics["cross_site"]["bayview"]) == {"st-elsewhere", "bayview"}
    rounds = [json.loads(line) for line in (runs[0] / "rounds.jsonl").read_text().splitlines()]
    page = (runs[0] / "report.html").read_text()
    names = study.task.weighs
    assert columns(runs[0]) > {"Patients"}
    classes = {name.rpartition(".")[2] for name in names}
    assert columns(runs[0]) - NAMES - classes <= set(GLOSSARY)
    if kind == "several":
        check_several(study, metrics, rounds, page)
        card = (runs[0] / "model_card.md").read_text()
        assert "death: death, as a risk" in card
        assert "deterioration: The threshold is" in card
        both = {name: read_run_folder(runs[0]) for name in ("one", "other")}
        groups = {row.group for row in comparison(both).rows}
        assert {"deterioration: All hospitals", "deterioration: bayview"} < groups
        logged = {name for name, _, _ in measured(read_run_folder(runs[0]))}
        assert {"held_out/task/deterioration/auroc", "round/deterioration.auroc"} < logged
        return
    if kind == "survival":
        assert overall["c_index"]["low"] < overall["c_index"]["value"]
        assert [one["days"] for one in overall["auroc_at"]] == [90.0, 180.0, 360.0]
        assert 0 < overall["integrated_brier"]["value"] < 0.4
        assert rounds[-1]["metrics"].keys() == {"c_index", "integrated_brier"}
        assert "c-index by hospital" in page
        return
    cells = overall["classes" if kind == "multiclass" else "labels"]
    assert tuple(cells) == names
    assert all("at_threshold" in cells[name] for name in names)
    assert overall["macro"]["auroc"]["of"] == 3
    assert rounds[-1]["metrics"]["auroc"] is not None
    assert all(name in page for name in names)
    if kind == "multilabel":
        lines = json.loads((runs[0] / "recalibration.json").read_text())["lines"]
        assert tuple(lines) == names
        assert any(line["slope"] != 1 for line in lines.values())
        assert "Risks were recalibrated on" in page
        assert "recalibrated" in (runs[0] / "model_card.md").read_text()
    if kind == "multiclass":
        merged = federated["sites"]["st-elsewhere"]["confusion"]
        counts = [sum(column) for column in zip(*merged["true_by_predicted"], strict=True)]
        assert all(count == 0 or count >= 10 for count in counts)
        assert sum(map(sum, overall["confusion"]["true_by_predicted"])) <= overall["n"]
