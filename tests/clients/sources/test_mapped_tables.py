"""Tables by their mapping: wide and long, units, limits, offsets, encodings; UCI's real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exports import LABS, LONG, events_of, patients_of, tables_site, write_export
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.sources.parsing import read_numbers, read_times, read_words
from clients.sources.schema import EVENT_COLUMNS
from simulations.datasets.uci_heart import COLUMNS, FEATURES, Number, convert

DATA = Path(__file__).parents[3] / "../shared/data"
UCI = DATA / "uci_heart_disease"
NONE = ("",)


def rows_of(events, *columns):
    shown = events.astype({"numeric_value": float}).replace({np.nan: None})
    return list(shown[list(columns or EVENT_COLUMNS)].itertuples(index=False, name=None))


def test_long_table_gives_codes_values_and_limits_of_detection(tmp_path):
    events, told = events_of(tables_site(tmp_path / "site"))
    assert rows_of(events, "subject_id", "code", "numeric_value") == [
        (1, "LAB//CRP", 5.5),
        (1, "LAB//NA", 140.0),  # sodium, not a marker of a missing code
        (2, "LAB//CRP//BELOW_LIMIT", None),
    ]
    assert told.rows == {}


def test_one_unit_for_a_code_by_the_factors_of_the_site_file(tmp_path):
    labs = (
        "patient,taken,test,result,unit\n1,2024-01-01 10:00,GLU,90,mg/dl\n"
        "2,2024-01-01 10:00,GLU,5,mmol/l\n"
    )
    events = LONG + 'units."LAB//GLU" = { "mg/dl" = 1.0, "mmol/l" = 18.016 }\n'
    found, _ = events_of(tables_site(tmp_path / "site", labs, events))
    assert found["numeric_value"].tolist() == pytest.approx([90, 90.08])


def test_wide_table_of_every_kind_of_column(tmp_path):
    text = """\
format = "tables"
path = "data"
missing = 1
[[data.events.tables]]
file = "wide.csv"
subject = "pid"
time = "seen"
time_format = "%d.%m.%Y %H:%M"
delimiter = ";"
decimal = ","
missing = ["-9"]
columns.chol = { code = "LAB//CHOL", factor = 38.67, missing = ["0"] }
columns.cp = { code = "PAIN", kind = "category", categories = { "1" = "TYPICAL" } }
columns.born = { code = "MEDS_BIRTH", kind = "time" }
columns.note = { code = "NOTE//SEEN", kind = "text" }
columns.age = { code = "MEDS_BIRTH", kind = "age", values = { "> 89" = 90 } }
""".replace("missing = 1\n", "")
    wide = (
        "pid;seen;chol;cp;born;note;age\n"
        'A1;01.02.2024 08:00;5,2;1;;"two\nlines; one note";> 89\n'
        "B2;02.02.2024 08:00;0;-9;03.04.1950 00:00;;\n"
    )
    events, told = events_of(write_export(tmp_path / "site", text, {"wide.csv": wide}))
    first, second = (events[events["subject_id"] == s] for s in events["subject_id"].unique())
    assert sorted(rows_of(first, "code", "text_value"), key=str) == [
        ("LAB//CHOL", None),
        ("MEDS_BIRTH", None),
        ("NOTE//SEEN", "two\nlines; one note"),
        ("PAIN//TYPICAL", None),
    ]
    assert first["numeric_value"].max() == pytest.approx(5.2 * 38.67)
    (born,) = first.loc[first["code"] == "MEDS_BIRTH", "time"]
    assert (pd.Timestamp("2024-02-01 08:00") - born) / pd.Timedelta(days=365.25) == 90
    assert rows_of(second, "code", "time") == [("MEDS_BIRTH", pd.Timestamp("1950-04-03"))]
    assert told.rows == {}


def test_offsets_count_from_the_start_of_the_stay_and_absent_stays_are_counted(tmp_path):
    text = """\
