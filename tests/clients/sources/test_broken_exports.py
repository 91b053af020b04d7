"""Exports that are broken: one clear message without a patient's value, or a counted exclusion."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exports import (
    FHIR,
    LABELS,
    LABS,
    LONG,
    MEASUREMENT,
    OBSERVATIONS,
    PATIENTS,
    PERSON,
    fhir_site,
    lines,
    omop_site,
    patients_of,
    tables_site,
    write_export,
)

from clients.site import load_site
from federation.errors import UserError

SECRET = "Mustermann"
"""Stands for a patient's value in every file; no message may hold it."""


def refused(make, *words):
    with pytest.raises(UserError) as caught:
        patients_of(make())
    message = str(caught.value)
    for word in words:
        assert word in message
    assert SECRET not in message
    return message


def with_row(row):
    return LABS + row + "\n"


@pytest.mark.parametrize(
    ("labs", "words"),
    [
        pytest.param("", ("labs.csv", "is empty"), id="empty file"),
        pytest.param(b"\xff\xfe" + LABS.encode("utf-16-le"), ("labs.csv", "utf-8"), id="UTF-16"),
        pytest.param(
            LABS.encode() + b"1,2024-01-01 12:00,M\xfcnch,1,mg/l\n",
            ("labs.csv", "test, row 4", "not utf-8 text", "encoding"),
            id="Latin-1",
        ),
        pytest.param(
            LABS.replace("unit\n", "test\n", 1), ("labs.csv", "test", "2 columns"), id="name twice"
        ),
        pytest.param(
            LABS.replace("result", "rezult", 1),
            ("result", "no such column", 'Did you mean "rezult"'),
            id="column missing",
        ),
        pytest.param(with_row(f"{SECRET},2024"), ("row 4", "fields"), id="short row"),
        pytest.param(
            with_row(f"1,2024-01-01,CRP,1,u,{SECRET}"), ("row 4", "fields"), id="long row"
        ),
        pytest.param(
            with_row(f"1,2024-01-01 12:00,CRP,{SECRET},mg/l"),
            ("labs.csv: result, row 4", "expected a number"),
            id="word for a number",
        ),
        pytest.param(with_row("1,2024-01-01 12:00,CRP,1_000,mg/l"), ("row 4",), id="Python number"),
        pytest.param(with_row('1,2024-01-01 12:00,CRP,"1,5",mg/l'), ("row 4",), id="decimal comma"),
        pytest.param(
            with_row(f"1,{SECRET},CRP,1,mg/l"), ("taken, row 4", "expected a time"), id="no time"
        ),
        pytest.param(
            with_row("1,2024-02-30 10:00,CRP,1,mg/l"), ("taken, row 4",), id="30 February"
        ),
        pytest.param(with_row("1,2024-01-01T10:00Z,CRP,1,mg/l"), ("taken, row 4",), id="zone"),
        pytest.param(with_row("1,1704103200,CRP,1,mg/l"), ("taken, row 4",), id="seconds"),
        pytest.param(with_row(",2024-01-01 12:00,CRP,1,mg/l"), ("patient, row 4",), id="nobody"),
        pytest.param(
            with_row("1,2024-01-01 12:00,CRP,55,mg/dl"), ("unit, row 4", "another unit"), id="units"
        ),
        pytest.param(
            with_row('1,2024-01-01 12:00,CRP,"1'), ("labs.csv",), id="a quote is left open"
        ),
        pytest.param(b"\0" * 400, ("labs.csv",), id="zeros"),
        pytest.param(gzip.compress(LABS.encode())[:40], ("labs.csv",), id="gzip without its name"),
    ],
)
def test_broken_csv_is_one_message(tmp_path, labs, words):
    refused(lambda: tables_site(tmp_path / "site", labs), *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('file = "labs.csv"', 'file = "labz.csv"', ("labz.csv", "was found")),
        ('subject = "patient"', "", ("data.events.tables.0", '"subject" or "stay"')),
        ('time = "taken"', "", ("data.events.tables.0", '"time" or "offset"')),
        ('time = "taken"', 'offset = "taken"', ("data.events", '"origin"')),
        ('subject = "patient"', 'stay = "patient"', ("data.events", "[data.events.stays]")),
        ('value = "result"', 'valeu = "result"', ("tables.0.valeu", 'Did you mean "value"')),
        ('code = "LAB//{test}"', "", ("data.events.tables.0", '"code"')),
        ('unit = "unit"', 'encoding = "klingon"', ("encoding", '"klingon"')),
        ('unit = "unit"', 'delimiter = ";"', ("no such column",)),
        ('"tables"', '"tabels"', ("data.events.format", 'Did you mean "tables"')),
    ],
)
def test_mistake_in_the_mapping_is_one_message(tmp_path, old, new, words):
    refused(lambda: tables_site(tmp_path / "site", events=LONG.replace(old, new, 1)), *words)


