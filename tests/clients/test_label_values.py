"""Labels of each kind of task, from files and from a rule."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clients.cohort import read_patients
from clients.labels import labels_by_rule
from clients.site import load_site
from clients.sources.settings import LabelRule
from federation.errors import UserError
from federation.study import SplitSection
from federation.tasks import BinaryTask, MulticlassTask, MultilabelTask, SurvivalTask

WHEN = datetime(2024, 6, 1)
GRADES = MulticlassTask(label="grade", classes=("mild", "worse", "worst"))
FINDINGS = MultilabelTask(label="findings", labels=("effusion", "oedema"), blank="missing")
DEATH = SurvivalTask(label="death", intervals=(30, 60))
LAST = {"uncertain": "ones", "blank": "negative"}


@pytest.fixture
def labelled(tmp_path, write_site):
    """Return a reader: task, columns of values, parquet or CSV -> the site's patients."""

    def read(task, columns, kind="parquet"):
        count = len(next(iter(columns.values())))
        folder = write_site(tmp_path / "site", count)
        table = pd.DataFrame({"subject_id": range(1, count + 1)})
        table["prediction_time"] = pd.Timestamp(WHEN) + pd.Timedelta(days=365)
        for name, values in columns.items():
            table[name] = values
        file = folder / f"labels.{kind}"
        table["prediction_time"] = table["prediction_time"].astype("datetime64[us]")
        table.to_parquet(file) if kind == "parquet" else table.to_csv(file, index=False)
        site = folder / "site.toml"
        site.write_text(site.read_text().replace("labels.parquet", file.name))
        return read_patients(load_site(folder), task, SplitSection())

    return read


def by_subject(patients):
    return patients.labels.tolist()


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_classes_are_read_by_name_or_by_number(labelled, kind):
    names = ["mild", "worst", "unheard of", None, "worse"]
    found = labelled(GRADES, {"categorical_value": names}, kind)
    assert sorted(found.labels.tolist()) == [0.0, 1.0, 2.0]
    assert found.excluded == {"label outside the classes": 1, "label is empty": 1}
    numbers = labelled(GRADES, {"integer_value": pd.array([0, 2, 3, None, 1], "Int64")}, kind)
    assert sorted(numbers.labels.tolist()) == [0.0, 1.0, 2.0]
    assert numbers.excluded == found.excluded


def test_name_and_number_that_differ_contradict_each_other(labelled):
    columns = {"categorical_value": ["mild", "worst", "mild"], "integer_value": [0, 1, 0]}
    assert labelled(GRADES, columns).excluded == {"contradictory labels": 1}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_findings_that_are_uncertain_or_blank_count_as_the_study_says(labelled, kind):
    columns = {
        "effusion": pd.array([1, -1, None, None, 7], "Int64"),
        "oedema": pd.array([0, 1, -1, None, 0], "Int64"),
    }
    found = labelled(FINDINGS, columns, kind)
    rows = {tuple(row) for row in np.nan_to_num(found.labels, nan=9.0).tolist()}
    assert rows == {(1.0, 0.0), (9.0, 1.0)}
    assert found.excluded == {"label is empty": 2, "label outside the classes": 1}
    study = FINDINGS.model_copy(update=LAST)
    found = labelled(study, columns, kind)
    rows = sorted(map(tuple, found.labels.tolist()))
    assert rows == [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]


def test_findings_may_be_true_and_false(labelled):
    found = labelled(FINDINGS, {"effusion": [True, False], "oedema": [False, False]})
    assert sorted(map(tuple, found.labels.tolist())) == [(0.0, 0.0), (1.0, 0.0)]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_times_need_both_their_days_and_their_end(labelled, kind):
    columns = {
        "float_value": [12.5, 40.0, -1.0, None, 3.0],
        "boolean_value": pd.array([True, False, True, False, None], "boolean"),
    }
    found = labelled(DEATH, columns, kind)
    assert sorted(map(tuple, found.labels.tolist())) == [(12.5, 1.0), (40.0, 0.0)]
    assert found.excluded == {"label outside the classes": 1, "label is empty": 2}


@pytest.mark.parametrize(
    ("task", "columns", "told"),
    [
        (GRADES, {"boolean_value": [True]}, "neither categorical_value nor integer_value"),
        (FINDINGS, {"effusion": [1], "Oedema": [1]}, r"oedema: there is no such column"),
        (DEATH, {"float_value": [1.0]}, "neither boolean_value nor integer_value"),
        (DEATH, {"boolean_value": [True]}, "float_value: there is no such column"),
    ],
)
def test_labels_of_another_kind_are_refused_by_the_column_that_is_missing(
    labelled, task, columns, told
):
    with pytest.raises(UserError, match=told):
        labelled(task, columns)


def events_of(rows):
    start = datetime(2024, 1, 1)
    table = pa.table(
        {
            "subject_id": pa.array([s for s, _, _ in rows], pa.int64()),
            "time": pa.array([start + timedelta(days=d) for _, d, _ in rows], pa.timestamp("us")),
            "code": pa.array([c for _, _, c in rows], pa.string()),
        }
    )
    return table.to_batches(2)


def test_rule_of_times_follows_a_patient_to_the_outcome_or_the_last_event():
    rule = LabelRule(
        index=["ADMIT"], outcome=["DEATH"], until=["LEFT"], horizon_hours=2400, time_to_event=True
    )
    rows = [
        (1, 0, "ADMIT"), (1, 7, "LAB"), (1, 20, "DEATH"),
        (2, 0, "ADMIT"), (2, 9, "LAB"),
        (3, 0, "ADMIT"), (3, 5, "LEFT"), (3, 30, "DEATH"),
        (4, 0, "ADMIT"), (4, 150, "DEATH"),
        (5, 0, "ADMIT"),
        (6, 0, "LAB"),
    ]  # fmt: skip
    table, excluded = labels_by_rule(rule, events_of(rows))
    found = {row.subject_id: (row.days, row.event) for row in table.itertuples()}
    assert found == {1: (20.0, 1.0), 2: (9.0, 0.0), 3: (5.0, 0.0), 4: (100.0, 0.0)}
    assert excluded == {
        "stay or outcome ended before the prediction time": {5},
        "no index event": {6},
    }


@pytest.mark.parametrize(
    ("task", "rule", "told"),
    [
        (DEATH, {"horizon_hours": 9}, "time_to_event = true"),
        (BinaryTask(label="x"), {"time_to_event": True}, "times to an outcome"),
        (GRADES, {"horizon_hours": 9}, "a file of the labels"),
    ],
)
def test_rule_for_another_kind_of_task_is_refused(tmp_path, write_site, task, rule, told):
    import tomli_w

    folder = write_site(tmp_path / "site", 12)
    labels = {"index": ["A"], "outcome": ["B"], **rule}
    data = {"events": {"format": "meds", "path": "meds"}, "labels": labels}
    (folder / "site.toml").write_text(tomli_w.dumps({"site": {"name": "site"}, "data": data}))
    with pytest.raises(UserError, match=told):
        read_patients(load_site(folder), task, SplitSection())
