"""A site's tables: the patients of a cohort, and changes that reach only whom they should."""

from datetime import datetime, timedelta

import numpy as np

from clients.cohort import read_patients
from clients.site import load_site
from federation.study import SplitSection
from federation.tasks import BinaryTask
from simulations.shifts.outcomes import YES_OR_NO
from simulations.shifts.tables import read_tables

START = datetime(2024, 1, 1)


def day(k):
    return START + timedelta(days=k)


EVENTS = [(s, day(s), "LAB//A", float(s), None) for s in range(1, 9)]
LABELS = [
    *[(1, day(5), True), (1, day(9), False)],  # a later prediction time
    *[(2, day(5), True), (2, day(5), True)],  # a repeated row
    *[(3, day(5), True), (3, day(5), False)],  # contradictory
    *[(4, day(9), None), (4, day(11), True)],  # the first is empty
    (5, None, True),
    (6, day(2), False),  # its event is later
    (7, day(9), False),
    (99, day(9), True),  # no event
]


def tables_of(write_site, folder):
    return read_tables(load_site(write_site(folder, events=EVENTS, labels=LABELS)), YES_OR_NO)


def test_patients_and_past_events_are_those_of_a_cohort(write_site, tmp_path, identified):
    tables = tables_of(write_site, tmp_path / "a")
    cohort = read_patients(tables.site, BinaryTask(label="x"), SplitSection())
    assert tables.patients["subject_id"].tolist() == [1, 2, 4, 6, 7]
    assert identified(tmp_path / "a", cohort.subject_ids) == [1, 2, 4, 6, 7]
    assert tables.patients["label"].tolist() == cohort.labels.tolist()
    past = cohort.events
    assert tables.past["patient"].tolist() == past["row"].tolist()
    assert tables.past["numeric_value"].tolist() == past["numeric_value"].tolist()


def test_subjects_who_are_no_patients_stay_when_patients_leave(write_site, tmp_path):
    tables = tables_of(write_site, tmp_path / "a")
    kept = tables.keep(tables.patients["subject_id"].to_numpy() == 7)
    assert kept.events["subject_id"].tolist() == [3, 5, 7, 8]
    assert set(kept.labels["subject_id"]) == {3, 5, 7, 99}


def test_new_label_stands_in_every_row_of_the_first_prediction_time(write_site, tmp_path):
    tables = tables_of(write_site, tmp_path / "a")
    flipped = tables.relabel({"label": 1 - tables.patients["label"].to_numpy()})
    assert flipped.patients["label"].tolist() == [0, 0, 0, 1, 1]
    changed = ~np.isclose(flipped.labels["label"], tables.labels["label"], equal_nan=True)
    assert flipped.labels[changed][["subject_id", "row"]].to_numpy().tolist() == [
        [1, 0], [2, 2], [2, 3], [4, 7], [6, 9], [7, 10],
    ]  # fmt: skip
