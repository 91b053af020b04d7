"""The model behind the synthetic hospitals: who is admitted, and what will become of them.

Three latents drive a patient: a (physiology), b (image) and c (history), with a shared severity u:
`a = 0.5 u + 0.87 e`, likewise b and c. Vitals and labs show a, the radiograph shows b, the notes
and (a little) the diagnoses show c, and the outcome follows

    logit = offset(site) + 1.4 a + 1.1 b + 1.3 c + 0.3 a b + 0.02 (age - 62) + 0.01 (age - 62) c

so every modality adds something, and the best possible AUROC is known. docs/synthetic-data.md has
the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.phantom import SCANNERS, Findings, Scanner

Floats = NDArray[np.float64]


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
    history: float = 0.0  # mean of the history latent c
    effects: Effects = Effects()


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
FINDING_THRESHOLDS = {"consolidation": 0.4, "effusion": 0.6, "cardiomegaly": 0.2, "oedema": 0.4}
FINDING_SLOPE, FINDING_NOISE = 1.8, 0.6
NOTE_STRENGTH = 2.2
TREND = (0.8, 0.4)  # how much of a latent a measurement shows at admission, and adds by the end
URGENCY = 0.2  # measurements are exp(URGENCY * a) times as frequent
# Weakly informative absence: a patient whose own latent is above 0.5 lacks less.
LESS_MISSING = {"image": 0.04, "note": 0.04, "lab": 0.08}
LACTATE_MORE_MISSING = 0.15
SHARED, OWN, AGE_CENTRE = 0.5, 0.87, 62.0
SITE_STRIDE = 10_000_000  # subject_id = (place of the hospital + 1) * this + place of the patient


def draw_hospitals(sites: int, patients: int, seed: int) -> list[Hospital]:
    """The hospitals' profiles: the first six as written down, the rest from a distribution."""
    return [_draw_hospital(i, sites, patients, seed) for i in range(sites)]


def draw_people(hospital: Hospital, index: int, seed: int) -> list[Person]:
    """A hospital's patients, in the order of their subject_id; `index` is its place."""
    return [_draw_person(hospital, index, i, seed) for i in range(hospital.size)]


def draw_latents(rng: np.random.Generator, hospital: Hospital, n: int) -> tuple[Floats, Floats]:
    """(3, n) latents a, b, c, and n ages."""
    e = rng.standard_normal((5, n))
    ages = np.clip(hospital.age + hospital.age_spread * e[4], 18, 95)
    latents = SHARED * e[0] + OWN * e[1:4]
    latents[2] += hospital.history
    return latents, ages


def signal(latents: Floats, ages: Floats, effects: Effects) -> Floats:
    """The logit of the outcome without the hospital's offset."""
    a, b, c = latents
    years = ages - AGE_CENTRE
    return np.asarray(
        effects.physiology * a
        + effects.image * b
        + effects.history * c
        + effects.physiology_image * a * b
        + effects.age * years
        + effects.age_history * years * c
    )


def solve_offset(hospital: Hospital, index: int, seed: int) -> float:
    """The offset at which the hospital's expected prevalence is the one in its profile."""
    return round(offset_to(hospital.prevalence, _signal_sample(hospital, index, seed)), 6)


def offset_to(share: float, logits: Floats) -> float:
    """What to add to logits, so that the mean of their risks is a share.

    >>> round(offset_to(0.5, np.array([1.0, 3.0])), 6)
    -2.0
    """
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        if sigmoid(logits + middle).mean() < share:
            low = middle
        else:
            high = middle
    return middle


def expected_prevalence(hospital: Hospital, index: int, seed: int) -> float:
    """The expected prevalence at the hospital's offset."""
    return float(sigmoid(_signal_sample(hospital, index, seed) + hospital.offset).mean())


def _signal_sample(hospital: Hospital, index: int, seed: int) -> Floats:
    rng = random_stream(seed, index, "offset")
    return signal(*draw_latents(rng, hospital, _OFFSET_DRAWS), hospital.effects)


_OFFSET_DRAWS = 20_000


def findings_of(b: float, noise: Floats) -> Findings:
    """Each finding is sigmoid(slope * (b - threshold) + noise), the noise its own.

    >>> findings_of(-3.0, np.zeros(4)).effusion < 0.01
    True
    """
    severity = {
        name: float(sigmoid(FINDING_SLOPE * (b - threshold) + FINDING_NOISE * e))
        for (name, threshold), e in zip(FINDING_THRESHOLDS.items(), noise, strict=True)
    }
    return Findings(**severity)


def random_stream(seed: int, site: int, purpose: str, patient: int = 0) -> np.random.Generator:
    """Random numbers for one purpose, of one hospital or one of its patients, both by place."""
    key = (site, _PURPOSES.index(purpose), patient)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


_PURPOSES = ("profile", "size", "offset", "oracle", "person", "record", "label", "labelled")


