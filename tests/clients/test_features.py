"""Tensors of a cohort, against slow references that read like their definition."""

import math
import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.cohort import Patients, read_patients
from clients.features import (
    LARGEST_VALUE,
    code_moments,
    ehr_tensor,
    image_tensor,
)
from clients.site import load_site
from federation.modalities import EhrSection, ImageSection
from federation.study import SplitSection
from federation.tasks import BinaryTask
from federation.vocabulary import AGE, Scale, Vocabulary, agreed_vocabulary, bucket_of

NOON = datetime(2024, 6, 1, 12)
HOUR = timedelta(hours=1)
TASK = BinaryTask(label="sick")
CODES = ["HR", "LAB//A", "LAB//B//mg", "DX//J18.9", "IMAGE//CR", "AGE"]


def cohort_of(events, patients):
    """Return Patients of (row, hours_before, code, numeric_value, text_value), in any order."""
    columns = ["row", "hours_before", "code", "numeric_value", "text_value"]
    frame = pd.DataFrame(events, columns=columns).astype(
        {"row": np.int64, "hours_before": float, "numeric_value": np.float32}
    )
    frame = frame.sort_values(
        ["row", "hours_before"], ascending=[True, False], na_position="first", kind="stable"
    ).reset_index(drop=True)
    frame["code"] = frame["code"].astype("category")
    rows = np.arange(patients)
    return Patients(
        rows, np.zeros(patients, np.float32), frame, {"train": rows}, {}, {}, {}, rows / 1.0, rows
    )


def slow_ehr(patients, section, vocabulary):
    """The definition of the aggregates, one patient, one place and one event at a time."""
    names = section.aggregates
    result = np.zeros((len(patients), vocabulary.places, len(names)))
    present = np.zeros(len(patients), bool)
    for row in range(len(patients)):
        found = {place: [] for place in range(vocabulary.places)}
        for event in patients.events[patients.events["row"] == row].itertuples():
            static = math.isnan(event.hours_before)
            window = section.window_hours
            if window is not None and not static and event.hours_before > window:
                continue
            marked, valued = vocabulary.places_of(event.code)
            for place in marked:
                value = event.numeric_value if place == valued else math.nan
                if not math.isnan(value):
                    scale = vocabulary.scales.get(event.code)
                    value = (
                        math.asinh(value) / 3
                        if scale is None
                        else (value - scale.center) / scale.width
                    )
                    value = min(max(value, -LARGEST_VALUE), LARGEST_VALUE)
                found[place].append((event.hours_before, value))
                present[row] = True
        for place, marks in found.items():
            hours = [h for h, _ in marks if not math.isnan(h)]
            values = [v for _, v in marks if not math.isnan(v)]
            timed = [(-h / 24, v) for h, v in marks if not math.isnan(h) and not math.isnan(v)]
            days = np.array([d for d, _ in timed])
            slope = 0.0
            if len(timed) > 1 and np.var(days) * len(days) > 1e-6:
                slope = np.polyfit(days - days.mean(), [v for _, v in timed], 1)[0]
            aggregates = {
                "last": values[-1] if values else 0.0,
                "mean": np.mean(values) if values else 0.0,
                "count": math.log(1 + len(marks)),
                "slope": min(max(slope, -LARGEST_VALUE), LARGEST_VALUE),
                "since": math.exp(-min(hours) / 24) if hours else 0.0,
                "present": float(bool(marks)),
            }
            result[row, place] = [aggregates[name] for name in names]
    return result.reshape(len(patients), -1), present


