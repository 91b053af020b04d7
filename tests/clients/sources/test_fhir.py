"""FHIR R4: what resources become; and the MIMIC demo's two copies, which hold the same facts."""

import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from exports import FHIR, OBSERVATIONS, events_of, fhir_site, lines, write_export
from hypothesis import given
from hypothesis import strategies as st

from clients.sources import meds
from clients.sources.fhir_times import micros
from clients.sources.parsing import micros_of

DATA = Path(__file__).parents[3] / "../shared/data"
EXPORT, COPY = DATA / "mimic_iv_fhir_demo_2.1.0/fhir", DATA / "mimic_iv_demo_meds_0.0.1"
MIMIC = "http://mimic.mit.edu/fhir/mimic/CodeSystem"
PATIENT = {"reference": "Patient/1"}
MET = {"reference": "https://fhir.example/Encounter/e1/_history/2"}

needs_mimic = pytest.mark.skipif(
    not (EXPORT.is_dir() and COPY.is_dir()), reason=f"the MIMIC demo is not at {DATA}"
)


def codes_of(tmp_path, kind, *resources):
    more = {f"{kind}.ndjson": lines({"resourceType": kind, **r} for r in resources)}
    more.setdefault(
        "Encounter.ndjson",
        lines(
            [
                {
                    "resourceType": "Encounter",
                    "id": "e1",
                    "subject": PATIENT,
                    "class": {"code": "IMP"},
                    "period": {"start": "2024-01-01T08:00:00Z", "end": "2024-01-03T09:00:00Z"},
                    "hospitalization": {"dischargeDisposition": coded("HOME", "urn:x:disposition")},
                }
            ]
        ),
    )
    events, told = events_of(fhir_site(tmp_path / "site", more=more.items()))
    assert told.rows == {}
    mine = events[~events["code"].str.startswith(("MEDS_", "GENDER", "LOINC//1988-5"))]
    if kind != "Encounter":
        mine = mine[~mine["code"].str.startswith("ENCOUNTER")]
    return [
        (str(r.time), r.code, None if pd.isna(r.numeric_value) else round(r.numeric_value, 3))
        for r in mine.itertuples()
    ]


def coded(code, system="http://snomed.info/sct"):
    return {"coding": [{"system": "urn:local", "code": "x"}, {"system": system, "code": code}]}


def test_patient_gives_sex_birth_and_death_of_the_day_s_end(tmp_path):
    race = {
        "url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race",
        "extension": [{"url": "ombCategory", "valueCoding": {"code": "1", "display": "Asian"}}],
    }
    patient = {
        "resourceType": "Patient",
        "id": "1",
        "gender": "female",
        "birthDate": "1960-02",
        "deceasedDateTime": "2024-02-01",
        "extension": [race],
        "name": [{"family": "Mustermann"}],
    }
    events, _ = events_of(fhir_site(tmp_path / "site", "", json.dumps(patient)))
    assert [(r.code, str(r.time)) for r in events.itertuples()] == [
        ("GENDER//F", "NaT"),
        ("RACE//Asian", "NaT"),
        ("MEDS_BIRTH", "1960-02-01 00:00:00"),
        ("MEDS_DEATH", "2024-02-01 23:59:59.999999"),
    ]
    assert not events["text_value"].notna().any()


def test_encounter_gives_its_start_and_its_end(tmp_path):
    assert codes_of(tmp_path, "Encounter", *json_lines(ENCOUNTER)) == [
        ("2024-01-01 08:00:00", "ENCOUNTER_START//IMP", None),
        ("2024-01-03 09:00:00", "ENCOUNTER_END//HOME", None),
    ]


ENCOUNTER = {
    "id": "e1",
    "subject": PATIENT,
    "class": {"code": "IMP"},
    "period": {"start": "2024-01-01T08:00:00Z", "end": "2024-01-03T09:00:00Z"},
    "hospitalization": {"dischargeDisposition": {"coding": [{"code": "HOME"}]}},
}


