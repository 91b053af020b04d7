"""From a site's files to its patients: nothing of the future, nobody counted twice."""

import shutil
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from clients.cohort import SPLITS, read_patients
from clients.features import ehr_tensor
from clients.site import load_site
from federation.errors import UserError
from federation.modalities import EhrSection
from federation.study import SplitSection
from federation.tasks import BinaryTask
from federation.vocabulary import AGE, agreed_vocabulary

NOON = datetime(2024, 6, 1, 12)
HOUR = timedelta(hours=1)
TASK = BinaryTask(label="sick")


@pytest.fixture
def ids(tmp_path, identified):
    """Return the identifiers of patients whom `read` read; of all unless rows are given."""
    return lambda patients, rows=slice(None): identified(
        tmp_path / "site", patients.subject_ids[rows]
    )


@pytest.fixture
def read(tmp_path, write_site):
    """Write a site from rows (or defaults) and read its patients."""

    def read(patients=60, by="patient", fractions=None, **site):
        folder = write_site(tmp_path / "site", patients, **site)
        split = SplitSection.model_validate({"by": by, "fractions": fractions or {}})
        return read_patients(load_site(folder), TASK, split)

    return read


def lab(subject, time=NOON - HOUR, value=1.0):
    return (subject, time, "LAB//CRP", value, None)


def label(subject, value=True, time=NOON):
    return (subject, time, value)


def test_events_at_the_prediction_time_are_kept_and_later_ones_are_not(read):
    moments = [NOON - HOUR, NOON, NOON + timedelta(microseconds=1), NOON + HOUR, None]
    events = [lab(1, time, i) for i, time in enumerate(moments)]
    patients = read(events=events, labels=[label(1)])
    assert patients.events["numeric_value"].tolist() == [4.0, 0.0, 1.0]  # static first
    assert np.isnan(patients.events["hours_before"][0])
    assert patients.events["hours_before"][1:].tolist() == [1.0, 0.0]
    assert patients.notices == {"events after the prediction time, not used": 1}


def test_an_event_after_the_prediction_that_equals_the_label_changes_no_tensor(
    tmp_path, write_site
):
    section = EhrSection(reference_ranges={"LAB//CRP": (0, 10)}, buckets=8)
    rows = [lab(i, NOON - 3 * HOUR, 5.0) for i in range(1, 21)]
    leak = [(i, NOON + HOUR, "OUTCOME//SICK", float(i % 2), "sick") for i in range(1, 21) if i % 2]
    leak += [lab(i, NOON + HOUR, 100.0 * (i % 2)) for i in range(1, 21)]
    labels = [label(i, bool(i % 2)) for i in range(1, 21)]
    tensors = []
    for name, events in (("clean", rows), ("leaky", leak[:10] + rows + leak[10:])):
        folder = write_site(tmp_path / name, events=events, labels=labels, key="5" * 64)
        patients = read_patients(load_site(folder), TASK, SplitSection())
        tensors.append((patients, ehr_tensor(patients, section, agreed_vocabulary(section))))
    (clean, without), (leaky, with_leak) = tensors
    assert with_leak.values.numpy().tobytes() == without.values.numpy().tobytes()
    assert leaky.events.equals(clean.events)
    assert all(np.array_equal(leaky.splits[s], clean.splits[s]) for s in SPLITS)


def test_all_rows_of_one_person_are_one_patient(read, ids):
    events = [lab(7, NOON - i * HOUR, i) for i in range(1, 6)] + [lab(9)]
    labels = [label(7), label(7), label(7), label(9, False), label(7, False, NOON + HOUR)]
    patients = read(events=events, labels=labels)
    assert ids(patients) == [7, 9]
    assert patients.labels.tolist() == [1.0, 0.0]
    assert patients.notices == {"repeated label rows": 1, "later prediction times, not used": 1}
    assert sum(len(patients.splits[s]) for s in SPLITS) == 2


def test_each_exclusion_counts_its_patients_once(read, ids):
    events = [lab(i) for i in (1, 2, 3, 4, 5, 6, 11, 12)]
    labels = [
        label(1),
        label(2, None),
        label(2, None, NOON + HOUR),  # two empty rows, one patient
        label(3, None),
        label(3, False, NOON + HOUR),  # one empty row, but a later usable one
        label(4, True),
        label(4, False),  # contradictory
        label(5, True, None),  # no prediction time
        label(6),
        label(6, True, NOON + 2 * HOUR),
        label(8),  # no event
        label(9, None),  # neither label nor event
    ]
    patients = read(events=events, labels=labels)
    assert ids(patients) == [1, 3, 6]
    assert patients.excluded == {
        "label is empty": 2,
        "contradictory labels": 1,
        "no prediction time": 1,
        "label without any event": 1,
        "no label": 2,  # 11 and 12; not 2, 4 and 5, which are counted above
    }
    # everybody in the files is either a patient or excluded, once
    everybody = {row[0] for row in events} | {row[0] for row in labels}
    assert len(patients) + sum(patients.excluded.values()) == len(everybody)