hours = st.one_of(st.just(math.nan), st.integers(0, 200).map(float), st.floats(0, 1e4))
numbers = st.one_of(
    st.just(math.nan),
    st.just(math.inf),
    st.just(-math.inf),
    st.floats(-100, 100, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
events = st.lists(
    st.tuples(st.integers(0, 3), hours, st.sampled_from(CODES), numbers, st.none()),
    max_size=40,
)
sections = st.builds(
    EhrSection,
    buckets=st.sampled_from([1, 3, 64]),
    codes=st.sampled_from([(), ("LAB//A",)]),
    reference_ranges=st.sampled_from([{}, {"HR": (50.0, 100.0)}]),
    window_hours=st.sampled_from([None, 24.0]),
    aggregates=st.permutations(("last", "mean", "count", "slope", "since", "present")),
)


@settings(max_examples=120)
@given(events, sections)
def test_aggregates_equal_their_definition_event_by_event(events, section):
    patients = cohort_of(events, 4)
    vocabulary = agreed_vocabulary(section)
    found = ehr_tensor(patients, section, vocabulary)
    values, present = slow_ehr(patients, section, vocabulary)
    assert found.values.shape == (4, vocabulary.places * len(section.aggregates))
    assert found.values.isfinite().all()
    assert found.present.tolist() == present.tolist()
    np.testing.assert_allclose(found.values.numpy(), values, rtol=2e-5, atol=2e-5)


def test_many_events_of_many_patients_equal_the_definition():
    rng = np.random.default_rng(3)
    rows = [
        (int(rng.integers(25)), float(rng.exponential(60)), CODES[k], float(rng.normal()), None)
        for k in rng.integers(len(CODES), size=600)
    ]
    patients = cohort_of(rows, 25)
    section = EhrSection(buckets=5, window_hours=100)
    vocabulary = agreed_vocabulary(section)
    values, _ = slow_ehr(patients, section, vocabulary)
    found = ehr_tensor(patients, section, vocabulary).values.numpy()
    np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5)


def one_code(events, **section):
    section = EhrSection(vocabulary="listed", codes=("X",), age=False, **section)
    patients = cohort_of([(0, h, "X", v, None) for h, v in events], 1)
    values = ehr_tensor(patients, section, Vocabulary(("X",), {"X": Scale(0, 1)}, 0)).values
    return dict(zip(section.aggregates, values[0].tolist(), strict=True))


def test_slope_is_that_of_least_squares_per_day():
    rng = np.random.default_rng(0)
    hours, values = rng.uniform(0, 240, 12), rng.normal(size=12)
    expected = np.polyfit(-hours / 24, values.astype(np.float32), 1)[0]
    assert one_code(zip(hours, values, strict=True))["slope"] == pytest.approx(expected, rel=1e-5)


def test_slope_keeps_its_digits_far_from_the_prediction_time():
    # two values an hour apart, twenty years ago
    long_ago = 20 * 365.25 * 24
    assert one_code([(long_ago, 1.0), (long_ago - 1, 1.25)])["slope"] == pytest.approx(6.0)


def test_values_at_the_edge_of_the_window_count():
    assert one_code([(24.0, 5.0)], window_hours=24)["last"] == 5.0
    assert one_code([(24.001, 5.0)], window_hours=24)["last"] == 0.0
    assert one_code([(math.nan, 5.0)], window_hours=24)["last"] == 5.0


def test_a_typing_error_is_clipped():
    assert one_code([(2.0, 1e30)])["last"] == LARGEST_VALUE
    assert one_code([(2.0, -math.inf), (1.0, 1.0)])["mean"] == pytest.approx(-4.5)


def test_units_are_those_of_the_reference_range():
    section = EhrSection(vocabulary="listed", reference_ranges={"X": (10, 20)}, age=False)
    patients = cohort_of([(0, 1.0, "X", 20.0, None), (1, 1.0, "X", 10.0, None)], 2)
    section = section.model_copy(update={"aggregates": ("last",)})
    values = ehr_tensor(patients, section, agreed_vocabulary(section)).values
    assert values.tolist() == [[1.0], [-1.0]]


def test_last_is_the_newest_value_also_where_codes_of_unlike_depth_share_a_bucket():
    size = next(
        n
        for n in range(2, 1000)
        if bucket_of("HR", n) == bucket_of("LAB//A", n) != bucket_of("LAB", n)
    )
    section = EhrSection(buckets=size, age=False, aggregates=("last",))
    vocabulary = agreed_vocabulary(section)
    for newest, oldest in (("HR", "LAB//A"), ("LAB//A", "HR")):
        patients = cohort_of([(0, 1.0, newest, 9.0, None), (0, 5.0, oldest, 2.0, None)], 1)
        last = ehr_tensor(patients, section, vocabulary).values[0, bucket_of("HR", size)]
        assert float(last) == pytest.approx(math.asinh(9.0) / 3)


def test_patient_with_nothing_but_an_image_has_no_ehr():
    rows = [(0, 1.0, "IMAGE//CR", math.nan, "x.dcm"), (1, 1.0, "HR", 70.0, None)]
    section = EhrSection(buckets=4)
    found = ehr_tensor(cohort_of(rows, 3), section, agreed_vocabulary(section))
    assert found.present.tolist() == [False, True, False]
    assert not found.values[0].any()


def test_site_without_any_known_code_gives_zeros_and_no_presence():
    section = EhrSection(vocabulary="listed", codes=("X",))
    found = ehr_tensor(
        cohort_of([(0, 1.0, "Y", 1.0, None)], 2), section, agreed_vocabulary(section)
    )
    assert not found.present.any()
    assert not found.values.any()


# --- the prepare exchange


def test_moments_equal_those_of_the_training_patients_values():
    rng = np.random.default_rng(1)
    rows = [(i % 30, float(i), "LAB//A", float(rng.normal(50, 9)), None) for i in range(90)]
    rows += [(0, 1.0, "LAB//A", math.inf, None), (1, 1.0, "LAB//A", math.nan, None)]
    patients = cohort_of(rows, 30)
    patients = Patients(**{**vars(patients), "splits": {"train": np.arange(20)}})
    found = code_moments(patients, EhrSection(), 10)["LAB//A"]
    values = np.array(
        [np.float32(r[3]) for r in rows if r[0] < 20 and math.isfinite(r[3])], np.float64
    )
    assert (found.patients, found.values) == (20, len(values))
    assert found.total == pytest.approx(values.sum())
    assert found.scale().width == pytest.approx(values.std(), rel=1e-9)


def test_codes_of_few_patients_and_values_of_few_patients_stay():
    rows = [(i, 1.0, "COMMON", math.nan, None) for i in range(12)]
    rows += [(i, 1.0, "COMMON", 5.0, None) for i in range(9)]
    rows += [(i % 9, 1.0, "RARE", 5.0, None) for i in range(40)]
    rows += [(i, 1.0, code, 1.0, None) for i in range(12) for code in ("NOTE//X", AGE)]
    found = code_moments(cohort_of(rows, 12), EhrSection(), 10)
    assert list(found) == ["COMMON"]
    assert (found["COMMON"].patients, found["COMMON"].values, found["COMMON"].total) == (12, 0, 0)


# --- images


@pytest.fixture
def site_with_images(tmp_path, write_site, write_dicom):
    """Return a function: file names by hours before noon -> the image tensor of one patient."""

    def read(*images, files=()):
        rows = [(1, NOON - 9 * HOUR, "HR", 70.0, None)]
        rows += [(1, NOON - h * HOUR, "IMAGE//CR", None, name) for h, name in images]
        folder = write_site(tmp_path / "site", events=rows, labels=[(1, NOON, True)], images=True)
        for shade, name in enumerate(files, start=1):
            pixels = np.zeros((32, 32), np.uint8)
            pixels[: 4 * shade] = 200
            write_dicom(folder / "dicom" / name, pixels)
        site = load_site(folder)
        patients = read_patients(site, TASK, SplitSection())
        return image_tensor(patients, ImageSection(size=32), site.images)

    return read


def bright_rows(tensor):
    return int((tensor.values[0, 0].mean(1) > 0.5).sum())


def test_newest_readable_image_is_used_and_unreadable_ones_counted(site_with_images):
    images = [(5, "old.dcm"), (3, "good.dcm"), (2, "gone.dcm"), (1, "bad.dcm"), (-1, "late.dcm")]
    found = site_with_images(*images, files=["old.dcm", "good.dcm"])
    assert found.present.tolist() == [True]
    assert bright_rows(found) == 8
    assert found.unusable == {"image: the file is missing": 1}


def test_unreadable_images_of_one_patient_count_as_one_patient(site_with_images):
    found = site_with_images((1, "a.dcm"), (2, "b.dcm"), (3, "c.dcm"))
    assert found.unusable == {"image: the file is missing": 1}
    assert not found.present.any()
    assert not found.values.any()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.dcm",
        "sub/../../outside.dcm",
        "{folder}/outside.dcm",
        "/etc/hostname",
        "link.dcm",
        "folder/outside.dcm",
    ],
)
def test_no_file_outside_the_image_folder_is_ever_opened(
    tmp_path, site_with_images, write_dicom, name
):
    outside = write_dicom(tmp_path / "site" / "outside.dcm", np.eye(32, dtype=np.uint8))
    (tmp_path / "site" / "dicom").mkdir()
    (tmp_path / "site" / "dicom" / "link.dcm").symlink_to(outside)
    (tmp_path / "site" / "dicom" / "folder").symlink_to(outside.parent)
    found = site_with_images((1, name.format(folder=tmp_path / "site")))
    assert found.unusable == {"image: the path leads out of the data folder": 1}
    assert not found.present.any()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "", ".", "loop.dcm", "caf\u00e9\n.dcm"])