def test_truncated_gzip_and_truncated_parquet_are_named(tmp_path):
    rows = "".join(f"1,2024-01-01 10:{i % 60:02d},T{i * 7919 % 9973},{i},u\n" for i in range(5000))
    events = LONG.replace("labs.csv", "labs.csv.gz")
    whole = gzip.compress((LABS + rows).encode())
    refused(
        lambda: write_export(tmp_path / "a", events, {"labs.csv.gz": whole[: len(whole) // 2]}),
        "labs.csv.gz",
        "truncated",
    )
    pq.write_table(pa.table({"patient": [1], "taken": ["x"]}), tmp_path / "x.parquet")
    half = (tmp_path / "x.parquet").read_bytes()[:-20]
    events = LONG.replace("labs.csv", "labs.parquet")
    refused(
        lambda: write_export(tmp_path / "b", events, {"labs.parquet": half}),
        "labs.parquet",
        "not a readable parquet file",
    )


def test_link_out_of_the_data_folder_is_refused(tmp_path):
    (tmp_path / "outside.csv").write_text(LABS)

    def make():
        site = tables_site(tmp_path / "site")
        (site / "data" / "labs.csv").unlink()
        (site / "data" / "labs.csv").symlink_to(tmp_path / "outside.csv")
        return site

    refused(make, "labs.csv", "leads out of the data folder")


def test_unreadable_cells_are_counted_where_the_site_file_says_so(tmp_path):
    labs = with_row(f"1,2024-01-01 12:00,CRP,{SECRET},mg/l\n2,{SECRET},CRP,1,mg/l")
    events = LONG + 'unreadable = "count"\n'
    patients = patients_of(tables_site(tmp_path / "site", labs, events))
    assert patients.notices == {
        "value: cannot be read, not used": 2,
        "event without a time, not used": 1,
    }
    assert len(patients.events) == 3


def test_times_before_the_birth_are_counted_and_not_used(tmp_path):
    more = "1,2024-01-01 09:00,OLD,1,u\n1,1900-01-01 09:00,OLD,1,u\n"
    events = LONG + (
        '[[data.events.tables]]\nfile = "born.csv"\nsubject = "p"\nstatic = true\n'
        'columns.born = { code = "MEDS_BIRTH", kind = "time" }\n'
    )
    files = {"labs.csv": LABS + more, "born.csv": "p,born\n1,1960-05-05\n2,1950-01-01\n"}
    patients = patients_of(write_export(tmp_path / "site", events, files))
    assert patients.notices == {"events before the birth, not used": 1}
    assert (patients.events["code"] == "LAB//OLD").sum() == 1
    assert patients.events["code"].eq("AGE//AT_PREDICTION").sum() == 2


def observation(**changes):
    return {**OBSERVATIONS[0], **changes}


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        pytest.param(f"{SECRET}\n", ("line 1", "not a JSON object"), id="not JSON"),
        pytest.param(lines(OBSERVATIONS)[:-20], ("line 2", "not a JSON object"), id="cut off"),
        pytest.param("[1, 2]\n", ("line 1", "not a JSON object"), id="a list"),
        pytest.param(lines([*OBSERVATIONS, {}]), ("line 3", "no resource type"), id="no type"),
        pytest.param(lines([{"id": SECRET}]), ("line 1", "resourceType"), id="first without type"),
        pytest.param(lines([OBSERVATIONS[0], PATIENTS[0]]), ("line 2", "Patient"), id="mixed"),
        pytest.param("[" * 100_000 + "\n", ("line 1",), id="nested without end"),
        pytest.param(b"\x1f\x8bnot gzip", ("Observation", "truncated or damaged"), id="no gzip"),
        pytest.param(
            gzip.compress(lines(OBSERVATIONS * 50).encode())[:-30], ("Observation",), id="half gzip"
        ),
        pytest.param(gzip.compress(b'{"a": "' + b"x" * (33 << 20)), ("32 MB",), id="gzip bomb"),
        pytest.param(gzip.compress(b'{"a": "\xff"}\n'), ("line 1",), id="not UTF-8"),
        pytest.param(
            lines([{**OBSERVATIONS[0], "code": {"coding": [{"code": "\ud800"}]}}]),
            ("line 1",),
            id="half a character",
        ),
    ],
)
def test_broken_bulk_export_is_one_message(tmp_path, resources, words):
    refused(lambda: fhir_site(tmp_path / "site", resources), *words)


def test_export_without_patients_or_their_identifiers_is_explained(tmp_path):
    def without():
        site = fhir_site(tmp_path / "a")
        (site / "data" / "Patient.ndjson").unlink()
        return site

    refused(without, "no file holds Patient resources")
    refused(
        lambda: fhir_site(tmp_path / "b", events=FHIR + 'identifier = "urn:mrn"\n'),
        "Patient.ndjson: line 1",
        "urn:mrn",
    )
    refused(lambda: write_export(tmp_path / "c", FHIR, {"x.json": "{}"}), "ndjson")


@pytest.mark.parametrize(
    ("resource", "reason", "where"),
    [
        (observation(subject={"reference": "Patient/404"}), "absent", "excluded"),
        (observation(subject=None), "absent", "excluded"),
        (observation(subject={"reference": 7}), "absent", "excluded"),
        (observation(effectiveDateTime=None), "without a time", "notices"),
        (observation(effectiveDateTime="2024-13-01"), "without a time", "notices"),
        (observation(effectiveDateTime=1704103200), "without a time", "notices"),
        (observation(code={"text": SECRET}), "without a code", "notices"),
        (observation(code={"coding": [{"code": ""}]}), "without a code", "notices"),
        (observation(code=[SECRET]), "without a code", "notices"),
        (observation(status="entered-in-error"), "entered in error", "notices"),
    ],
)
def test_resource_that_cannot_be_used_is_counted_and_the_others_are_read(
    tmp_path, resource, reason, where
):
    patients = patients_of(fhir_site(tmp_path / "site", lines([resource, *OBSERVATIONS])))
    counted = {"excluded": patients.excluded, "notices": patients.notices}
    (found,) = counted.pop(where).items()
    assert reason in found[0]
    assert found[1] == 1
    assert [*counted.values()] == [{}]
    assert (patients.events["code"] == "LOINC//1988-5").sum() == 2


@pytest.mark.parametrize(
    "value",
    [
        {"valueQuantity": {"value": SECRET}},
        {"valueQuantity": {"value": True}},
        {"valueQuantity": {"value": 10**400}},
        {"valueQuantity": {"value": None, "comparator": 5}},
        {"valueQuantity": [1]},
        {"valueCodeableConcept": {"coding": SECRET}},
        {"component": {"code": 1}},
        {"valueString": 5},
    ],
)
def test_odd_value_is_an_event_without_one(tmp_path, value):
    resource = {k: v for k, v in OBSERVATIONS[0].items() if k != "valueQuantity"} | value
    patients = patients_of(fhir_site(tmp_path / "site", json.dumps(resource) + "\n"))
    (row,) = patients.events[patients.events["code"].eq("LOINC//1988-5")].to_dict("records")
    assert np.isnan(row["numeric_value"])


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"person": None}, ("holds no person table",)),
        ({"person": PERSON.replace("person_id", "id")}, ("person.csv: person_id",)),
        ({"person": PERSON.replace("1960,2,1", f"{SECRET},2,1")}, ("year_of_birth, row 1",)),
        ({"person": PERSON.replace("1960,2,1", "1960,13,1")}, ("year_of_birth", "row 1")),
        ({"person": PERSON + ",8507,1950,,,0,0\n"}, ("person_id, row 3", "has no person")),
        ({"measurement": MEASUREMENT.replace("5.5", SECRET)}, ("value_as_number, row 1",)),
        (
            {"measurement": MEASUREMENT.replace(",2024-01-01,,", f",{SECRET},,")},
            ("measurement_date, row 2", "expected a date"),
        ),
        ({"measurement": MEASUREMENT.replace("measurement_date,", "date,", 1)}, ("_date",)),
        ({"concept": "concept_id,vocabulary_id,concept_code\nx,LOINC,1\n"}, ("concept_id, row 1",)),
        ({"death": "person_id,death_date\n1,yesterday\n"}, ("death.csv: death_date, row 1",)),
    ],
)
def test_broken_omop_table_is_one_message(tmp_path, tables, words):
    refused(lambda: omop_site(tmp_path / "site", **tables), *words)


