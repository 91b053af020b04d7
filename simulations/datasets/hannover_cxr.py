"""COVID-19 radiographs of Hannover Medical School: chest images and laboratory values, 71 patients.

Winther et al.: COVID-19 Image Repository. Hannover Medical School 2020, doi 10.25835/0090041,
CC BY 3.0. Times are whole days relative to each image; values beyond a limit of detection are
infinities.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from federation.errors import UserError
from simulations.datasets import ConversionReport, SiteReport
from simulations.datasets.folders import (
    require_empty,
    require_files,
    write_csv,
    write_patient_key,
    written_to,
)

SITE = "hannover"
ORIGIN = datetime(2020, 3, 1)
"""Everyone's day of admission; the publisher tells days between events and no dates."""
LABS = ("crp", "d-dimer", "factor_xii", "ldh", "lymphocytes", "neutrophils", "pco2", "po2")
ALREADY = "in intensive care before the first image"
COLUMNS = (
    "patient_id",
    "image_id",
    "sex",
    "admission_offset",
    "icu_admission_offset",
    "death_offset",
    "modality",
    "projection",
    *(f"{lab}_{part}" for lab in LABS for part in ("offset", "val")),
)


def convert(source: Path, out: Path) -> ConversionReport:
    """Write the site folder ``hannover``: tables of images and values, the images, and labels.

    The label is intensive care or death from the day of a patient's first image on; who was in
    intensive care before that day is left out.

    Args:
        source: folder with ``data.csv`` and ``images/IMAGE_ID.png`` (or ``png/``).
        out: folder to write to; new or empty.

    Raises:
        UserError: if a file is missing or holds something its documentation does not allow, or
            ``out`` is not empty.
    """
    require_files(source, ["data.csv"], "Give the folder of the COVID-19 Image Repository.")
    require_empty(out)
    table = _read(source / "data.csv")
    pictures = {image: _picture(source, image) for image in table["image_id"]}
    patients = [_patient(name, rows) for name, rows in table.groupby("patient_id", sort=True)]
    kept = [one for one in patients if not one.already]
    folder = out / SITE
    with written_to(folder):
        _write_tables(folder / "data" / "tables", table)
        (folder / "data" / "images").mkdir(parents=True)
        for image, picture in pictures.items():
            shutil.copyfile(picture, folder / "data" / "images" / f"{image}.png")
        labels = [(one.name, one.predicted.isoformat(), str(one.label).lower()) for one in kept]
        head = ("subject_id", "prediction_time", "boolean_value")
        write_csv(folder / "data" / "labels.csv", head, labels)
        write_patient_key(folder / "state", "hannover-cxr")
        (folder / "site.toml").write_text(_site_file(), encoding="utf-8")
    return ConversionReport("hannover-cxr", (_report(table, patients),))


def _read(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype={"patient_id": str, "image_id": str})
    except (ValueError, OSError):  # not UTF-8, ragged; pandas' words may quote a row
        raise UserError(file, "cannot be read as a CSV file of UTF-8 text") from None
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(file, "has no such column", field=", ".join(missing))
    for name in COLUMNS:
        numeric = name.endswith(("_offset", "_val"))
        if numeric and not pd.api.types.is_numeric_dtype(table[name]):
            raise UserError(file, "holds something that is no number", field=name)
    for name in ("patient_id", "image_id", "admission_offset"):
        if table[name].isna().any():
            place = int(table[name].isna().to_numpy().argmax()) + 1
            raise UserError(file, "has none", field=f"{name}, row {place}")
    if not table["image_id"].str.fullmatch(r"[0-9a-f]{8}").all():
        raise UserError(file, "expected eight hexadecimal digits", field="image_id")
    if table["image_id"].duplicated().any():
        raise UserError(file, "an image is there twice", field="image_id")
    table["day"] = -table["admission_offset"].astype(int)
    return table.sort_values(["patient_id", "day", "image_id"]).reset_index(drop=True)


def _picture(source: Path, image: str) -> Path:
    for place in ("images", "png"):
        for name in (f"{image}.png", f"{image}.PNG"):
            if (file := source / place / name).is_file():
                return file
    raise UserError(source, f"has no images/{image}.png")


