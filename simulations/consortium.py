"""Synthetic hospitals: what each would hold, on disk, with a known truth behind it.

Three latents drive a patient: a (physiology), b (image) and c (history), with a shared severity u:
`a = 0.5 u + 0.87 e`, likewise b and c. Vitals and labs show a, the radiograph shows b, the notes
and (a little) the diagnoses show c, and the outcome follows

    logit = offset(site) + 1.4 a + 1.1 b + 1.3 c + 0.3 a b + 0.02 (age - 62) + 0.01 (age - 62) c

so every modality adds something, and the best possible AUROC is known. docs/synthetic-data.md has
the whole model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from numpy.typing import NDArray

from federation.errors import UserError
from simulations.notes import STYLES, admission_note, discharge_note
from simulations.phantom import (
    SCANNERS,
    Chest,
    Findings,
    Scanner,
    Study,
    draw_chest,
    expose,
    render,
    write_dicom,
)

Floats = NDArray[np.float64]
Row = tuple[int, datetime | None, str, float | None, str | None]


def synthesize(
    out: Path,
    *,
    sites: int,
    patients: int,
    seed: int,
    image_size: int = 64,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write a consortium of synthetic hospitals.

    The same arguments give the same bytes. A hospital's patients depend on the seed, its place in
    the order and `patients`, not on how many hospitals follow it.

    Args:
        out: folder to fill; must be empty or absent.
        sites: how many hospitals.
        patients: patients per hospital on average; sizes differ, the total is sites * patients.
        seed: of everything.
        image_size: height and width of the radiographs in pixels.
        progress: called with one line per hospital.

    Raises:
        UserError: if `out` is in use or a number is out of range.
    """
    _check(out, sites=sites, patients=patients, seed=seed, image_size=image_size)
    out.mkdir(parents=True, exist_ok=True)
    hospitals = draw_hospitals(sites, patients, seed)
    everyone, realised, curves = [], [], []
    for index, hospital in enumerate(hospitals):
        if progress:
            progress(f"{hospital.name}: {hospital.size} patients ({index + 1} of {sites})")
        people = _draw_people(hospital, index, seed)
        folder = out / hospital.name
        realised.append(_write_site(folder, hospital, people, index, seed, image_size))
        curves.append(_risk_curve(hospital, index, seed))
        everyone.append(people)
    latents = [_latents(h, people) for h, people in zip(hospitals, everyone, strict=True)]
    pq.write_table(pa.concat_tables(latents), out / "truth.parquet")
    truth = _truth(hospitals, everyone, realised, curves)
    truth["arguments"] = {
        "sites": sites,
        "patients": patients,
        "seed": seed,
        "image_size": image_size,
    }
    (out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")


# --- The model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """Coefficients of the outcome's logit; ages are in years from 62."""

    physiology: float = 1.4
    image: float = 1.1
    history: float = 1.3
    physiology_image: float = 0.3
    age: float = 0.02
    age_history: float = 0.01


@dataclass(frozen=True)
class Hospital:
    """What makes one hospital differ from another."""

    name: str
    size: int
    prevalence: float  # expected; the offset is solved from it
    offset: float
    age: float
    age_spread: float
    female: float
    ethnicity: tuple[float, ...]  # of ETHNICITIES
    image_missing: float
    note_missing: float
    lab_missing: float
    attention: float  # how often vitals are charted, 1 is usual
    portable: float  # share of bedside radiographs
    styles: tuple[float, ...]  # of notes.STYLES
    scanner: Scanner


@dataclass(frozen=True)
class Person:
    """One synthetic patient: the truth, before anything is recorded."""

    subject_id: int
    female: bool
    ethnicity: str
    age: float
    admitted: datetime
    predicted: datetime
    a: float
    b: float
    c: float
    logit: float
    deteriorates: bool

    @property
    def birth(self) -> datetime:
        """Midnight of the day of birth."""
        day = self.admitted - timedelta(days=self.age * 365.25)
        return day.replace(hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Measurement:
    """How a vital sign or lab shows the physiology latent a.

    value = base + slope * a * (0.8 + 0.4 t) + person + noise, where t runs from 0 at admission to 1
    at the prediction time; `log` measurements are the exponential of that.
    """

    code: str
    unit: str
    base: float
    slope: float
    person: float
    noise: float
    low: float
    high: float
    decimals: int
    log: bool = False


EFFECTS = Effects()
ETHNICITIES = ("WHITE", "BLACK", "ASIAN", "HISPANIC", "OTHER")
# A pulse oximeter reads too high on darker skin: the one measurement that treats a group unfairly.
OXIMETER_BIAS = {"BLACK": 1.2, "ASIAN": 0.3}
VITALS = (
    Measurement("VITAL//HEART_RATE", "/min", 84, 5.5, 10, 5, 30, 220, 0),
    Measurement("VITAL//RESP_RATE", "/min", 18, 1.5, 2.2, 1.5, 6, 60, 0),
    Measurement("VITAL//SPO2", "%", 95.5, -1.0, 1.2, 0.8, 60, 100, 0),
    Measurement("VITAL//SYSTOLIC_BP", "mmHg", 128, -7, 14, 6, 50, 240, 0),
    Measurement("VITAL//TEMPERATURE", "Cel", 37.0, 0.2, 0.35, 0.2, 33, 42, 1),
)
LABS = (
    Measurement("LAB//LACTATE", "mmol/L", np.log(1.4), 0.22, 0.25, 0.10, 0.3, 20, 1, True),
    Measurement("LAB//CRP", "mg/L", np.log(30), 0.40, 0.70, 0.12, 0.3, 500, 1, True),
    Measurement("LAB//CREATININE", "mg/dL", np.log(1.0), 0.14, 0.28, 0.05, 0.2, 15, 2, True),
    Measurement("LAB//BUN", "mg/dL", np.log(18), 0.20, 0.30, 0.06, 3, 150, 0, True),
    Measurement("LAB//WBC", "10*3/uL", np.log(9), 0.13, 0.30, 0.08, 0.5, 60, 1, True),
)
# code, description, weight of the history latent (None: unrelated), base rate as a logit
DIAGNOSES: tuple[tuple[str, str, float | None, float], ...] = (
    ("ICD10CM//I50.9", "Heart failure, unspecified", 0.5, -1.3),
    ("ICD10CM//J44.9", "Chronic obstructive pulmonary disease, unspecified", 0.4, -1.4),
    ("ICD10CM//N18.3", "Chronic kidney disease, stage 3", 0.4, -1.4),
    ("ICD10CM//R54", "Age-related physical debility", 0.4, -1.7),
    ("ICD10CM//I10", "Essential hypertension", None, -0.6),
    ("ICD10CM//M19.90", "Unspecified osteoarthritis", None, -1.4),
    ("ICD10CM//K21.9", "Gastro-oesophageal reflux disease", None, -1.4),
    ("ICD10CM//F41.9", "Anxiety disorder, unspecified", None, -1.7),
)
AFTERMATH = (
    ("ICD10CM//A41.9", "Sepsis, unspecified organism; coded at discharge"),
    ("ICD10CM//J96.01", "Acute respiratory failure with hypoxia; coded at discharge"),
)
OTHER_CODES = (
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
FINDING_THRESHOLDS = {"consolidation": 0.4, "effusion": 0.6, "cardiomegaly": 0.2, "oedema": 0.4}
FINDING_SLOPE, FINDING_NOISE = 1.8, 0.6
NOTE_STRENGTH = 2.2
TREND = (0.8, 0.4)  # how much of a latent a measurement shows at admission, and adds by the end
URGENCY = 0.2  # measurements are exp(URGENCY * a) times as frequent
# Weakly informative absence: a patient whose own latent is above 0.5 lacks less.
LESS_MISSING = {"image": 0.04, "note": 0.04, "lab": 0.08}
LACTATE_MORE_MISSING = 0.15
SHARED, OWN, AGE_CENTRE = 0.5, 0.87, 62.0
MONTE_CARLO = 100_000
SITE_STRIDE = 10_000_000  # subject_id = (place of the hospital + 1) * this + place of the patient
STACK = 32  # radiographs rendered at once: their maps still fit in the processor's cache


def findings_of(b: float, noise: Floats) -> Findings:
    """Each finding is sigmoid(slope * (b - threshold) + noise), the noise its own.

    >>> findings_of(-3.0, np.zeros(4)).effusion < 0.01
    True
    """
    severity = {
        name: float(_sigmoid(FINDING_SLOPE * (b - threshold) + FINDING_NOISE * e))
        for (name, threshold), e in zip(FINDING_THRESHOLDS.items(), noise, strict=True)
    }
    return Findings(**severity)


def draw_hospitals(sites: int, patients: int, seed: int) -> list[Hospital]:
    """The hospitals' profiles: the first six as written down, the rest from a distribution."""
    return [_draw_hospital(i, sites, patients, seed) for i in range(sites)]


# name, prevalence, age, spread, female, ethnicity, missing image, note, labs, attention, portable,
# styles
_FIRST_SIX: tuple[tuple[Any, ...], ...] = (
    ("st-elsewhere", 0.18, 62, 15, 0.50, (70, 12, 6, 8, 4), 0.22, 0.14, 0.15, 1.0, 0.2, (6, 2, 2)),
    ("bayview", 0.32, 55, 15, 0.46, (40, 28, 8, 20, 4), 0.42, 0.16, 0.30, 0.8, 0.4, (2, 6, 2)),
    ("millbrook", 0.12, 71, 11, 0.56, (86, 4, 4, 3, 3), 0.32, 0.34, 0.35, 0.7, 0.1, (2, 3, 5)),
    ("northgate", 0.26, 66, 14, 0.48, (58, 20, 10, 8, 4), 0.28, 0.16, 0.10, 1.2, 0.3, (4, 5, 1)),
    ("kings-ferry", 0.38, 68, 13, 0.45, (62, 16, 14, 4, 4), 0.42, 0.22, 0.20, 1.1, 0.3, (5, 3, 2)),
    ("alderney", 0.22, 58, 16, 0.52, (50, 10, 26, 10, 4), 0.34, 0.22, 0.25, 0.9, 0.2, (3, 3, 4)),
)
_FIRST_SIZES = (0.3, -0.4, 0.1)  # of each pair: what the first has above the average
_HEADS = (
    "ash", "birch", "clay", "dun", "elm", "fair", "glen", "hazel", "iron", "kirk", "lang",
    "marsh", "oak", "pine", "quarry", "rowan",
)  # fmt: skip
_TAILS = (
    "bridge", "bury", "combe", "dale", "field", "ford", "gate", "ham", "haven", "hill", "holm",
    "moor", "port", "stead", "well", "wick",
)  # fmt: skip


def _draw_hospital(index: int, sites: int, patients: int, seed: int) -> Hospital:
    rng = _rng(seed, index, "profile")
    if index < len(_FIRST_SIX):
        values = (*_FIRST_SIX[index], SCANNERS[index])
    else:
        values = (
            _name(index - len(_FIRST_SIX)),
            rng.uniform(0.1, 0.4),
            rng.uniform(54, 72),
            rng.uniform(11, 16),
            rng.uniform(0.44, 0.56),
            rng.dirichlet([6, 1.5, 1.2, 1.0, 0.4]),
            rng.uniform(0.18, 0.42),
            rng.uniform(0.10, 0.30),
            rng.uniform(0.10, 0.35),
            rng.uniform(0.7, 1.2),
            rng.uniform(0.1, 0.4),
            rng.dirichlet([3, 3, 3]),
            SCANNERS[int(rng.integers(len(SCANNERS)))],
        )
    (
        name,
        prevalence,
        age,
        spread,
        female,
        mix,
        image,
        note,
        labs,
        care,
        portable,
        styles,
        scanner,
    ) = values
    hospital = Hospital(
        name=name,
        size=_size(index, sites, patients, seed),
        prevalence=prevalence,
        offset=0.0,
        age=age,
        age_spread=spread,
        female=female,
        ethnicity=_shares(mix),
        image_missing=image,
        note_missing=note,
        lab_missing=labs,
        attention=care,
        portable=portable,
        styles=_shares(styles),
        scanner=scanner,
    )
    return replace(hospital, offset=_solve_offset(hospital, index, seed))


def _name(k: int) -> str:
    """Deterministic and distinct; 5 is coprime to 16, so neighbours differ in both parts."""
    head, tail = _HEADS[k % 16], _TAILS[(5 * k + k // 16) % 16]
    return f"{head}{tail}" + (f"-{k // 256 + 1}" if k >= 256 else "")


def _size(index: int, sites: int, patients: int, seed: int) -> int:
    """Patients of a hospital.

    Hospitals 2k and 2k+1 share 2 * patients, so the total is exact and yet no size depends on how
    many hospitals follow; only a last one without a partner has the average.
    """
    pair = index // 2
    if index % 2 == 0 and index == sites - 1:
        return patients
    surplus = (
        _FIRST_SIZES[pair]
        if pair < len(_FIRST_SIZES)
        else _rng(seed, 2 * pair, "size").uniform(-0.4, 0.4)
    )
    return patients + round(patients * surplus) * (1 if index % 2 == 0 else -1)


def _draw_people(hospital: Hospital, index: int, seed: int) -> list[Person]:
    return [_draw_person(hospital, index, i, seed) for i in range(hospital.size)]


def _draw_person(hospital: Hospital, index: int, i: int, seed: int) -> Person:
    rng = _rng(seed, index, "person", i)
    latents, ages = _draw_latents(rng, hospital, 1)
    a, b, c = (float(v) for v in latents[:, 0])
    age = float(ages[0])
    logit = hospital.offset + float(_signal(latents, ages)[0])
    admitted = datetime(2023, 1, 1) + timedelta(minutes=int(rng.integers(365 * 24 * 60)))
    return Person(
        subject_id=(index + 1) * SITE_STRIDE + i,
        female=bool(rng.random() < hospital.female),
        ethnicity=ETHNICITIES[_choice(rng, hospital.ethnicity)],
        age=age,
        admitted=admitted,
        predicted=admitted + timedelta(minutes=int(rng.integers(24 * 60, 48 * 60))),
        a=a,
        b=b,
        c=c,
        logit=logit,
        deteriorates=bool(rng.random() < _sigmoid(logit)),
    )


def _draw_latents(rng: np.random.Generator, hospital: Hospital, n: int) -> tuple[Floats, Floats]:
    """(3, n) latents a, b, c, and n ages."""
    e = rng.standard_normal((5, n))
    ages = np.clip(hospital.age + hospital.age_spread * e[4], 18, 95)
    return SHARED * e[0] + OWN * e[1:4], ages


def _signal(latents: Floats, ages: Floats) -> Floats:
    """The logit of the outcome without the hospital's offset."""
    a, b, c = latents
    years = ages - AGE_CENTRE
    return np.asarray(
        EFFECTS.physiology * a
        + EFFECTS.image * b
        + EFFECTS.history * c
        + EFFECTS.physiology_image * a * b
        + EFFECTS.age * years
        + EFFECTS.age_history * years * c
    )


def _solve_offset(hospital: Hospital, index: int, seed: int) -> float:
    """The offset at which the hospital's expected prevalence is the one in its profile."""
    signal = _signal(*_draw_latents(_rng(seed, index, "offset"), hospital, MONTE_CARLO // 5))
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        if _sigmoid(signal + middle).mean() < hospital.prevalence:
            low = middle
        else:
            high = middle
    return round(middle, 6)


# --- What a site holds ---------------------------------------------------------------------------


def _write_site(
    folder: Path, hospital: Hospital, people: list[Person], index: int, seed: int, image_size: int
) -> dict[str, Any]:
    """Write one hospital's folder; returns the realised counts that truth.json reports."""
    for part in ("data/meds/data", "data/meds/metadata", "data/dicom", "state"):
        (folder / part).mkdir(parents=True)
    (folder / "site.toml").write_text(_SITE_TOML.format(name=hospital.name))
    key = hashlib.sha256(f"wardround patient key {seed} {hospital.name}".encode()).hexdigest()
    (folder / "state" / "patient.key").write_text(key)

    rows: list[Row] = []
    pictures: list[tuple[Chest, Study, Path, np.random.Generator]] = []
    without = Counter[str]()
    for i, person in enumerate(people):
        rng = _rng(seed, index, "record", i)
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
    for start in range(0, len(pictures), STACK):
        stack = pictures[start : start + STACK]
        for attenuation, (_, study, path, rng) in zip(
            render([p[0] for p in stack], image_size), stack, strict=True
        ):
            pixels = expose(attenuation, hospital.scanner, rng)
            write_dicom(path, pixels, hospital.scanner, study)
    _write_tables(folder / "data", hospital, people, rows)
    events_after = sum(1 for row in rows if row[1] and row[1] > people[_place(row[0])].predicted)
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


_SITE_TOML = """\
[site]
name = "{name}"
device = "cpu"
state = "state"

[data]
events = {{ format = "meds", path = "data/meds" }}
images = {{ format = "dicom", path = "data/dicom" }}
notes = {{ format = "meds" }}
labels = "data/labels.parquet"
subgroups = ["sex", "age_band", "ethnicity"]

[policy]
minimum_cell = 10
score_bins = "fine"                # synthetic patients: nothing to protect; the default is "merged"
unit = "patient"
epsilon_per_patient = 8.0
delta = 1e-5
require_privacy = false
approve = "ask"
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
        if draw < _sigmoid(base + (weight or 0.0) * person.c):
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


def _write_tables(data: Path, hospital: Hospital, people: list[Person], rows: list[Row]) -> None:
    columns = list(zip(*rows, strict=True))
    names = ("subject_id", "time", "code", "numeric_value", "text_value")
    schema = DataSchema.schema()
    events = {n: pa.array(c, schema.field(n).type) for n, c in zip(names, columns, strict=True)}
    pq.write_table(pa.table(events), data / "meds" / "data" / "0.parquet")
    codes = [(m.code, f"{m.code.split('//')[1].lower()}, {m.unit}") for m in (*VITALS, *LABS)]
    codes += [*((code, text) for code, text, _, _ in DIAGNOSES), *AFTERMATH, *OTHER_CODES]
    described = {"code": [c for c, _ in codes], "description": [d for _, d in codes]}
    pq.write_table(pa.table(described), data / "meds" / code_metadata_filepath)
    about = {
        "dataset_name": f"{hospital.name} (synthetic)",
        "dataset_version": "1",
        "etl_name": "wardround synthesize",
        "meds_version": version("meds"),
    }
    (data / "meds" / dataset_metadata_filepath).write_text(json.dumps(about, indent=2) + "\n")
    labels = {
        "subject_id": pa.array([p.subject_id for p in people], pa.int64()),
        "prediction_time": pa.array([p.predicted for p in people], pa.timestamp("us")),
        "boolean_value": pa.array([p.deteriorates for p in people], pa.bool_()),
    }
    pq.write_table(pa.table(labels), data / "labels.parquet")


# --- The truth -----------------------------------------------------------------------------------


def _latents(hospital: Hospital, people: list[Person]) -> pa.Table:
    return pa.table(
        {
            "subject_id": pa.array([p.subject_id for p in people], pa.int64()),
            "site": pa.array([hospital.name] * len(people), pa.string()),
            **{
                k: pa.array([getattr(p, k) for p in people], pa.float64())
                for k in ("logit", *"abc")
            },
        }
    )


def _risk_curve(hospital: Hospital, index: int, seed: int) -> tuple[Floats, Floats]:
    """Expected positives and negatives by logit, on a fine grid, from a large sample.

    Each draw counts as its risk to the one side and the rest to the other, instead of as a drawn
    outcome: the same expectation with less noise.
    """
    sample = _draw_latents(_rng(seed, index, "oracle"), hospital, MONTE_CARLO)
    logit = hospital.offset + _signal(*sample)
    risk = _sigmoid(logit)
    cell = np.clip(((logit + 25) * 80).astype(int), 0, 3999)
    positive = np.bincount(cell, risk, 4000) / MONTE_CARLO
    return positive, np.bincount(cell, minlength=4000) / MONTE_CARLO - positive


def _auroc(positive: Floats, negative: Floats) -> float | None:
    """Area under the curve from counts by ascending score; ties count a half."""
    if positive.sum() == 0 or negative.sum() == 0:
        return None
    below = np.cumsum(negative) - 0.5 * negative
    return round(float((positive * below).sum() / (positive.sum() * negative.sum())), 5)


def _best_auroc(people: list[Person], curve: tuple[Floats, Floats]) -> dict[str, float | None]:
    y = np.array([p.deteriorates for p in sorted(people, key=lambda p: p.logit)], dtype=float)
    return {"generated": _auroc(y, 1 - y), "expected": _auroc(*curve)}


def _truth(
    hospitals: list[Hospital],
    people: list[list[Person]],
    realised: list[dict[str, Any]],
    curves: list[tuple[Floats, Floats]],
) -> dict[str, Any]:
    """What truth.json holds: the model, the profiles and summaries, no patient's values."""
    everyone = [p for group in people for p in group]
    weighted = (
        np.asarray(sum(h.size * c[side] for h, c in zip(hospitals, curves, strict=True)))
        for side in (0, 1)
    )
    positive, negative = weighted
    total = len(everyone)
    return {
        "schema": "wardround.truth/1",
        "outcome": {
            "label": "in-hospital deterioration after the prediction time",
            "effects": asdict(EFFECTS),
            "age_centre": AGE_CENTRE,
            "latents": {"shared": SHARED, "own": OWN},
        },
        "records": {
            "findings": {
                "thresholds": FINDING_THRESHOLDS,
                "slope": FINDING_SLOPE,
                "noise": FINDING_NOISE,
            },
            "measurements": {m.code: asdict(m) for m in (*VITALS, *LABS)},
            "oximeter_bias": OXIMETER_BIAS,
            "diagnoses": {code: {"history": w or 0.0, "base": b} for code, _, w, b in DIAGNOSES},
            "note_strength": NOTE_STRENGTH,
            "trend": TREND,
            "urgency": URGENCY,
            "less_missing": LESS_MISSING,
            "lactate_more_missing": LACTATE_MORE_MISSING,
        },
        "after_prediction": {
            "note": "Events after prediction_time follow from the outcome and leak it to a reader "
            "that does not cut there.",
            "codes": [
                "ICU_TRANSFER",
                death_code,
                "HOSPITAL_DISCHARGE",
                "NOTE//DISCHARGE",
                *(code for code, _ in AFTERMATH),
                *(m.code for m in (*VITALS, LABS[0])),
            ],
        },
        "best_auroc": _best_auroc(everyone, (positive, negative)),
        "realised": {
            "patients": total,
            "prevalence": sum(p.deteriorates for p in everyone) / total,
            "image_missing": sum(r["image_missing"] * r["patients"] for r in realised) / total,
            "note_missing": sum(r["note_missing"] * r["patients"] for r in realised) / total,
        },
        "sites": {
            h.name: {
                "profile": _profile(h),
                "realised": r,
                "best_auroc": _best_auroc(group, curve),
            }
            for h, group, r, curve in zip(hospitals, people, realised, curves, strict=True)
        },
    }


def _profile(hospital: Hospital) -> dict[str, Any]:
    profile = asdict(hospital)
    return profile | {
        "ethnicity": dict(zip(ETHNICITIES, hospital.ethnicity, strict=True)),
        "styles": dict(zip(STYLES, hospital.styles, strict=True)),
    }


# --- Small things --------------------------------------------------------------------------------

_PURPOSES = ("profile", "size", "offset", "oracle", "person", "record")


def _rng(seed: int, site: int, purpose: str, patient: int = 0) -> np.random.Generator:
    key = (site, _PURPOSES.index(purpose), patient)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _shares(weights: Any) -> tuple[float, ...]:
    total = float(sum(weights))
    return tuple(round(float(w) / total, 4) for w in weights)


def _choice(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
    return min(int(np.searchsorted(np.cumsum(shares), rng.random())), len(shares) - 1)


def _between(rng: np.random.Generator, start: datetime, end: datetime) -> datetime:
    minutes = int((end - start).total_seconds()) // 60
    return start + timedelta(minutes=int(rng.integers(30, minutes)))


def _lacks(rng: np.random.Generator, what: str, usual: float, latent: float) -> bool:
    return bool(rng.random() < usual - LESS_MISSING[what] * (latent > 0.5))


def _place(subject_id: int) -> int:
    """A patient's place in the hospital's list."""
    return subject_id % SITE_STRIDE


def _check(out: Path, *, sites: int, patients: int, seed: int, image_size: int) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            out, "is in use: expected a new or empty folder", remedy="Give another folder."
        )
    limits = {
        "--sites": (sites, 1, 10_000),
        "--patients": (patients, 1, SITE_STRIDE // 2 - 1),
        "--seed": (seed, 0, 2**63 - 1),
        "--image-size": (image_size, 16, 2048),
    }
    for option, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise UserError(option, f"{value} is not between {low} and {high}")
