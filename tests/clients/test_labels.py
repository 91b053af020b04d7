"""Labels by a rule: against a brute-force reading of it, and no leak into the features."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.cohort import read_patients
from clients.labels import labels_by_rule
from clients.site import load_site
from clients.sources.schema import EVENT_SCHEMA
from clients.sources.settings import LabelRule
from federation.study import SplitSection
from federation.tasks import BinaryTask

START = datetime(2024, 1, 1)
HOUR = timedelta(hours=1)
TASK = BinaryTask(label="dies")
CODES = ["ADMIT", "ADMIT//WARD", "ADMITTED", "DEATH", "LEAVE//HOME", "LAB//CRP"]
STAY = LabelRule(index=["ADMIT"], predict_after_hours=24, outcome=["DEATH"], until=["LEAVE"])
MONTH = LabelRule(index=["ADMIT"], predict_after_hours=2, outcome=["DEATH"], horizon_hours=10)


def batches_of(rows, size=1000):
    """Rows of (subject, hours or None, code) as batches."""
    times = [None if h is None else START + h * HOUR for _, h, _ in rows]
    table = pa.table(
        [
            pa.array([s for s, _, _ in rows], pa.int64()),
            pa.array(times, pa.timestamp("us")),
            pa.array([c for _, _, c in rows], pa.string()),
            pa.nulls(len(rows), pa.float32()),
            pa.nulls(len(rows), pa.string()),
        ],
        schema=EVENT_SCHEMA,
    )
    return table.to_batches(size)


def derived(rule, rows):
    table, excluded = labels_by_rule(rule, batches_of(rows))
    hours = (table["prediction_time"] - pd.Timestamp(START)) / pd.Timedelta(hours=1)
    found = dict(zip(table["subject_id"], zip(hours, table["label"], strict=True), strict=True))
    return found, {reason: len(subjects) for reason, subjects in excluded.items()}


def is_one(code, prefixes):
    return any(code == one or code.startswith(one + "//") for one in prefixes)


def by_hand(rule, rows):
    """Read the rule literally, patient by patient."""
    found, excluded = {}, {}
    for subject in {s for s, _, _ in rows}:
        own = [(h, c) for s, h, c in rows if s == subject and h is not None]
        starts = sorted(h for h, c in own if is_one(c, rule.index))
        answer = None
        for start in starts:
            asked = start + rule.predict_after_hours
            ends = [h for h, c in own if is_one(c, rule.until) and h > start]
            end = min(ends, default=None)
            horizon = None if rule.horizon_hours is None else start + rule.horizon_hours
            bounds = [b for b in (end, horizon) if b is not None]
            outcomes = [h for h, c in own if is_one(c, rule.outcome) and h >= start]
            if any(b <= asked for b in bounds) or any(h <= asked for h in outcomes):
                continue
            if any(all(h <= b for b in bounds) for h in outcomes):
                answer = (asked, 1.0)
            elif bounds:
                answer = (asked, 0.0)
            if answer:
                break
        if answer:
            found[subject] = answer
        else:
            reason = "no index event"
            if starts:
                reason = "stay or outcome ended before the prediction time"
            excluded[reason] = excluded.get(reason, 0) + 1
    return found, excluded


ROWS = st.lists(
    st.tuples(st.integers(1, 3), st.none() | st.integers(0, 60), st.sampled_from(CODES)),
    max_size=14,
)


@settings(max_examples=300)
@given(rows=ROWS, rule=st.sampled_from([STAY, MONTH]))
def test_rule_is_what_reading_it_by_hand_gives(rows, rule):
    assert derived(rule, rows) == by_hand(rule, rows)


@pytest.mark.parametrize(
    ("rows", "label"),
    [
        ([(1, 0, "ADMIT"), (1, 30, "DEATH"), (1, 30, "LEAVE//DIED")], (24, 1.0)),
        ([(1, 0, "ADMIT"), (1, 30, "LEAVE"), (1, 31, "DEATH")], (24, 0.0)),
        ([(1, 0, "ADMIT"), (1, 5, "LEAVE"), (1, 50, "ADMIT//ER"), (1, 99, "LEAVE")], (74, 0.0)),
        ([(1, 0, "ADMIT"), (1, 24, "DEATH"), (1, 25, "LEAVE")], None),
        ([(1, 0, "ADMIT")], None),  # the stay is not over: nobody knows
        ([(1, 0, "ADMITTED"), (1, 30, "LEAVE")], None),
    ],
)
def test_in_hospital_death_a_day_after_admission(rows, label):
    assert derived(STAY, rows)[0].get(1) == label


@pytest.fixture
def ruled(tmp_path, write_site, write_events):
    """Write a site whose labels follow from a rule; read its patients."""

    def read(events, **rule):
        folder = write_site(tmp_path / "site", events=events, labels=[], subgroups=())
        document = {
            "site": {"name": "site"},
            "data": {"events": {"format": "meds", "path": "meds"}, "labels": rule},
        }
        (folder / "site.toml").write_text(tomli_w.dumps(document))
        return read_patients(load_site(folder), TASK, SplitSection())

    return read


def test_nothing_at_or_after_the_prediction_time_is_a_feature(ruled):
    events = [
        (subject, START + hours * HOUR, code, 1.0, None)
        for subject in (1, 2)
        for hours, code in [(0, "ADMIT"), (1, "LAB//A"), (2, "LAB//B"), (3, "LAB//C")]
    ]
    events += [(1, START + 4 * HOUR, "DEATH", None, None), (3, START, "LAB//A", 1.0, None)]
    patients = ruled(
        events, index=["ADMIT"], predict_after_hours=2, outcome=["DEATH"], horizon_hours=9
    )
    assert patients.labels.tolist() == [1.0, 0.0]
    assert set(patients.events["code"]) == {"ADMIT", "LAB//A"}
    assert (patients.events["hours_before"] > 0).all()
    assert patients.excluded == {"no index event": 1}
    assert patients.notices == {"events after the prediction time, not used": 2}


def test_changing_what_comes_after_the_prediction_time_changes_no_feature(ruled):
    before = [(s, START + h * HOUR, c, 1.0, None) for s in range(1, 9) for h, c in [(0, "ADMIT")]]
    before += [(s, START + HOUR, "LAB//A", float(s), None) for s in range(1, 9)]
    rule = {"index": ["ADMIT"], "predict_after_hours": 2, "outcome": ["DEATH"], "horizon_hours": 9}
    late = [(s, START + 3 * HOUR, "DEATH", None, None) for s in (2, 4)]
    plain, other = ruled(before, **rule), ruled(before + late, **rule)
    assert plain.events.equals(other.events)
    assert np.flatnonzero(plain.labels != other.labels).tolist() == [1, 3]
