"""A score that a site holds already: measured as the model is, and nothing told by subtraction."""

import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from asking import Asked

from clients.cohort import read_patients
from clients.evaluation import evaluate_existing_score, last_risks
from clients.site import PolicySection, load_site
from federation.messages import EVALUATE, EXISTING_SCORE, Instruction
from federation.metrics.summary import ScoreSummary
from simulations.runner import simulate

CODE = "APACHE//RISK"
EARLY = datetime(2019, 1, 1)


def scored(first_id, patients, missing=()):
    """Two scores of each patient, the later one telling of the label, which alternates."""
    rng, rows = np.random.default_rng(first_id), []
    for subject in range(first_id, first_id + patients):
        sick = (subject - first_id) % 2
        later = float(np.clip(0.3 + 0.3 * sick + 0.1 * rng.normal(), 0, 1))
        if subject not in missing:
            rows.append((subject, EARLY, CODE, 0.99, None))
            rows.append((subject, EARLY + timedelta(hours=1), CODE, later, None))
    return rows


@pytest.fixture
def read(tmp_path, write_site, make_study):
    """Write a site, most of whose patients are held out, and return its patients and the study."""
    study = make_study(
        evaluation={"existing_score": CODE},
        split={"fractions": {"train": 0.1, "tuning": 0.1, "held_out": 0.8}},
    )

    def reading(patients=150, **more):
        folder = write_site(tmp_path / "bern", patients, **more)
        return read_patients(load_site(folder), study.task, study.split), study

    return reading


FINE = PolicySection(minimum_cell=10, score_bins="fine")


def test_last_value_that_is_a_risk_counts(read):
    rows = scored(1, 150)
    rows += [(1, EARLY + timedelta(hours=2), CODE, 1.5, None)]
    rows += [(2, EARLY + timedelta(hours=2), CODE, None, None)]
    patients, _ = read(more_events=rows)
    found = last_risks(patients, CODE)
    assert np.isnan(found[:2]).all()
    assert (found[2:] < 0.99).all()
    assert np.isnan(last_risks(patients, "APACHE//OTHER")).all()


def test_cells_are_the_summaries_of_the_scores(read):
    patients, study = read(more_events=scored(1, 150))
    body = evaluate_existing_score(patients, study, "held_out", FINE)
    rows = patients.splits["held_out"]
    expected = ScoreSummary.from_scores(last_risks(patients, CODE)[rows], patients.labels[rows])
    assert body.cells[""] == expected.to_json()
    assert {"sex=female", "sex=male"} <= body.cells.keys()


def test_site_where_a_few_have_no_score_sends_nothing(read):
    patients, study = read(more_events=scored(1, 150))
    missing = patients.splits["held_out"][:4] + 1  # patients 1, 2, ... in order
    patients, study = read(more_events=scored(1, 150, missing))
    body = evaluate_existing_score(patients, study, "held_out", FINE)
    assert (body.cells, body.withheld) == ({}, {"": "fewer than 10 patients"})


def test_attribute_where_few_of_a_level_have_no_score_is_withheld(read):
    """Twelve men and three women have none: sex would tell of the three."""
    patients, study = read(more_events=scored(1, 150))
    rows = patients.splits["held_out"]
    sex = patients.subgroups["sex"][rows]
    missing = {1 + row for row in (*rows[sex == "male"][:12], *rows[sex == "female"][:3])}
    patients, study = read(more_events=scored(1, 150, missing))
    body = evaluate_existing_score(patients, study, "held_out", FINE)
    assert body.summaries()[""].n == len(rows) - 15
    assert not any(name.startswith("sex=") for name in body.cells)
    assert {"sex=female", "sex=male"} <= body.withheld.keys()


def test_site_answers_only_a_study_that_names_the_score(tmp_path, write_site, make_study):
    asked = Asked(write_site(tmp_path / "bern", 100, more_events=scored(1, 100)))
    plain = Instruction(make_study(), model=EXISTING_SCORE, split="held_out")
    assert asked.ask(EVALUATE, plain).status == "not an instruction of this version"
    study = make_study(evaluation={"existing_score": CODE})
    named = Instruction(study, model=EXISTING_SCORE, split="held_out")
    assert asked.ask(EVALUATE, named).status == "ok"
    training = Instruction(study, model=EXISTING_SCORE, split="train")
    assert asked.ask(EVALUATE, training).status == "not an instruction of this version"
    # a site that has nothing of the kind says no more than one of few patients
    bare = Asked(write_site(tmp_path / "basel", 100)).ask(EVALUATE, named).body
    assert (bare.cells, bare.withheld) == ({}, {"": "fewer than 10 patients"})


def test_run_shows_the_score_beside_the_model(tmp_path, write_site, make_study):
    for k, name in enumerate(("ash", "birch")):
        first = 1000 * k + 1
        write_site(
            tmp_path / "sites" / name,
            100,
            first_id=first,
            seed=k,
            more_events=scored(first, 100),
            policy={"score_bins": "fine"},
        )
    study = make_study(evaluation={"existing_score": CODE})
    simulate(study, tmp_path / "sites", tmp_path / "run", workers=0)
    models = json.loads((tmp_path / "run" / "metrics.json").read_text())["models"]
    found = models["existing_score"]
    assert set(found["sites"]) == {"ash", "birch"}
    assert found["overall"]["auroc"]["value"] > 0.9
    assert found["threshold"]["value"] == found["overall"]["at_threshold"]["threshold"]