format = "tables"
path = "data"
[data.events.stays]
file = "stays.csv"
key = "stay"
subject = "patient"
start = "admitted"
[[data.events.tables]]
file = "series.parquet"
stay = "stay"
offset = "minutes"
columns.hr = { code = "VITAL//HR" }
"""
    series = pa.table({"stay": [10, 11, 99], "minutes": [90.5, -30.0, 0.0], "hr": [80, None, 70]})
    pq.write_table(series, tmp_path / "s.parquet")
    files = {
        "stays.csv": "stay,patient,admitted\n10,7,2024-01-01 10:00\n11,8,2024-01-02T00:00:00\n",
        "series.parquet": (tmp_path / "s.parquet").read_bytes(),
    }
    events, told = events_of(write_export(tmp_path / "site", text, files))
    expected = pd.Timestamp("2024-01-01 11:30:30")
    assert rows_of(events) == [(7, expected, "VITAL//HR", 80.0, None)]
    assert told.excluded == {"reference to an absent patient": {"99"}}


def test_date_alone_is_the_day_s_last_moment_so_that_it_cannot_be_known_before(tmp_path):
    rows = ["1,2024-01-02,CRP,1,u", "1,2024-01-01,CRP,2,u", "2,2024-01-01,CRP,3,u"]
    labs = "\n".join(["patient,taken,test,result,unit", *rows])
    patients = patients_of(tables_site(tmp_path / "site", labs))
    assert patients.events["numeric_value"].tolist() == [2, 3]
    assert patients.notices == {"events after the prediction time, not used": 1}


def test_names_of_patients_become_the_same_hash_in_every_table_and_in_the_labels(tmp_path):
    rows = ["A-1,2024-01-01 10:00,CRP,1,u", "007,2024-01-01 10:00,CRP,3,u"]
    labs = "\n".join(["patient,taken,test,result,unit", *rows])
    labels = (
        "subject_id,prediction_time,boolean_value\nA-1,2024-01-02 00:00,1\n007,2024-01-02 00:00,0\n"
    )
    site = tables_site(tmp_path / "site", labs)
    (site / "labels.csv").write_text(labels)
    patients = patients_of(site)
    assert (len(patients), patients.excluded) == (2, {})
    by_value = patients.events.sort_values("numeric_value")["row"].tolist()
    assert patients.labels[by_value].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_table_in_another_encoding_is_the_same_table(tmp_path, encoding):
    labs = LABS.replace("CRP", "Kalzium ü")
    plain, _ = events_of(tables_site(tmp_path / "plain", labs))
    events = LONG + f'encoding = "{encoding}"\n'
    found, _ = events_of(tables_site(tmp_path / "site", labs.encode(encoding), events))
    assert found.equals(plain)
    assert "LAB//Kalzium ü" in set(found["code"])


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path, end):
    plain, _ = events_of(tables_site(tmp_path / "plain"))
    found, _ = events_of(tables_site(tmp_path / "site", LABS.replace("\n", end)))
    assert found.equals(plain)


def test_table_of_a_header_alone_holds_no_event(tmp_path):
    events, told = events_of(tables_site(tmp_path / "site", LABS.split("\n")[0] + "\n"))
    assert (len(events), told.rows) == (0, {})


@pytest.mark.skipif(not UCI.is_dir(), reason=f"UCI's heart-disease files are not at {UCI}")
def test_uci_files_through_the_mapping_equal_what_the_dataset_s_own_converter_writes(tmp_path):
    convert(UCI, tmp_path / "converted")
    names = [column.name for column in COLUMNS]
    lines = [
        'format = "tables"',
        f'path = "{UCI.resolve()}"',
        "origin = 1999-12-31T23:00:00",
        "[[data.events.tables]]",
        'file = "processed.va.data"',
        'subject = "#row"',
        'missing = ["?"]',
        f"names = {names}",
        'offset = "zero"',
    ]
    lines = [line for line in lines if line != 'offset = "zero"'] + ["static = true"]
    for column in FEATURES:
        kind = "number" if isinstance(column, Number) else "category"
        missing = '["0"]' if isinstance(column, Number) and column.zero_is_missing else "[]"
        code = f"HEART//{column.name.upper()}"
        lines.append(
            f'columns.{column.name} = {{ code = "{code}", kind = "{kind}", missing = {missing} }}'
        )
    site = write_export(tmp_path / "site", "\n".join(lines), {})
    ours, _ = events_of(site)
    theirs = pq.read_table(tmp_path / "converted/va/data/meds/data/0.parquet").to_pandas()
    theirs = theirs[theirs["code"].str.startswith("HEART")]
    theirs["subject_id"] -= theirs["subject_id"].min() - 1
    columns = ["subject_id", "code", "numeric_value"]
    assert sorted(rows_of(ours, *columns), key=str) == sorted(rows_of(theirs, *columns), key=str)
    assert len(ours) > 1400


@given(st.lists(st.floats() | st.integers(-100, 100).map(float), max_size=12))
def test_number_as_a_word_does_not_depend_on_its_neighbours(numbers):
    together = read_words(pa.array(numbers, pa.float64()), NONE).to_pylist()
    alone = [read_words(pa.array([n], pa.float64()), NONE)[0].as_py() for n in numbers]
    assert together == alone
    for number, word in zip(numbers, together, strict=True):
        assert word is None or float(word) == number
        if abs(number) < 2**53 and number == int(number):
            assert word == str(int(number))


def test_age_without_a_time_and_a_result_without_a_value_are_counted(tmp_path):
    text = LONG + (
        '[[data.events.tables]]\nfile = "ages.csv"\nsubject = "p"\ntime = "at"\n'
        'columns.age = { code = "MEDS_BIRTH", kind = "age" }\n'
    )
    files = {
        "labs.csv": LABS + "1,2024-01-01 12:00,CRP,,mg/l\n",
        "ages.csv": "p,at,age\n1,2024-01-01 10:00,60\n2,,50\n",
    }
    events, told = events_of(write_export(tmp_path / "site", text, files))
    assert told.rows == {"row without a value": 1, "event without a time, not used": 1}
    assert (events["code"] == "MEDS_BIRTH").sum() == 1


def test_marker_of_a_missing_number_is_that_number_however_it_is_written():
    for column in (["-1", "-1.0", "-1e0", "1"], [-1, -1, -1, 1], [-1.0, -1.0, -1.0, 1.0]):
        found = read_numbers(pa.array(column), ("-1",))
        assert np.isnan(found.values).tolist() == [True, True, True, False]
        assert not found.bad.any()


@given(st.lists(st.floats(-1e30, 1e30) | st.integers(-(10**9), 10**9) | st.none(), max_size=20))
def test_numbers_written_as_text_are_read_back(numbers):
    found = read_numbers(
        pa.array([None if n is None else repr(n) for n in numbers], pa.string()), NONE
    )
    assert not found.bad.any()
    assert not found.limit.any()
    expected = np.array([np.nan if n is None else n for n in numbers], float)
    np.testing.assert_array_equal(found.values, expected)


@given(st.lists(st.text(max_size=8), max_size=20))
def test_text_is_a_number_a_limit_or_bad_and_never_dropped_in_silence(texts):
    column = pa.array(texts, pa.string())
    found = read_numbers(column, NONE)
    given_ = read_words(column, NONE).is_valid().to_numpy(zero_copy_only=False)
    accounted = ~np.isnan(found.values).astype(bool) | (found.limit != 0) | found.bad
    assert np.array_equal(accounted, given_)
    for text, value in zip(texts, found.values, strict=True):
        if not np.isnan(value):
            assert float(text) == value


@settings(max_examples=200)
@given(st.lists(st.datetimes() | st.none(), max_size=10), st.sampled_from([" ", "T"]))
def test_times_written_as_iso_8601_are_read_back(times, between):
    texts = pa.array([None if t is None else t.isoformat(between) for t in times], pa.string())
    found = read_times(texts, NONE)
    assert not found.bad.any()
    assert found.array().to_pylist() == times


@given(st.lists(st.text("0123456789-: T.Z+", max_size=20), max_size=10))
def test_text_that_is_no_time_is_bad_and_never_another_time(texts):
    found = read_times(pa.array(texts, pa.string()), NONE)
    given_ = np.array([text.strip() != "" for text in texts], bool)
    assert np.array_equal(found.known | found.bad, given_)
    for text, at in zip(texts, found.array().to_pylist(), strict=True):
        if at is not None:
            assert at.isoformat().startswith(text.strip()[:10])