def test_omop_rows_that_cannot_be_used_are_counted(tmp_path):
    rows = "4,404,3020460,2024-01-01,,1,,,\n5,1,0,2024-01-01,,1,,,\n6,2,3020460,,,1,,,\n"
    patients = patients_of(omop_site(tmp_path / "site", measurement=MEASUREMENT + rows))
    assert patients.excluded == {"reference to an absent patient": 1}
    assert patients.notices == {
        "event without a code, not used": 1,
        "event without a time, not used": 1,
    }


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("", ("labels.csv", "is empty")),
        ("subject_id,prediction_time\n", ("labels.csv",)),
        (LABELS.replace("prediction_time", "when"), ("prediction_time", "no such column")),
        (LABELS.replace("2024-01-02 00:00,true", f"{SECRET},true"), ("prediction_time, row 1",)),
        (LABELS.replace("1,2024", ",2024", 1), ("subject_id, row 1",)),
    ],
)
def test_broken_labels_are_one_message(tmp_path, labels, words):
    def make():
        site = tables_site(tmp_path / "site")
        (site / "labels.csv").write_text(labels)
        return site

    refused(make, *words)


def test_label_that_is_neither_true_nor_false_is_counted(tmp_path):
    site = tables_site(tmp_path / "site")
    (site / "labels.csv").write_text(LABELS.replace(",true", f",{SECRET}"))
    patients = patients_of(site)
    assert patients.excluded == {"label outside the classes": 1}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("labels = {}", ("data.labels.index",)),
        ('labels = { index = ["A"], outcome = ["B"] }', ('"horizon_hours" or "until"',)),
        (
            'labels = { index = ["A"], outcome = ["B"], predict_after_hours = 9, '
            "horizon_hours = 8 }",
            ("data.labels", "more than"),
        ),
        ('labels = { index = ["A"], outcom = ["B"] }', ("data.labels", 'Did you mean "outcome"')),
    ],
)
def test_mistake_in_the_label_rule_is_one_message(tmp_path, rule, words):
    site = tables_site(tmp_path / "site")
    text = (site / "site.toml").read_text().replace('labels = "labels.csv"', rule)
    (site / "site.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_site(site)
    for word in words:
        assert word in str(caught.value)