def json_lines(*resources):
    return resources


def test_condition_is_known_when_recorded_or_when_its_encounter_ends(tmp_path):
    resources = [
        {"code": coded("1"), "subject": PATIENT, "recordedDate": "2024-01-01", "encounter": MET},
        {"code": coded("2"), "subject": PATIENT, "encounter": MET, "onsetDateTime": "2019"},
        {"code": coded("3"), "subject": PATIENT, "onsetDateTime": "2023-05-06T10:00:00+02:00"},
    ]
    assert codes_of(tmp_path, "Condition", *resources) == [
        ("2024-01-01 23:59:59.999999", "SNOMED//1", None),
        ("2024-01-03 09:00:00", "SNOMED//2", None),
        ("2023-05-06 10:00:00", "SNOMED//3", None),
    ]


def test_observation_of_every_kind_of_value(tmp_path):
    head = {"subject": PATIENT, "code": coded("A"), "effectiveInstant": "2024-01-01T08:00:00Z"}
    part = {"code": coded("P"), "valueQuantity": {"value": 80}}
    resources = [
        {**head, "valueQuantity": {"value": 1.5}},
        {**head, "valueQuantity": {"value": 1.5, "comparator": "<="}},
        {**head, "valueQuantity": {"value": 1.5, "comparator": ">"}},
        {**head, "valueInteger": 3},
        {**head, "valueBoolean": False},
        {**head, "valueCodeableConcept": coded("pos")},
        {**head, "component": [part, {**part, "code": coded("Q")}]},
    ]
    assert [row[1:] for row in codes_of(tmp_path, "Observation", *resources)] == [
        ("SNOMED//A", 1.5),
        ("SNOMED//A//BELOW_LIMIT", None),
        ("SNOMED//A//ABOVE_LIMIT", None),
        ("SNOMED//A", 3.0),
        ("SNOMED//A//FALSE", None),
        ("SNOMED//A//SNOMED//pos", None),
        ("SNOMED//P", 80.0),
        ("SNOMED//Q", 80.0),
    ]


def test_medication_is_named_by_the_resource_that_it_refers_to(tmp_path):
    more = {
        "Medication.ndjson": lines(
            [
                {
                    "resourceType": "Medication",
                    "id": "m1",
                    "code": coded("B01AB01", "http://www.whocc.no/atc"),
                }
            ]
        ),
        "MedicationAdministration.ndjson": lines(
            [
                {
                    "resourceType": "MedicationAdministration",
                    "status": status,
                    "subject": PATIENT,
                    "medicationReference": {"reference": "Medication/m1"},
                    "effectivePeriod": {"start": "2024-01-01T08:00:00Z"},
                    "dosage": {"dose": {"value": 5000}},
                }
                for status in ("completed", "not-done")
            ]
        ),
    }
    events, told = events_of(fhir_site(tmp_path / "site", more=more.items()))
    (given_,) = events[events["code"].str.startswith("GIVEN")].to_dict("records")
    assert (given_["code"], given_["numeric_value"]) == ("GIVEN//ATC//B01AB01", 5000)
    assert told.notices == {"event cancelled or entered in error, not used": {1}}


def test_system_of_the_site_file_goes_before_a_well_known_one(tmp_path):
    both = {
        "coding": [{"system": "http://loinc.org", "code": "1"}, {"system": "urn:lab", "code": "K"}]
    }
    text = FHIR + 'systems = { "urn:lab" = "LAB" }\n'
    one = lines([{**OBSERVATIONS[0], "code": both}])
    events, _ = events_of(fhir_site(tmp_path / "site", one, events=text))
    assert "LAB//K" in set(events["code"])


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 30)))
def test_parts_of_a_time_are_its_last_moment_or_for_births_its_first(at):
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    tick = timedelta(microseconds=1)
    assert micros(at.isoformat() + "+05:30") == micros_of(at)
    assert micros(f"{day:%Y}".zfill(4) + f"{day:-%m-%d}") == micros_of(
        day + timedelta(days=1) - tick
    )
    month = f"{day.year:04d}-{day.month:02d}"
    assert micros(month, early=True) == micros_of(day.replace(day=1))
    following = (day.replace(day=28) + timedelta(days=4)).replace(day=1) if at.year < 9999 else None
    if following is not None:
        assert micros(month) == micros_of(following - tick)
    assert micros(f"{day.year:04d}", early=True) == micros_of(day.replace(month=1, day=1))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The events of both copies of the MIMIC demo, whose patients have the same numbers."""
    text = f"""\
