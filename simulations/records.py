"""What a synthetic hospital holds on disk: events, notes, radiographs, labels and a site file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import (
    DataSchema,
    birth_code,
    code_metadata_filepath,
    dataset_metadata_filepath,
    death_code,
)

from simulations.hospitals import (
    DIAGNOSES,
    ETHNICITIES,
    LABS,
    LACTATE_MORE_MISSING,
    LESS_MISSING,
    NOTE_STRENGTH,
    OXIMETER_BIAS,
    SITE_STRIDE,
    TREND,
    URGENCY,
    VITALS,
    Floats,
    Hospital,
    Measurement,
    Person,
    findings_of,
    random_stream,
    sigmoid,
)
from simulations.notes import admission_note, discharge_note
from simulations.outcomes import Kind, label_files
from simulations.phantom import Chest, Scanner, Study, draw_chest, expose, render, write_dicom

Row = tuple[int, datetime | None, str, float | None, str | None]
Picture = tuple[Chest, Study, Path, np.random.Generator]
AFTERMATH = (
    ("ICD10CM//A41.9", "Sepsis, unspecified organism; coded at discharge"),
    ("ICD10CM//J96.01", "Acute respiratory failure with hypoxia; coded at discharge"),
)


def write_site(
    folder: Path,
    hospital: Hospital,
    people: list[Person],
    index: int,
    seed: int,
    image_size: int,
    epsilon_per_patient: float | None = None,
    task: Kind = "binary",
) -> dict[str, Any]:
    """Write the folder of one hospital; `index` is its place in the order.

    Returns:
        The realised counts that truth.json reports.
    """
    for part in ("data/meds/data", "data/meds/metadata", "data/dicom", "state"):
        (folder / part).mkdir(parents=True)
    cap = "" if epsilon_per_patient is None else f"epsilon_per_patient = {epsilon_per_patient}\n"
    key = hashlib.sha256(f"wardround patient key {seed} {hospital.name}".encode()).hexdigest()
    (folder / "state" / "patient.key").write_text(key)
    (folder / "state" / "patient.key").chmod(0o600)

    rows: list[Row] = []
    pictures: list[Picture] = []
    without = Counter[str]()
    for i, person in enumerate(people):
        rng = random_stream(seed, index, "record", i)
        chart = [*_background(person, rng), *_measurements(person, hospital, rng, without)]
        if _lacks(rng, "image", hospital.image_missing, person.b):
            without["image"] += 1
        else:
            taken = _between(rng, person.admitted, person.predicted)
            picture = _picture(person, hospital, taken, rng)
            file = hashlib.sha256(f"{key} {person.subject_id}".encode()).hexdigest()[:16] + ".dcm"
            pictures.append((*picture, folder / "data" / "dicom" / file, rng))
            chart.append((person.subject_id, taken, "IMAGE//DX", None, file))
        if _lacks(rng, "note", hospital.note_missing, person.c):
            without["note"] += 1
        else:
            text = admission_note(rng, person.c, hospital.styles, strength=NOTE_STRENGTH)
            written = person.admitted + timedelta(minutes=int(rng.integers(30, 240)))
            chart.append((person.subject_id, written, "NOTE//ADMISSION", None, text))
        chart += _aftermath(person, rng)
        rows += sorted(chart, key=lambda row: row[1] or datetime.min)
    _write_pictures(pictures, hospital.scanner, image_size)
    _write_tables(folder / "data", hospital, people, rows)
    files = label_files(task, people, index, seed)
    for name, (whom, values) in files.items():
        labels = {
            "subject_id": pa.array([people[i].subject_id for i in whom], pa.int64()),
            "prediction_time": pa.array([people[i].predicted for i in whom], pa.timestamp("us")),
            **values,
        }
        pq.write_table(pa.table(labels), folder / "data" / f"{name}.parquet")
    named = {name: f"data/{name}.parquet" for name in files}
    described = _SITE_TOML.format(name=hospital.name, labels=_as_toml(named))
    (folder / "site.toml").write_text(described + cap)
    return _realised(people, rows, without)


def _as_toml(labels: dict[str, str]) -> str:
    """Return the files of labels as the site file names them: one, or each with its label."""
    if len(labels) == 1:
        return f'"{next(iter(labels.values()))}"'
    named = (f'{name} = "{file}"' for name, file in labels.items())
    return f"{{ {', '.join(named)} }}"


_SITE_TOML = """\
[site]
name = "{name}"
device = "cpu"
state = "state"