def sigmoid(x: Any) -> Any:
    """The risk that a logit stands for; x is a number or an array."""
    return 1 / (1 + np.exp(-x))


def _draw_hospital(index: int, sites: int, patients: int, seed: int) -> Hospital:
    if index < len(_FIRST_SIX):
        profile = dict(zip(_PROFILE, (*_FIRST_SIX[index], SCANNERS[index]), strict=True))
    else:
        profile = _draw_profile(index, seed)
    for mix in ("ethnicity", "styles"):
        profile[mix] = _shares(profile[mix])
    hospital = Hospital(size=_size(index, sites, patients, seed), offset=0.0, **profile)
    return replace(hospital, offset=solve_offset(hospital, index, seed))


_PROFILE = (
    "name", "prevalence", "age", "age_spread", "female", "ethnicity", "image_missing",
    "note_missing", "lab_missing", "attention", "portable", "styles", "scanner",
)  # fmt: skip
_FIRST_SIX: tuple[tuple[Any, ...], ...] = (
    ("st-elsewhere", 0.18, 62, 15, 0.50, (70, 12, 6, 8, 4), 0.22, 0.14, 0.15, 1.0, 0.2, (6, 2, 2)),
    ("bayview", 0.32, 55, 15, 0.46, (40, 28, 8, 20, 4), 0.42, 0.16, 0.30, 0.8, 0.4, (2, 6, 2)),
    ("millbrook", 0.12, 71, 11, 0.56, (86, 4, 4, 3, 3), 0.32, 0.34, 0.35, 0.7, 0.1, (2, 3, 5)),
    ("northgate", 0.26, 66, 14, 0.48, (58, 20, 10, 8, 4), 0.28, 0.16, 0.10, 1.2, 0.3, (4, 5, 1)),
    ("kings-ferry", 0.38, 68, 13, 0.45, (62, 16, 14, 4, 4), 0.42, 0.22, 0.20, 1.1, 0.3, (5, 3, 2)),
    ("alderney", 0.22, 58, 16, 0.52, (50, 10, 26, 10, 4), 0.34, 0.22, 0.25, 0.9, 0.2, (3, 3, 4)),
)


def _draw_profile(index: int, seed: int) -> dict[str, Any]:
    rng = random_stream(seed, index, "profile")
    return {
        "name": _name(index - len(_FIRST_SIX)),
        "prevalence": rng.uniform(0.1, 0.4),
        "age": rng.uniform(54, 72),
        "age_spread": rng.uniform(11, 16),
        "female": rng.uniform(0.44, 0.56),
        "ethnicity": rng.dirichlet([6, 1.5, 1.2, 1.0, 0.4]),
        "image_missing": rng.uniform(0.18, 0.42),
        "note_missing": rng.uniform(0.10, 0.30),
        "lab_missing": rng.uniform(0.10, 0.35),
        "attention": rng.uniform(0.7, 1.2),
        "portable": rng.uniform(0.1, 0.4),
        "styles": rng.dirichlet([3, 3, 3]),
        "scanner": SCANNERS[int(rng.integers(len(SCANNERS)))],
    }


def _name(k: int) -> str:
    """Deterministic and distinct; 5 is coprime to 16, so neighbours differ in both parts."""
    head, tail = _HEADS[k % 16], _TAILS[(5 * k + k // 16) % 16]
    return f"{head}{tail}" + (f"-{k // 256 + 1}" if k >= 256 else "")


_HEADS = (
    "ash", "birch", "clay", "dun", "elm", "fair", "glen", "hazel", "iron", "kirk", "lang",
    "marsh", "oak", "pine", "quarry", "rowan",
)  # fmt: skip
_TAILS = (
    "bridge", "bury", "combe", "dale", "field", "ford", "gate", "ham", "haven", "hill", "holm",
    "moor", "port", "stead", "well", "wick",
)  # fmt: skip


def _shares(weights: Any) -> tuple[float, ...]:
    total = float(sum(weights))
    return tuple(round(float(w) / total, 4) for w in weights)


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
        else random_stream(seed, 2 * pair, "size").uniform(-0.4, 0.4)
    )
    return patients + round(patients * surplus) * (1 if index % 2 == 0 else -1)


_FIRST_SIZES = (0.3, -0.4, 0.1)  # of each pair: what the first has above the average


def _draw_person(hospital: Hospital, index: int, i: int, seed: int) -> Person:
    rng = random_stream(seed, index, "person", i)
    latents, ages = draw_latents(rng, hospital, 1)
    a, b, c = (float(v) for v in latents[:, 0])
    age = float(ages[0])
    logit = hospital.offset + float(signal(latents, ages, hospital.effects)[0])
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
        deteriorates=bool(rng.random() < sigmoid(logit)),
    )


def _choice(rng: np.random.Generator, shares: tuple[float, ...]) -> int:
    return min(int(np.searchsorted(np.cumsum(shares), rng.random())), len(shares) - 1)