format = "fhir"
path = "{EXPORT.resolve()}"
identifier = "http://mimic.mit.edu/fhir/mimic/identifier/patient"
[data.events.systems]
"{MIMIC}/mimic-diagnosis-icd9" = "DIAGNOSIS//ICD//9"
"{MIMIC}/mimic-diagnosis-icd10" = "DIAGNOSIS//ICD//10"
"{MIMIC}/mimic-procedure-icd9" = "PROCEDURE//ICD//9"
"{MIMIC}/mimic-procedure-icd10" = "PROCEDURE//ICD//10"
"""
    site = write_export(tmp_path_factory.mktemp("mimic") / "site", text, {})
    (site / "data").rmdir()
    fhir, told = events_of(site)
    assert not told.notices
    assert not told.excluded
    return fhir, pa.Table.from_batches(meds.batches(COPY)).to_pandas()


def facts(events, start, *columns):
    chosen = events[events["code"].str.startswith(start)]
    return Counter(chosen[["subject_id", *columns]].itertuples(index=False, name=None))


@needs_mimic
def test_the_two_copies_of_the_mimic_demo_agree_where_both_hold_the_same_facts(copies):
    fhir, copy = copies
    assert set(fhir["subject_id"]) == set(copy["subject_id"])
    assert facts(fhir, "GENDER", "code") == facts(copy, "GENDER", "code")
    # The MEDS copy tells the year of birth alone; the FHIR copy the day of death alone.
    for events in copies:
        events["year"], events["day"] = events["time"].dt.year, events["time"].dt.date
    assert facts(fhir, "MEDS_BIRTH", "year") == facts(copy, "MEDS_BIRTH", "year")
    assert facts(fhir, "MEDS_DEATH", "day") == facts(copy, "MEDS_DEATH", "day")
    procedures = facts(fhir, "PROCEDURE//ICD", "time", "code")
    assert procedures == facts(copy, "PROCEDURE//ICD", "time", "code")
    assert procedures.total() == 722
    # What has no time of its own stands at the end of its stay, as in MEDS; FHIR adds those of
    # the emergency department.
    diagnoses = facts(copy, "DIAGNOSIS//ICD", "time", "code")
    assert diagnoses <= facts(fhir, "DIAGNOSIS//ICD", "time", "code")
    assert diagnoses.total() == 4506
    admissions = facts(copy, "HOSPITAL_ADMISSION", "time")
    assert admissions <= facts(fhir, "ENCOUNTER_START", "time")
    assert facts(copy, "HOSPITAL_DISCHARGE", "time") <= facts(fhir, "ENCOUNTER_END", "time")
    assert admissions.total() == 275


@needs_mimic
def test_measured_outputs_of_both_copies_are_equal_to_the_millilitre(copies):
    fhir, copy = copies
    item = fhir["code"].str.extract(r"^MIMIC-D-ITEMS//(\d+)$")[0]
    ours = fhir.assign(item=item)[fhir["numeric_value"].notna() & item.notna()]
    item = copy["code"].str.extract(r"^SUBJECT_FLUID_OUTPUT//(\d+)//")[0]
    theirs = copy.assign(item=item)[item.notna()]
    assert len(theirs) == 9362
    columns = ("time", "item", "numeric_value")
    assert facts(ours, "MIMIC", *columns) == facts(theirs, "SUBJECT", *columns)