[data]
events = {{ format = "meds", path = "data/meds" }}
images = {{ format = "dicom", path = "data/dicom" }}
notes = {{ format = "meds" }}
labels = {labels}
subgroups = ["sex", "age_band", "ethnicity"]

[policy]
minimum_cell = 10
score_bins = "fine"                # synthetic patients: nothing to protect; the default is "merged"
require_privacy = false
"""


def _background(person: Person, rng: np.random.Generator) -> list[Row]:
    """Who the patient is, and diagnoses from earlier years."""
    who = person.subject_id
    rows: list[Row] = [
        (who, None, f"GENDER//{'F' if person.female else 'M'}", None, None),
        (who, None, f"ETHNICITY//{person.ethnicity}", None, None),
        (who, person.birth, birth_code, None, None),
        (who, person.admitted, "HOSPITAL_ADMISSION", None, None),
    ]
    draws, days = rng.random(len(DIAGNOSES)), rng.integers(30, 2000, len(DIAGNOSES))
    for (code, _, weight, base), draw, ago in zip(DIAGNOSES, draws, days, strict=True):
        if draw < sigmoid(base + (weight or 0.0) * person.c):
            rows.append((who, person.admitted - timedelta(days=int(ago)), code, None, None))
    return rows


def _measurements(
    person: Person, hospital: Hospital, rng: np.random.Generator, without: Counter[str]
) -> list[Row]:
    """Vitals and labs before the prediction; the sicker are measured more, and missed less."""
    urgency = np.exp(URGENCY * person.a)
    rows: list[Row] = []
    for m in VITALS:
        count = 1 + int(rng.poisson(4 * hospital.attention * urgency))
        rows += _series(m, person, min(count, 30), rng)
    for m in LABS:
        usual = hospital.lab_missing + LACTATE_MORE_MISSING * (m.code == "LAB//LACTATE")
        if _lacks(rng, "lab", usual, person.a):
            without[m.code] += 1
        else:
            rows += _series(m, person, 1 + min(int(rng.poisson(1.2 * urgency)), 8), rng)
    return rows


def _series(m: Measurement, person: Person, count: int, rng: np.random.Generator) -> list[Row]:
    minutes = int((person.predicted - person.admitted).total_seconds()) // 60
    at = np.sort(rng.integers(1, minutes, count))
    e = rng.standard_normal(count + 1)
    shown = m.slope * person.a * (TREND[0] + TREND[1] * at / minutes)
    values = m.base + shown + m.person * e[0] + m.noise * e[1:]
    times = [person.admitted + timedelta(minutes=int(t)) for t in at]
    return _readings(m, person, times, np.exp(values) if m.log else values)


def _readings(m: Measurement, person: Person, times: list[datetime], values: Floats) -> list[Row]:
    if m.code == "VITAL//SPO2":
        values = values + OXIMETER_BIAS.get(person.ethnicity, 0.0)
    shown = np.round(np.clip(values, m.low, m.high), m.decimals)
    return [
        (person.subject_id, t, m.code, float(v), None) for t, v in zip(times, shown, strict=True)
    ]


def _lacks(rng: np.random.Generator, what: str, usual: float, latent: float) -> bool:
    return bool(rng.random() < usual - LESS_MISSING[what] * (latent > 0.5))


def _between(rng: np.random.Generator, start: datetime, end: datetime) -> datetime:
    minutes = int((end - start).total_seconds()) // 60
    return start + timedelta(minutes=int(rng.integers(30, minutes)))


def _picture(
    person: Person, hospital: Hospital, taken: datetime, rng: np.random.Generator
) -> tuple[Chest, Study]:
    portable = bool(rng.random() < hospital.portable)
    chest = draw_chest(
        rng,
        findings_of(person.b, rng.standard_normal(4)),
        female=person.female,
        age=person.age,
        bmi=float(np.clip(rng.normal(27, 4), 17, 42)),
        portable=portable,
    )
    surname, given = _SURNAMES[int(rng.integers(16))], _GIVEN[int(rng.integers(16))]
    study = Study(
        patient_id=str(person.subject_id),
        name=f"{surname}^{given}",
        sex="F" if person.female else "M",
        birth=person.birth,
        taken=taken,
        institution=hospital.name,
        portable=portable,
    )
    return chest, study


_SURNAMES = (
    "Abendroth", "Brandvale", "Castellane", "Dunmere", "Eskerly", "Farrowby", "Glasswell",
    "Hartigane", "Ivelstone", "Jessamond", "Kettlewick", "Lorimond", "Merrowdale", "Norrington",
    "Ostervale", "Pellingham",
)  # fmt: skip
_GIVEN = (
    "Alba", "Bram", "Cleo", "Dara", "Eli", "Flo", "Gil", "Hana", "Ira", "Juno", "Kit", "Lou",
    "Mika", "Noa", "Ola", "Pim",
)  # fmt: skip


def _aftermath(person: Person, rng: np.random.Generator) -> list[Row]:
    """What the record holds after the prediction time: all of it tells the outcome."""
    who, sick = person.subject_id, person.deteriorates
    event = person.predicted + timedelta(minutes=int(rng.integers(120, 40 * 60)))
    end = event + timedelta(minutes=int(rng.integers(12 * 60, (240 if sick else 72) * 60)))
    died = sick and bool(rng.random() < 0.3)
    level = 3.0 if sick else 0.4 * person.a
    rows: list[Row] = []
    for m in (*VITALS, LABS[0]):
        value = m.base + m.slope * level * 1.5 + m.person * rng.standard_normal()
        rows += _readings(m, person, [event], np.atleast_1d(np.exp(value) if m.log else value))
    if sick and rng.random() < 0.8:
        rows.append((who, event + timedelta(minutes=45), "ICU_TRANSFER", None, None))
    for code, _ in AFTERMATH:
        if rng.random() < (0.5 if sick else 0.02):
            rows.append((who, end, code, None, None))
    rows.append((who, end, death_code if died else "HOSPITAL_DISCHARGE", None, None))
    text = discharge_note(deteriorated=sick, died=died)
    rows.append((who, end, "NOTE//DISCHARGE", None, text))
    return rows


def _write_pictures(pictures: list[Picture], scanner: Scanner, image_size: int) -> None:
    for start in range(0, len(pictures), _STACK):
        stack = pictures[start : start + _STACK]
        for attenuation, (_, study, path, rng) in zip(
            render([p[0] for p in stack], image_size), stack, strict=True
        ):
            pixels = expose(attenuation, scanner, rng)
            write_dicom(path, pixels, scanner, study)


_STACK = 32  # radiographs rendered at once: their maps still fit in the processor's cache


def _write_tables(data: Path, hospital: Hospital, people: list[Person], rows: list[Row]) -> None:
    columns = list(zip(*rows, strict=True))
    names = ("subject_id", "time", "code", "numeric_value", "text_value")
    schema = DataSchema.schema()
    events = {n: pa.array(c, schema.field(n).type) for n, c in zip(names, columns, strict=True)}
    pq.write_table(pa.table(events), data / "meds" / "data" / "0.parquet")
    codes = [(m.code, f"{m.code.split('//')[1].lower()}, {m.unit}") for m in (*VITALS, *LABS)]
    codes += [*((code, text) for code, text, _, _ in DIAGNOSES), *AFTERMATH, *_OTHER_CODES]
    described = {"code": [c for c, _ in codes], "description": [d for _, d in codes]}
    pq.write_table(pa.table(described), data / "meds" / code_metadata_filepath)
    about = {
        "dataset_name": f"{hospital.name} (synthetic)",
        "dataset_version": "1",
        "etl_name": "wardround synthesize",
        "meds_version": version("meds"),
    }
    (data / "meds" / dataset_metadata_filepath).write_text(json.dumps(about, indent=2) + "\n")


_OTHER_CODES = (
    (birth_code, "Birth"),
    (death_code, "Death"),
    ("GENDER//F", "Female"),
    ("GENDER//M", "Male"),
    *((f"ETHNICITY//{e}", f"Ethnicity: {e.lower()}") for e in ETHNICITIES),
    ("HOSPITAL_ADMISSION", "Admission to hospital"),
    ("HOSPITAL_DISCHARGE", "Discharge from hospital"),
    ("ICU_TRANSFER", "Transfer to intensive care"),
    ("IMAGE//DX", "Chest radiograph; text_value is its path below the site's image folder"),
    ("NOTE//ADMISSION", "Admission note"),
    ("NOTE//DISCHARGE", "Discharge summary"),
)


def _realised(people: list[Person], rows: list[Row], without: Counter[str]) -> dict[str, Any]:
    events_after = sum(
        1 for row in rows if row[1] and row[1] > people[row[0] % SITE_STRIDE].predicted
    )
    n = len(people)
    return {
        "patients": n,
        "positives": sum(p.deteriorates for p in people),
        "prevalence": sum(p.deteriorates for p in people) / n,
        "image_missing": without["image"] / n,
        "note_missing": without["note"] / n,
        "lab_missing": {m.code: without[m.code] / n for m in LABS},
        "events": len(rows),
        "events_after_prediction": events_after,
    }
