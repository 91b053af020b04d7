"""A site with labels of several tasks: who is predicted, when, and what is not known of whom."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w

from clients.checks.check import check_site, counts
from clients.checks.tables import overview
from clients.cohort import read_patients
from clients.evaluation import evaluate_locally
from clients.known import taught_labels
from clients.outbound import GateClosed, released
from clients.site import PolicySection, load_site
from clients.workbench import Workbench
from federation.errors import UserError
from federation.messages import Reply
from federation.metrics.summaries import read_summary
from federation.study import SplitSection
from federation.tasks import BinaryTask, SeveralTask
from federation.vocabulary import agreed_vocabulary

WHEN = datetime(2024, 3, 1)
TASKS = {
    "sick": {"label": "sick"},
    "grade": {"kind": "multiclass", "label": "grade", "classes": ["a", "b", "c"]},
    "time": {"kind": "survival", "label": "time", "intervals": [10, 20, 40]},
}
SEVERAL = {"kind": "several", "label": "all of them", "tasks": TASKS}
TASK = SeveralTask(**SEVERAL)
ROWS = 60


def tables(rows=ROWS):
    """Return the labels of each task, of all patients but some."""
    people = pd.DataFrame({"subject_id": np.arange(1, rows + 1), "prediction_time": WHEN})
    place = np.arange(rows)
    return {
        "sick": people.assign(boolean_value=place % 2 == 1),
        "grade": people.assign(integer_value=place % 3)[place % 4 != 0],
        "time": people.assign(float_value=place + 0.5, boolean_value=place % 3 == 0)[
            place % 5 != 0
        ],
    }


@pytest.fixture
def site_of(tmp_path, write_site):
    """Return a writer of a site: labels by name, as tables or as rules."""

    def write(labels, rows=ROWS, **data):
        start = [
            (s, WHEN - timedelta(hours=5), "LAB//CRP", 5.0 + s % 2, None)
            for s in range(1, rows + 1)
        ]
        folder = write_site(tmp_path / "bern", rows, events=start, subgroups=())
        named = {}
        for name, table in labels.items():
            if isinstance(table, dict):
                named[name] = table
                continue
            table.to_parquet(folder / f"{name}.parquet")
            named[name] = f"{name}.parquet"
        document = {
            "site": {"name": "bern", "device": "cpu"},
            "data": {"events": {"format": "meds", "path": "meds"}, "labels": named, **data},
        }
        (folder / "site.toml").write_text(tomli_w.dumps(document))
        return folder

    return write


def read(folder, task=TASK):
    return read_patients(load_site(folder), task, SplitSection())


def test_labels_lie_side_by_side_and_what_is_not_known_is_no_number(site_of):
    patients = read(site_of(tables()))
    found = dict(enumerate(patients.labels, start=1))  # in the order of the identifiers
    assert list(TASK.tasks) == ["grade", "sick", "time"]
    for subject in range(1, ROWS + 1):
        place = subject - 1
        grade = place % 3 if place % 4 else np.nan
        days, ended = (place + 0.5, place % 3 == 0) if place % 5 else (np.nan, np.nan)
        np.testing.assert_array_equal(found[subject], np.float32([grade, place % 2, days, ended]))
    lacking = sum(1 for k in range(ROWS) if k % 4 == 0 or k % 5 == 0)
    assert patients.notices["no label of some of the tasks, used for the others"] == lacking
    assert patients.excluded == {}


def test_patient_without_any_label_is_left_out_and_counted_once(site_of):
    labels = {name: table.iloc[10:] for name, table in tables().items()}
    labels["time"].loc[21, "float_value"] = np.nan
    patients = read(site_of(labels))
    # nobody asked about the first ten; patient 22 has a label of another task
    assert patients.excluded == {"no label": 10}
    assert len(patients) == ROWS - 10
    grades = tables()["grade"].assign(integer_value=7)
    with pytest.raises(UserError, match=r"label outside the classes: 45, no label: 15"):
        read(site_of({"grade": grades}))


def test_patient_is_predicted_once_at_the_first_time(site_of):
    labels = tables()
    later = labels["grade"]["subject_id"] <= 10
    labels["grade"].loc[later, "prediction_time"] = WHEN + timedelta(days=2)
    patients = read(site_of(labels))
    assert np.isnan(patients.labels[:10, 0]).all()
    assert patients.notices["later prediction times, not used"] == int(later.sum())


def test_site_with_some_of_the_labels_takes_part_with_those(site_of):
    patients = read(site_of({"sick": tables()["sick"], "other": tables()["grade"]}))
    assert np.isnan(patients.labels[:, [0, 2, 3]]).all()
    assert not np.isnan(patients.labels[:, 1]).any()
    assert patients.notices["no label of some of the tasks, used for the others"] == ROWS
    alone = read(
        site_of({"sick": tables()["sick"], "grade": tables()["grade"]}), BinaryTask(label="sick")
    )
    assert (alone.labels == patients.labels[:, 1]).all()


def test_labels_that_do_not_fit_are_refused_naming_the_key(site_of):
    rule = {"index": ["LAB//CRP"], "outcome": ["DEATH"], "horizon_hours": 40}
    with pytest.raises(
        UserError, match=r"data.labels.grade.*yes-or-no(.|\n)*data.labels.grade a file"
    ):
        read(site_of({"grade": rule}))
    with pytest.raises(UserError, match=r'are of "other".*predicts "grade", "sick", "time"'):
        read(site_of({"other": tables()["sick"]}))
    with pytest.raises(UserError, match=r'are of "other", .*task.label = "sick"'):
        read(site_of({"other": tables()["sick"]}), BinaryTask(label="sick"))
    with pytest.raises(UserError, match=r"data.labels.grade.index: missing"):
        load_site(site_of({"grade": {"outcome": ["B"]}}))
    with pytest.raises(UserError, match=r"data.labels.grade.inde: unknown"):
        load_site(site_of({"grade": {**rule, "inde": ["A"]}}))
    with pytest.raises(UserError, match=r"data.label away"):
        load_site(site_of(tables(), label="sick"))
    folder = site_of({"sick": tables()["sick"]})
    document = {
        "site": {"name": "bern"},
        "data": {"events": {"format": "meds", "path": "meds"}, "labels": "sick.parquet"},
    }
    (folder / "site.toml").write_text(tomli_w.dumps(document))
    with pytest.raises(UserError, match=r"no name, and the study predicts 3 outcomes"):
        read(folder)
    document["data"]["label"] = "sick"
    (folder / "site.toml").write_text(tomli_w.dumps(document))
    assert not np.isnan(read(folder).labels[:, 1]).any()


def test_rule_and_file_stand_side_by_side(site_of):
    rule = {
        "index": ["LAB//CRP"],
        "outcome": ["DEATH"],
        "predict_after_hours": 5,
        "horizon_hours": 40,
    }
    patients = read(site_of({"sick": rule, "grade": tables()["grade"]}))
    # nobody's stay has an end, and the horizon lies within the records of nobody: all are without
    assert patients.labels.shape == (ROWS, 4)
    assert (~np.isnan(patients.labels)).sum(axis=0).tolist() == [45, 60, 0, 0]


def test_task_that_few_patients_have_is_not_trained_at_the_site(site_of, make_study):
    labels = tables()
    labels["grade"] = labels["grade"].iloc[:8]
    folder = site_of(labels)
    study = make_study(task=SEVERAL)
    private = make_study(task=SEVERAL, privacy={"mechanism": "dp_sgd", "epsilon": 4.0})
    bench, vocabulary = Workbench(), agreed_vocabulary(study.modalities.ehr)
    plain = bench.cohort(str(folder), study, vocabulary)
    train = plain.patients.splits["train"]
    assert 0 < (~np.isnan(plain.patients.labels[train, 0])).sum() < 10
    assert plain.labels[train, 0].isnan().all()
    assert (plain.labels[:, 1].numpy() == plain.patients.labels[:, 1]).all()
    covered = bench.cohort(str(folder), private, vocabulary)
    np.testing.assert_array_equal(covered.labels.numpy(), covered.patients.labels)
    enough = taught_labels(plain.patients.labels, train, study.task, 1)
    assert enough is plain.patients.labels


def test_what_leaves_tells_of_no_few_patients_in_whom_tasks_differ(site_of, make_study):
    folder = site_of(tables(300), 300)
    study = make_study(task=SEVERAL)
    bench, vocabulary = Workbench(), agreed_vocabulary(study.modalities.ehr)
    cohort, model = bench.cohort(str(folder), study, vocabulary), bench.model(study, vocabulary)
    policy = PolicySection()
    body = evaluate_locally(model, cohort, study, "held_out", policy)
    assert released(Reply("ok", body), policy, study).body is body
    whole = read_summary(body.cells[""])
    everybody = len(cohort.patients.splits["held_out"])
    assert whole.tasks["sick"].n == everybody
    assert all(one.n <= everybody - 10 for name, one in whole.tasks.items() if name != "sick")
    with pytest.raises(GateClosed, match="smaller than the site's minimum"):
        released(Reply("ok", body), PolicySection(minimum_cell=everybody), study)
    other = make_study(task={"kind": "several", "tasks": {"sick": TASKS["sick"]}})
    with pytest.raises(GateClosed, match="another task"):
        released(Reply("ok", body), policy, other)


def test_level_of_which_all_tasks_are_withheld_keeps_nothing_else_from_leaving(site_of, make_study):
    labels = tables(300)
    half = labels["sick"]["subject_id"] % 2 == 1
    two = {"sick": labels["sick"][half], "other": labels["sick"][~half]}
    several = {"kind": "several", "tasks": {name: {"label": name} for name in two}}
    study, folder = make_study(task=several, evaluation={"subgroups": ["sex"]}), site_of(two, 300)
    bench, vocabulary = Workbench(), agreed_vocabulary(study.modalities.ehr)
    cohort, model = bench.cohort(str(folder), study, vocabulary), bench.model(study, vocabulary)
    rows = cohort.patients.splits["held_out"]
    sick = ~np.isnan(cohort.patients.labels[rows, 1])
    sex = np.full(len(cohort.patients), "male", object)
    sex[[*rows[sick][:5], *rows[~sick][:15]]] = "female"  # five have one label, five lack the other
    patients, policy = replace(cohort.patients, subgroups={"sex": sex}), PolicySection()
    body = evaluate_locally(model, replace(cohort, patients=patients), study, "held_out", policy)
    told = body.summaries()
    assert told[""].n > 10
    for name in ("sex=female", "sex=male"):
        assert (told[name].n, set(told[name].withheld)) == (0, set(two))
    assert released(Reply("ok", body), policy, study).body is body


def test_check_of_a_site_counts_each_task(site_of, make_study):
    labels = tables()
    labels["grade"] = labels["grade"].assign(integer_value=0)
    found = check_site(Path(site_of(labels)), make_study(task=SEVERAL), print)
    assert not [one for one in found.findings if one.severity == "blocker"]
    told = counts(found.evidence)["tasks"]
    assert told["grade"]["classes"] == {"a": 45, "b": 0, "c": 0}
    assert (told["sick"]["known"], told["time"]["known"]) == (60, 48)
    assert any("task grade: no patient is of the class b" in one.what for one in found.findings)
    assert "48 with a label of time" in dict(overview(found))["task time"]
    assert {one.kind: one.status for one in found.evidence.steps}["train"] == "ok"