@dataclass(frozen=True)
class _Patient:
    name: str
    predicted: datetime
    label: bool
    already: bool


def _patient(name: object, rows: pd.DataFrame) -> _Patient:
    first = rows.iloc[0]
    intensive = first["icu_admission_offset"]
    return _Patient(
        name=str(name),
        predicted=ORIGIN + timedelta(days=int(first["day"]), hours=12),
        label=bool(intensive >= 0 or pd.notna(first["death_offset"])),
        already=bool(intensive < 0),
    )


def _write_tables(folder: Path, table: pd.DataFrame) -> None:
    people = table.drop_duplicates("patient_id")[["patient_id", "sex"]]
    write_csv(folder / "patients.csv", ("patient_id", "sex"), people.values.tolist())
    pictures = [
        (row.patient_id, row.day, row.modality, row.projection, f"{row.image_id}.png")
        for row in table.itertuples()
    ]
    head = ("patient_id", "day", "modality", "projection", "file")
    write_csv(folder / "images.csv", head, pictures)
    values = []
    for lab in LABS:
        measured = table[table[f"{lab}_val"].notna() & table[f"{lab}_offset"].notna()]
        for row in measured.to_dict("records"):
            day = row["day"] + int(row[f"{lab}_offset"])
            values.append((row["patient_id"], day, lab, row[f"{lab}_val"]))
    # The same value is told with each image that it is near to.
    write_csv(folder / "labs.csv", ("patient_id", "day", "lab", "value"), sorted(set(values)))


def _report(table: pd.DataFrame, patients: list[_Patient]) -> SiteReport:
    kept = [one for one in patients if not one.already]
    missing = Counter({lab: int(table[f"{lab}_val"].isna().sum()) for lab in LABS})
    without = Counter(
        {
            f"{lab}: value without a day": int(
                (table[f"{lab}_val"].notna() & table[f"{lab}_offset"].isna()).sum()
            )
            for lab in LABS
        }
    )
    gone = len(patients) - len(kept)
    return SiteReport(
        site=SITE,
        rows=len(table),
        patients=len(kept),
        positives=sum(one.label for one in kept),
        excluded={ALREADY: gone} if gone else {},
        missing=dict(+missing),
        coded_missing=dict(+without),
        duplicates=int(table.drop(columns="image_id").duplicated().sum()),
    )


def _site_file() -> str:
    return _SITE_FILE.format(origin=ORIGIN.replace(hour=12).isoformat())


_SITE_FILE = """\
# COVID-19 Image Repository (doi 10.25835/0090041, CC BY 3.0): Winther et al., Hannover Medical
# School. Written by `wardround dataset hannover-cxr`.
# Label: intensive care or death, from the day of the first image on.

[site]
name = "hannover"
device = "cpu"
state = "state"

[data]
images = {{ format = "png", path = "data/images" }}
labels = "data/labels.csv"
label = "icu_or_death"
subgroups = ["sex"]

[data.events]
format = "tables"
path = "data/tables"
origin = {origin}        # noon of everyone's day of admission; days are all that is told

[[data.events.tables]]
file = "patients.csv"
subject = "patient_id"
static = true
columns.sex = {{ code = "GENDER", kind = "category", categories = {{ f = "F", m = "M" }} }}

[[data.events.tables]]
file = "images.csv"
subject = "patient_id"
offset = "day"
offset_unit = "days"
code = "IMAGE//{{modality}}"
text = "file"

[[data.events.tables]]
file = "images.csv"
subject = "patient_id"
offset = "day"
offset_unit = "days"
code = "PROJECTION//{{projection}}"

[[data.events.tables]]
file = "labs.csv"
subject = "patient_id"
offset = "day"
offset_unit = "days"
code = "LAB//{{lab}}"
value = "value"                 # infinities are limits of detection: LAB//crp//BELOW_LIMIT

[policy]
minimum_cell = 2                # 71 patients of public data; a hospital's own file says 10
score_bins = "fine"
"""
