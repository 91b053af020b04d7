"""What a code says of the label, against scikit-learn."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clients.checks.signals import signals
from clients.cohort import read_patients
from clients.site import load_site
from federation.study import SplitSection
from federation.tasks import BinaryTask

NOON = datetime(2024, 6, 1, 12)
HOUR = timedelta(hours=1)


@pytest.fixture
def patients(tmp_path, write_site):
    rng = np.random.default_rng(3)
    events, labels = [], []
    for subject in range(1, 121):
        sick = bool(rng.random() < 0.4)
        labels.append((subject, NOON, sick))
        events.append((subject, NOON - 5 * HOUR, "LAB//A", float(rng.normal(9)), None))
        events.append((subject, NOON - HOUR, "LAB//A", float(rng.integers(0, 4) + sick), None))
        if rng.random() < (0.7 if sick else 0.2):
            events.append((subject, NOON, "ICD//B", None, None))
        if rng.random() < 0.5:
            events.append((subject, NOON - 2 * HOUR, "LAB//C", None, None))
        events.append((subject, NOON + HOUR, "LATER", float(sick), None))
    order = rng.permutation(len(events))
    folder = write_site(tmp_path / "s", events=[events[i] for i in order], labels=labels)
    return read_patients(load_site(folder), BinaryTask(label="x"), SplitSection())


def test_presence_and_last_value_have_the_auroc_of_scikit_learn(patients):
    found = {one.code: one for one in signals(patients)}
    events = patients.events
    for code, one in found.items():
        rows = events.loc[events["code"] == code, "row"].unique()
        has = np.isin(np.arange(len(patients)), rows)
        assert one.holders == has.sum()
        assert one.positives == patients.labels[has].sum()
        assert one.present == pytest.approx(roc_auc_score(patients.labels, has))
    last = events[events["code"] == "LAB//A"].groupby("row")["numeric_value"].last()
    expected = roc_auc_score(patients.labels[last.index], last)
    assert found["LAB//A"].value == pytest.approx(expected)
    assert found["LAB//C"].value is None


def test_later_events_say_nothing_and_events_at_the_prediction_time_are_counted(patients):
    found = {one.code: one for one in signals(patients)}
    assert "LATER" not in found
    assert (found["ICD//B"].at_prediction, found["LAB//A"].at_prediction) == (1.0, 0.0)
