"""Whatever a file holds, a reader ends with events, counted rows, or one message."""

import contextlib
import csv
import io
import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exports import (
    FHIR,
    LABS,
    LONG,
    MEASUREMENT,
    OBSERVATIONS,
    OMOP,
    PATIENTS,
    PERSON,
    events_of,
    lines,
    write_export,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.sources import meds
from clients.sources.columns import names_of
from clients.sources.settings import NO_VALUE
from federation.errors import UserError

COUNTING = LONG + 'unreadable = "count"\n'
PERSONS = {"person.csv": PERSON}
PEOPLE = {"Patient.ndjson": lines(PATIENTS)}
FORMATS = {
    "tables": (LONG, "labs.csv", LABS.encode(), {}),
    "counting": (COUNTING, "labs.csv", LABS.encode(), {}),
    "fhir": (FHIR, "Observation.ndjson", lines(OBSERVATIONS).encode(), PEOPLE),
    "fhir people": (FHIR, "Patient.ndjson", lines(PATIENTS).encode(), {}),
    "omop": (OMOP, "measurement.csv", MEASUREMENT.encode(), PERSONS),
    "omop people": (OMOP, "person.csv", PERSON.encode(), {}),
}
NUMBERS = itertools.count()
CELL = st.sampled_from(["", "1", "2", "<5", "nan", "inf", "-1e5", "2024-01-01 10:00", "CRP", "0"])
CELL |= st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=6)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["Patient/1", "2024-01-01", "2024-02-30T10:00:00Z", "http://loinc.org"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["value", "coding", "code", "system", "reference", "start", "end", "url"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        name: JSON
        for name in (
            "id", "status", "subject", "encounter", "context", "code", "class", "period",
            "effectiveDateTime", "effectivePeriod", "issued", "valueQuantity", "valueString",
            "valueCodeableConcept", "component", "performedPeriod", "recordedDate", "onsetDateTime",
            "authoredOn", "medicationReference", "medicationCodeableConcept", "dosage",
            "hospitalization", "verificationStatus", "extension", "gender", "birthDate",
            "deceasedDateTime", "identifier",
        )
    },
)  # fmt: skip


def read(tmp_path, events, files):
    """Return events and what is told, and no message; or neither, and the message."""
    try:
        return *events_of(write_export(tmp_path / str(next(NUMBERS)), events, files)), None
    except UserError as error:
        return None, None, str(error)


@st.composite
def damaged(draw, whole):
    """Cut, overwrite or insert a few bytes."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(["cut", "write", "insert", "repeat"]))
        some = draw(st.binary(max_size=6) | st.sampled_from([b"\n", b'"', b",", b"\0", b"\r\n"]))
        if how == "cut":
            del content[at : at + draw(st.integers(1, 40))]
        elif how == "write":
            content[at : at + len(some)] = some
        elif how == "insert":
            content[at:at] = some
        else:
            content += content[at:]
    return bytes(content)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_file_is_read_or_refused_with_one_message(tmp_path, name):
    events, file, whole, others = FORMATS[name]

    @settings(max_examples=60)
    @given(damaged(whole) | st.binary(max_size=200))
    def check(content):
        _, _, refused = read(tmp_path, events, {**others, file: content})
        assert refused is None or f"data/{file}" in refused or "no file holds" in refused

    check()


def test_damaged_parquet_is_read_or_refused_with_one_message(tmp_path):
    columns = {
        "subject_id": pa.array([1, 2, 3]),
        "time": pa.array([0, 10**12, None], pa.timestamp("us")),
        "code": pa.array(["A", "B//C", "A"]),
        "numeric_value": pa.array([1.5, None, 3.0], pa.float32()),
    }
    file = tmp_path / "meds" / "x.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table(columns), file)
    whole = file.read_bytes()

    @settings(max_examples=100)
    @given(damaged(whole))
    def check(content):
        file.write_bytes(content)
        with contextlib.suppress(UserError):
            for batch in meds.batches(file.parent):
                batch.validate(full=True)

    check()


def test_name_of_a_column_that_is_no_text_is_one_message(tmp_path):
    file = tmp_path / "meds" / "x.parquet"
    file.parent.mkdir()
    names = pa.table({"subject_id": [1], "code": ["A"], "numeric_value": [1.5]})
    pq.write_table(names, file, store_schema=False)
    file.write_bytes(file.read_bytes().replace(b"numeric_value", b"\x80umeric_value"))
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        list(meds.batches(file.parent))
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        names_of(file)


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(CELL, CELL, CELL, CELL, CELL), min_size=1, max_size=8))
def test_every_row_of_a_table_is_an_event_or_counted_or_without_a_value(tmp_path, rows):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("patient", "taken", "test", "result", "unit"), *rows])
    events, told, refused = read(tmp_path, COUNTING, {"labs.csv": text.getvalue()})
    if refused is not None:
        assert "labs.csv" in refused
        return
    empty = sum(row[3].strip() in NO_VALUE for row in rows)
    assert len(events) <= len(rows)
    assert len(events) + sum(told.rows.values()) + empty >= len(rows)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(
        [
            "Encounter",
            "Condition",
            "Procedure",
            "Observation",
            "MedicationRequest",
            "MedicationAdministration",
            "Medication",
        ]
    ),
    resources=st.lists(FIELDS, min_size=1, max_size=4),
    mine=st.booleans(),
)
def test_every_resource_of_any_shape_is_an_event_or_counted(tmp_path, kind, resources, mine):
    told_as = {"resourceType": kind, **({"subject": {"reference": "Patient/1"}} if mine else {})}
    files = {**PEOPLE, f"{kind}.ndjson": lines({**r, **told_as} for r in resources)}
    events, told, refused = read(tmp_path, FHIR, files)
    assert refused is None
    own = events[~events["code"].str.startswith(("MEDS_BIRTH", "GENDER"))]
    if kind != "Medication":
        assert len(own) + sum(told.rows.values()) >= len(resources)
    assert events["subject_id"].isin([1, 2]).all()


@settings(max_examples=60)
@given(FIELDS)
def test_patient_of_any_shape_is_read_or_refused(tmp_path, fields):
    patient = json.dumps({**fields, "resourceType": "Patient"})
    _, _, refused = read(tmp_path, FHIR, {"Patient.ndjson": patient})
    assert refused is None or "Patient.ndjson: line 1" in refused