def test_labels_outside_the_classes_are_excluded_and_counted(tmp_path, write_site, write_table):
    folder = write_site(tmp_path / "site", events=[lab(i) for i in range(1, 6)], labels=[])
    types = {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "integer_value": pa.int64(),
    }
    rows = [(1, NOON, 0), (2, NOON, 1), (3, NOON, 2), (4, NOON, -1), (5, NOON, 2**62)]
    write_table(folder / "labels.parquet", rows, types)
    patients = read_patients(load_site(folder), TASK, SplitSection())
    assert patients.labels.tolist() == [0.0, 1.0]
    assert patients.excluded == {"label outside the classes": 3}


def test_label_file_with_all_columns_of_the_schema_is_read(tmp_path, write_site, write_table):
    folder = write_site(tmp_path / "site", events=[lab(1), lab(2)], labels=[])
    types = {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "boolean_value": pa.bool_(),
        "integer_value": pa.int64(),
        "float_value": pa.float32(),
        "categorical_value": pa.large_string(),
    }
    rows = [(1, NOON, None, 1, None, None), (2, NOON, None, 0, None, None)]
    write_table(folder / "labels.parquet", rows, types)
    patients = read_patients(load_site(folder), TASK, SplitSection())
    assert patients.labels.tolist() == [1.0, 0.0]


def test_patients_without_a_label_are_counted_over_all_files(tmp_path, write_site, write_events):
    folder = write_site(tmp_path / "site", events=[lab(1), lab(2), lab(3)], labels=[label(1)])
    events = folder / "meds" / "data"
    write_events(tmp_path / "more", [lab(3), lab(4), lab(1)])
    shutil.copy(tmp_path / "more" / "data" / "0.parquet", events / "1.parquet")
    patients = read_patients(load_site(folder), TASK, SplitSection())
    assert patients.excluded == {"no label": 3}
    assert len(patients.events) == 2


def test_nobody_left_is_explained_with_the_reasons(read):
    with pytest.raises(UserError, match=r"labels\.parquet: no patient is left for sick") as caught:
        read(events=[lab(1)], labels=[label(1, None), label(2)])
    assert "label is empty: 1" in str(caught.value)
    with pytest.raises(UserError, match="the file is empty"):
        read(events=[], labels=[])


@pytest.mark.parametrize("by", ["patient", "time", "given"])
def test_splits_are_disjoint_and_complete(read, by):
    given = {i: SPLITS[i % 3] for i in range(1, 61)} if by == "given" else None
    patients = read(60, by, splits=given)
    rows = np.concatenate([patients.splits[s] for s in SPLITS])
    assert sorted(rows) == list(range(60))
    assert all(len(patients.splits[s]) for s in SPLITS)


def test_hashed_split_comes_near_its_fractions(read):
    fractions = {"train": 0.5, "tuning": 0.2, "held_out": 0.3}
    patients = read(
        2000,
        fractions=fractions,
        events=[lab(i) for i in range(1, 2001)],
        labels=[label(i) for i in range(1, 2001)],
    )
    for name, share in fractions.items():
        # five standard deviations of a binomial: the key is drawn anew each time
        assert abs(len(patients.splits[name]) / 2000 - share) < 5 * np.sqrt(share / 2000)


def test_split_without_tuning_or_held_out_is_possible(read):
    patients = read(40, fractions={"train": 1.0, "tuning": 0.0, "held_out": 0.0})
    assert [len(patients.splits[s]) for s in SPLITS] == [40, 0, 0]


def members(patients):
    return {s: set(patients.subject_ids[patients.splits[s]].tolist()) for s in SPLITS}


def test_a_patient_keeps_its_split_when_patients_are_added_or_the_task_changes(
    tmp_path, write_site
):
    folder = write_site(tmp_path / "site", 40)
    before = members(read_patients(load_site(folder), TASK, SplitSection()))
    write_site(folder, 80, seed=5)
    site = load_site(folder)
    after = members(read_patients(site, TASK, SplitSection()))
    assert all(before[s] <= after[s] for s in SPLITS)
    assert members(read_patients(site, BinaryTask(label="other"), SplitSection())) == after


