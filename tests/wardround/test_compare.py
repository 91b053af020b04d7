"""Runs side by side: paired where sites scored both models, unpaired and wider where not."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clients.app import Asked, answer
from clients.evaluation import predict
from clients.workbench import Workbench
from federation.errors import UserError
from federation.messages import EVALUATE, Instruction, model_digest
from federation.models.build import build_model
from federation.study import Study
from server.finished_run import finished_run
from server.report.comparison import MEAN, PAIRED, UNPAIRED, comparison
from server.report.run_folder import read_run_folder
from simulations.runner import simulate

STUDY = {
    "study": {"name": "again"},
    "task": {"label": "sick"},
    "modalities": {"ehr": {"width": 8, "buckets": 8, "reference_ranges": {"LAB//CRP": [0, 10]}}},
    "training": {"rounds": 8, "batch_size": 32, "optimizer": {"lr": 0.01}},
}


def study(**training):
    return Study.model_validate({**STUDY, "training": {**STUDY["training"], **training}})


@pytest.fixture(scope="module")
def runs(tmp_path_factory, write_site):
    """A run, one that was compared with it, and one that was not."""
    folder = tmp_path_factory.mktemp("again")
    policy = {"score_bins": "fine"}
    for seed, name in enumerate(("north", "south")):
        write_site(folder / "sites" / name, 300, seed=seed, policy=policy)
    simulate(study(), folder / "sites", folder / "first", workers=0)
    longer = study(rounds=12)
    simulate(longer, folder / "sites", folder / "later", workers=0, compare_with=folder / "first")
    simulate(longer, folder / "sites", folder / "apart", workers=0)
    return folder


def read(runs, *names):
    return comparison({name: read_run_folder(runs / name) for name in names})


def test_difference_of_a_site_is_that_of_its_patients_scores(runs):
    document = json.loads((runs / "later/metrics.json").read_text())["predecessor"]
    first, later = finished_run(runs / "first"), finished_run(runs / "later")
    assert document["model"] == model_digest(first.weights)
    assert later.study.evaluation.predecessor == document["model"]
    bench = Workbench()
    for name, told in document["sites"].items():
        cohort = bench.cohort(str(runs / "sites" / name / "site.toml"), study(), first.vocabulary)
        rows = cohort.patients.splits["held_out"]
        model = build_model(study(), first.vocabulary)
        areas = []
        for run in (later, first):
            model.load(run.weights)
            areas.append(
                roc_auc_score(
                    cohort.patients.labels[rows], predict(model, cohort, rows, study().task)
                )
            )
        assert told["difference"]["value"] == pytest.approx(areas[0] - areas[1], abs=0.01)
        assert told["paired"] is True


def test_paired_differences_are_known_better_than_unpaired_ones(runs):
    together, apart = read(runs, "first", "later"), read(runs, "first", "apart")
    assert (together.note, apart.note) == (PAIRED, UNPAIRED)

    def width(found, group):
        (row,) = [r for r in found.rows if (r.group, r.metric) == (group, "auroc")]
        (one,) = row.differences
        return one.high - one.low, row.paired[0]

    for site in ("north", "south"):
        narrow, paired = width(together, site)
        wide, unpaired = width(apart, site)
        assert (paired, unpaired) == (True, False)
        assert narrow < wide
    assert any(row.group == MEAN for row in together.rows)
    assert not any(row.group == MEAN for row in apart.rows)
    assert "training.rounds" in apart.settings


def test_a_run_compared_with_another_one_is_not_called_paired(runs):
    found = read(runs, "apart", "later")
    assert not any(any(row.paired) for row in found.rows)


def test_site_scores_the_named_model_and_no_other(runs):
    first = finished_run(runs / "first")
    asked = study().succeeding(model_digest(first.weights))
    weights = build_model(asked, first.vocabulary).weights()
    instruction = Instruction(asked, vocabulary=first.vocabulary, weights=weights, split="held_out")

    def ask(reference):
        content = replace(instruction, reference=reference).to_records()
        file = str(runs / "sites/north/site.toml")
        (reply,) = answer([Asked(EVALUATE, content, file)], Workbench())
        return reply

    assert ask(first.weights).body.paired is not None
    other = ask(np.nextafter(first.weights, np.float32(9)))
    assert (other.status, other.body) == ("not an instruction of this version", None)


def test_models_that_cannot_be_scored_together_are_refused_before_training(runs, tmp_path):
    wider = Study.model_validate({**STUDY, "modalities": {"ehr": {"width": 16}}})
    with pytest.raises(UserError, match="of another task, modalities or fusion"):
        simulate(wider, runs / "sites", tmp_path / "x", workers=0, compare_with=runs / "first")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="one of its own"):
        Study.model_validate(
            {**STUDY, "strategy": {"name": "ditto"}, "evaluation": {"predecessor": "0" * 64}}
        )


def test_command_prints_tables_and_writes_a_page(runs, tmp_path):
    def compare(*arguments):
        command = [sys.executable, "-m", "wardround", "compare", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    page = tmp_path / "page.html"
    told = compare(runs / "first", runs / "later", runs / "apart", "--out", page)
    assert told.returncode == 0, told.stderr
    assert "later − first" in told.stdout
    assert "paired" in told.stdout
    assert "apart − first" in page.read_text()
    once = compare(runs / "first")
    assert (once.returncode, "two run folders" in once.stderr) == (2, True)