def test_odd_file_names_are_counted_and_never_crash(tmp_path, site_with_images, name):
    (tmp_path / "site" / "dicom").mkdir(parents=True)
    loop = tmp_path / "site" / "dicom" / "loop.dcm"
    os.symlink(loop, loop)
    found = site_with_images((1, name))
    assert sum(found.unusable.values()) == 1
    assert not found.present.any()


def test_site_without_an_image_folder_has_no_images(tmp_path, write_site):
    rows = [(1, NOON, "HR", 70.0, None), (1, NOON, "IMAGE//CR", None, "x.dcm")]
    folder = write_site(tmp_path / "site", events=rows, labels=[(1, NOON, True)])
    patients = read_patients(load_site(folder), TASK, SplitSection())
    found = image_tensor(patients, ImageSection(size=32), None)
    assert found.values.shape == (1, 1, 32, 32)
    assert (found.present.tolist(), found.unusable) == ([False], {})


@pytest.mark.parametrize("name", [None, "gone.dcm"])
def test_offered_images_that_no_event_names_are_counted(name):
    rows = [(0, 1.0, "HR", 70.0, None), (1, 1.0, "IMAGE//CR", math.nan, name)]
    found = image_tensor(cohort_of(rows, 3), ImageSection(size=32), Path("dicom"))
    nothing = {"image: offered, but no event names a file": 3}
    assert found.unusable == (nothing if name is None else {"image: the file is missing": 1})
    assert image_tensor(cohort_of(rows[:1], 3), ImageSection(size=32), None).unusable == {}


def test_a_hundred_thousand_events_take_seconds_at_most():
    rng = np.random.default_rng(0)
    size = 100_000
    frame = pd.DataFrame(
        {
            "row": np.sort(rng.integers(500, size=size)),
            "hours_before": rng.uniform(0, 1000, size),
            "code": pd.Categorical([f"LAB//{k}" for k in rng.integers(2000, size=size)]),
            "numeric_value": rng.normal(size=size).astype(np.float32),
            "text_value": None,
        }
    )
    rows = np.arange(500)
    patients = Patients(
        rows, np.zeros(500), frame, {"train": rows}, {}, {}, {}, np.full(len(rows), np.nan), rows
    )
    section = EhrSection()
    began = time.process_time()
    ehr_tensor(patients, section, agreed_vocabulary(section))
    assert time.process_time() - began < 5