def test_two_sites_split_the_same_numbers_differently(tmp_path, write_site):
    rows = [
        read_patients(load_site(write_site(tmp_path / n, 60)), TASK, SplitSection()).splits["train"]
        for n in ("a", "b")
    ]
    assert not np.array_equal(*rows)


def test_split_by_time_trains_on_the_past_and_tests_on_the_future(read, ids):
    labels = [label(i, time=NOON + ((i * 7) % 50) * HOUR) for i in range(1, 51)]
    patients = read(by="time", events=[lab(i) for i in range(1, 51)], labels=labels)
    time_of = {subject: time for subject, time, _ in labels}
    times = {s: [time_of[i] for i in ids(patients, patients.splits[s])] for s in SPLITS}
    assert max(times["train"]) < min(times["tuning"])
    assert max(times["tuning"]) < min(times["held_out"])
    assert [len(times[s]) for s in SPLITS] == [30, 10, 10]


def test_split_by_time_needs_two_times(read):
    rows = range(1, 21)
    with pytest.raises(UserError, match=r"labels\.parquet: prediction_time: all prediction times"):
        read(by="time", events=[lab(i) for i in rows], labels=[label(i) for i in rows])


def test_given_split_is_followed_and_patients_without_one_excluded(read, ids):
    given = {i: SPLITS[i % 3] for i in range(1, 11)}
    rows = range(1, 13)
    patients = read(
        by="given",
        splits=given,
        events=[lab(i) for i in rows],
        labels=[label(i) for i in rows],
    )
    for name, rows in patients.splits.items():
        assert ids(patients, rows) == [i for i in given if given[i] == name]
    assert patients.excluded == {"no split given": 2}


@pytest.mark.parametrize("values", [["test", "train"], [None, "train"], [None, "test"]])
def test_given_split_with_other_names_is_explained_without_them(read, values):
    with pytest.raises(UserError, match="none of train, tuning, held_out") as caught:
        read(2, "given", splits=dict(enumerate(values, start=1)))
    assert "test" not in str(caught.value).replace(str(caught.value.where), "")


def test_given_split_without_its_file_is_explained(read):
    with pytest.raises(UserError, match=r"subject_splits\.parquet: split\.by"):
        read(2, "given")


def born(subject, years):
    return (subject, NOON - timedelta(days=years * 365.25), "MEDS_BIRTH", None, None)


@pytest.mark.parametrize(
    ("years", "band"),
    [
        (0.0, "0-17"),
        (17.99, "0-17"),
        (18.0, "18-39"),
        (39.9, "18-39"),
        (40.0, "40-64"),
        (64.9, "40-64"),
        (65.0, "65-79"),
        (80.0, "80+"),
        (110.0, "80+"),
    ],
)
def test_age_is_that_at_the_prediction_time_and_falls_into_its_band(read, years, band):
    patients = read(events=[born(1, years), lab(1)], labels=[label(1)])
    age = patients.events.loc[patients.events["code"] == AGE, "numeric_value"]
    assert age.tolist() == pytest.approx([years], abs=1e-4)
    assert patients.subgroups["age_band"].tolist() == [band]


def test_patient_without_birth_has_no_age_and_an_unknown_band(read):
    patients = read(
        events=[lab(1), lab(2), (2, None, "MEDS_BIRTH", None, None)],
        labels=[label(1), label(2)],
    )
    assert patients.subgroups["age_band"].tolist() == ["unknown", "unknown"]


def static(subject, code):
    return (subject, None, code, None, None)


@pytest.mark.parametrize(
    ("attribute", "code", "level"),
    [
        ("sex", "GENDER//F", "female"),
        ("sex", "SEX//male", "male"),
        ("sex", "GENDER//Jane Doe 1970-01-01", "other"),
        ("sex", "GENDER//", "unknown"),
        ("sex", "LAB//F", "unknown"),
        ("ethnicity", "ETHNICITY//WHITE - OTHER EUROPEAN", "white"),
        ("ethnicity", "ETHNICITY//Caucasian", "white"),
        ("ethnicity", "RACE//BLACK/AFRICAN AMERICAN", "black"),
        ("ethnicity", "ETHNICITY//African American", "black"),
        ("ethnicity", "ETHNICITY//ASIAN - CHINESE", "asian"),
        ("ethnicity", "ETHNICITY//HISPANIC/LATINO - CUBAN", "hispanic"),
        ("ethnicity", "ETHNICITY//Hispanic", "hispanic"),
        ("ethnicity", "ETHNICITY//Not Hispanic or Latino", "other"),
        ("ethnicity", "ETHNICITY//NOT_HISPANIC_OR_LATINO", "other"),
        ("ethnicity", "ETHNICITY//AMERICAN INDIAN/ALASKA NATIVE", "native"),
        ("ethnicity", "ETHNICITY//Native American", "native"),
        ("ethnicity", "ETHNICITY//Mrs Jane Doe, 12 Elm Street", "other"),
        ("ethnicity", "LAB//WHITE", "unknown"),
    ],
)
def test_subgroup_levels_come_from_a_closed_list(read, attribute, code, level):
    patients = read(events=[lab(1), static(1, code)], labels=[label(1)], subgroups=(attribute,))
    assert patients.subgroups[attribute].tolist() == [level]


