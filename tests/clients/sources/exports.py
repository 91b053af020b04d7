"""Small exports of two patients in every format, and what reads them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa

from clients.cohort import read_patients
from clients.site import load_site
from clients.sources.registry import site_events
from clients.sources.schema import EVENT_SCHEMA, Told
from clients.sources.subjects import SubjectIds
from federation.study import SplitSection
from federation.tasks import BinaryTask

KEY = b"k" * 32
LABELS = (
    "subject_id,prediction_time,boolean_value\n1,2024-01-02 00:00,true\n2,2024-01-02 00:00,false\n"
)
HEAD = '[site]\nname = "bern"\n\n[data]\nlabels = "labels.csv"\n\n[data.events]\n'
LONG = """\
format = "tables"
path = "data"
[[data.events.tables]]
file = "labs.csv"
subject = "patient"
time = "taken"
code = "LAB//{test}"
value = "result"
unit = "unit"
"""
LABS = """\
patient,taken,test,result,unit
1,2024-01-01 10:00,CRP,5.5,mg/l
1,2024-01-01 11:00,NA,140,mmol/l
2,2024-01-01 10:00,CRP,<0.3,mg/l
"""
FHIR = 'format = "fhir"\npath = "data"\n'
OMOP = 'format = "omop"\npath = "data"\n'
PATIENTS = [
    {"resourceType": "Patient", "id": "1", "gender": "female", "birthDate": "1960-02-01"},
    {"resourceType": "Patient", "id": "2", "gender": "male", "birthDate": "1950"},
]
OBSERVATIONS = [
    {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": f"Patient/{patient}"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "1988-5"}]},
        "effectiveDateTime": "2024-01-01T10:00:00+01:00",
        "valueQuantity": {"value": 5.5 * patient, "unit": "mg/l"},
    }
    for patient in (1, 2)
]
PERSON = """\
person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,race_concept_id,ethnicity_concept_id
1,8532,1960,2,1,8527,0
2,8507,1950,,,8516,38003563
"""
MEASUREMENT = """\
measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,value_as_number,operator_concept_id,value_as_concept_id,measurement_source_value
1,1,3020460,2024-01-01,2024-01-01 10:00:00,5.5,,,CRP
2,2,3020460,2024-01-01,,0.3,4171756,0,CRP
3,2,0,2024-01-01,2024-01-01 11:00:00,,,45884084,FLU
"""


def write_export(folder: Path, events: str, files: dict[str, str | bytes], labels: str = LABELS):
    """Write a site with the text of ``[data.events]`` and files below ``data``; return it."""
    (folder / "data").mkdir(parents=True)
    (folder / "site.toml").write_text(HEAD + events, encoding="utf-8")
    (folder / "labels.csv").write_text(labels, encoding="utf-8")
    for name, content in files.items():
        file = folder / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tables_site(folder: Path, labs: str | bytes = LABS, events: str = LONG):
    return write_export(folder, events, {"labs.csv": labs})


def lines(resources) -> str:
    return "".join(json.dumps(one) + "\n" for one in resources)


def fhir_site(folder: Path, observations=None, patients=None, more=(), events: str = FHIR):
    """Write a bulk export; what is given as text or bytes is written as it is."""
    files = {
        "Patient.ndjson": patients if patients is not None else lines(PATIENTS),
        "Observation.ndjson.gz": observations if observations is not None else lines(OBSERVATIONS),
        **dict(more),
    }
    packed = {
        name: gzip.compress(content.encode(), mtime=0)
        if name.endswith(".gz") and isinstance(content, str)
        else content
        for name, content in files.items()
    }
    return write_export(folder, events, packed)


def omop_site(folder: Path, **tables):
    """Write OMOP tables; a keyword replaces one, None leaves it out."""
    chosen = {"person": PERSON, "measurement": MEASUREMENT, **tables}
    files = {f"{name}.csv": text for name, text in chosen.items() if text is not None}
    return write_export(folder, OMOP, files)


def events_of(folder: Path):
    """Read all events of a site as a data frame, and what the reader tells."""
    site, told = load_site(folder), Told()
    ids = SubjectIds(lambda: KEY)
    batches = list(site_events(site, ids, told))
    assert all(batch.schema == EVENT_SCHEMA for batch in batches)
    return pa.Table.from_batches(batches, EVENT_SCHEMA).to_pandas(), told


def patients_of(folder: Path, split: str = "patient"):
    return read_patients(load_site(folder), BinaryTask(label="x"), SplitSection(by=split))