def test_subgroups_that_the_site_does_not_offer_are_not_there(read):
    assert set(read(10, subgroups=("sex",)).subgroups) == {"sex"}


def test_events_of_a_patient_come_oldest_first_whatever_the_order_of_the_file(read):
    events = [lab(i, NOON - h * HOUR, h) for h in (3, 9, 1, 5) for i in (2, 1)]
    patients = read(events=events, labels=[label(1), label(2)])
    assert patients.events["row"].tolist() == [0] * 4 + [1] * 4
    assert patients.events["hours_before"].tolist() == [9, 5, 3, 1] * 2


def test_subject_numbers_beyond_32_bits_keep_their_last_digit(read, ids):
    big = 2**62
    patients = read(events=[lab(big), lab(big + 1)], labels=[label(big), label(big + 1, False)])
    assert ids(patients) == [big, big + 1]
    assert patients.labels.tolist() == [1.0, 0.0]


def test_row_that_contradicts_itself_excludes_its_patient(tmp_path, write_site, write_table, ids):
    folder = write_site(tmp_path / "site", events=[lab(i) for i in (1, 2, 3)], labels=[])
    types = {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "boolean_value": pa.bool_(),
        "integer_value": pa.int64(),
    }
    # the second patient's later row is sound, but it is the first prediction time that counts
    rows = [(1, NOON, True, 1), (2, NOON, True, 0), (2, NOON + HOUR, True, 1), (3, NOON, False, 5)]
    write_table(folder / "labels.parquet", rows, types)
    patients = read_patients(load_site(folder), TASK, SplitSection())
    assert ids(patients) == [1]
    assert patients.excluded == {"contradictory labels": 2}


def test_labels_of_another_name_are_refused(tmp_path, write_site):
    folder = write_site(tmp_path / "site", 8)
    file = folder / "site.toml"
    text = file.read_text()
    for held in ("sick", "readmission"):
        file.write_text(text.replace("[data]\n", f'[data]\nlabel = "{held}"\n'))
        if held == "sick":
            assert len(read_patients(load_site(folder), TASK, SplitSection())) == 8
            continue
        with pytest.raises(UserError) as caught:
            read_patients(load_site(folder), TASK, SplitSection())
    message = str(caught.value)
    assert message.startswith(f'{file}: data.label: the labels are of "readmission"')
    assert 'task.label = "sick"' in message
    assert 'a file of "sick"' in message


def test_values_that_are_no_measurement_are_missing_and_their_patients_counted(read):
    odd = [np.nan, np.inf, -np.inf, 2e30, -3e38]
    events = [lab(1, value=value) for value in odd] + [lab(2, value=None), lab(3, value=1e29)]
    events += [lab(4, value=7.0), lab(4, NOON + HOUR, np.nan)]  # one not used for its time
    patients = read(events=events, labels=[label(i) for i in (1, 2, 3, 4)])
    values = patients.events.groupby("row")["numeric_value"]
    assert values.count().tolist() == [0, 0, 1, 1]
    assert values.size().tolist() == [5, 1, 1, 1]
    assert patients.events["numeric_value"].dtype == np.float32
    assert patients.notices["value: not a finite number"] == 1


def test_impossible_births_give_no_age_and_are_counted(read):
    events = [lab(i) for i in range(1, 6)]
    events += [born(1, -0.1), born(2, 121), born(3, 119.9), born(4, 0), born(5, 124), born(5, 50)]
    patients = read(events=events, labels=[label(i) for i in range(1, 6)], subgroups=("age_band",))
    assert patients.subgroups["age_band"].tolist() == ["unknown", "unknown", "80+", "0-17", "40-64"]
    assert patients.notices == {"birth: after the prediction time or over 120 years before": 3}
