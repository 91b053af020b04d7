"""UCI Heart Disease: UCI's four ``processed.*.data`` files become four hospital site folders.

Janosi, Steinbrunn, Pfisterer, Detrano: Heart Disease. UCI Machine Learning Repository, 1989,
doi 10.24432/C52P4X, CC BY 4.0. The meaning of each column is that of ``heart-disease.names``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import (
    CodeMetadataSchema,
    DataSchema,
    LabelSchema,
    birth_code,
    code_metadata_filepath,
    dataset_metadata_filepath,
)

from federation.errors import UserError
from simulations.datasets import ConversionReport, SiteReport
from simulations.datasets.folders import require_empty, write_patient_key

SITES = ("cleveland", "hungarian", "switzerland", "va")

# The files hold ages and no dates: everyone is measured an hour before one fixed moment.
PREDICTION_TIME = datetime(2000, 1, 1)
MEASURED_AT = PREDICTION_TIME - timedelta(hours=1)
DAYS_PER_YEAR = 365.25


def convert(source: Path, out: Path) -> ConversionReport:
    """Write the site folders ``cleveland``, ``hungarian``, ``switzerland`` and ``va``.

    Every file is read and checked before anything is written.

    Args:
        source: folder that holds UCI's four ``processed.SITE.data`` files.
        out: folder to write to; new or empty.

    Returns:
        Rows, patients and what was left out, per site.

    Raises:
        UserError: if a file is missing or holds something its documentation does not allow, or
            ``out`` is not empty.
    """
    _require_files(source)
    require_empty(out)
    tables = {site: _read(_file(source, site)) for site in SITES}
    sites = []
    for number, (site, rows) in enumerate(tables.items(), start=1):
        patients = _patients(rows, first_id=number * 100_000 + 1)
        try:
            _write_site(out / site, patients)
        except OSError as error:
            raise UserError(out / site, f"cannot be written ({error.strerror or error})") from error
        sites.append(_report(site, rows, patients))
    return ConversionReport("uci-heart", tuple(sites))


@dataclass(frozen=True)
class Number:
    """A measured column; the range is wide, to catch a shifted column or a -9, not a patient."""

    name: str
    description: str
    low: float
    high: float
    whole: bool = False
    zero_is_missing: bool = False

    @property
    def expected(self) -> str:
        """What a field of this column may hold, in words."""
        kind = "whole number" if self.whole else "number"
        zero = ", 0" if self.zero_is_missing else ""
        return f'a {kind} from {self.low:g} to {self.high:g}{zero} or "?"'

    def allows(self, value: float) -> bool:
        """Whether the documentation allows ``value`` here."""
        if self.zero_is_missing and value == 0:
            return True
        return self.low <= value <= self.high and not (self.whole and value % 1)


@dataclass(frozen=True)
class Category:
    """A coded column, with what each code means."""

    name: str
    description: str
    meanings: dict[int, str]

    @property
    def expected(self) -> str:
        """What a field of this column may hold, in words."""
        return f'one of {", ".join(map(str, self.meanings))} or "?"'

    def allows(self, value: float) -> bool:
        """Whether the documentation allows ``value`` here."""
        return value in self.meanings


Column: TypeAlias = Number | Category
Row: TypeAlias = dict[str, float | None]

_NO_YES = {0: "no", 1: "yes"}
_CHEST_PAIN = {1: "typical angina", 2: "atypical angina", 3: "non-anginal pain", 4: "asymptomatic"}
_RESTING_ECG = {
    0: "normal",
    1: "ST-T wave abnormality",
    2: "probable or definite left ventricular hypertrophy (Estes)",
}
_SLOPE = {1: "upsloping", 2: "flat", 3: "downsloping"}
_THALLIUM = {3: "normal", 6: "fixed defect", 7: "reversible defect"}
_NARROWING = {0: "below 50%", **dict.fromkeys((1, 2, 3, 4), "above 50%")}
COLUMNS: tuple[Column, ...] = (
    Number("age", "age in years", 0, 120),
    Category("sex", "sex", {0: "female", 1: "male"}),
    Category("cp", "chest pain", _CHEST_PAIN),
    Number("trestbps", "resting blood pressure, in mmHg", 20, 400, zero_is_missing=True),
    Number("chol", "serum cholesterol, in mg/dl", 20, 1000, zero_is_missing=True),
    Category("fbs", "fasting blood sugar above 120 mg/dl", _NO_YES),
    Category("restecg", "resting ECG", _RESTING_ECG),
    Number("thalach", "maximum heart rate achieved, per minute", 20, 300),
    Category("exang", "angina induced by exercise", _NO_YES),
    Number("oldpeak", "ST depression induced by exercise relative to rest", -5, 15),
    Category("slope", "slope of the peak exercise ST segment", _SLOPE),
    Number("ca", "major vessels coloured by fluoroscopy", 0, 3, whole=True),
    Category("thal", "thallium scan", _THALLIUM),
    Category("num", "narrowing of a major vessel on angiography", _NARROWING),
)
# Age becomes the birth, sex the gender, num the label.
FEATURES = tuple(column for column in COLUMNS if column.name not in ("age", "sex", "num"))


def _file(source: Path, site: str) -> Path:
    return source / f"processed.{site}.data"


def _require_files(source: Path) -> None:
    names = [_file(source, site).name for site in SITES]
    remedy = f"Give the folder of UCI dataset 45, which holds {', '.join(names)}."
    try:
        present = {path.name for path in source.iterdir()}
    except OSError as error:
        raise UserError(
            source, f"is not a folder that can be read ({error.strerror})", remedy=remedy
        ) from error
    if missing := [name for name in names if name not in present]:
        raise UserError(source, f"has no {', '.join(missing)}", remedy=remedy)


def _read(file: Path) -> list[Row]:
    """Rows of one file by column name, ``None`` where it says "?"."""
    lines = _text(file).removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(file, "is empty; expected one line per patient")
    return [_row(file, number, line) for number, line in enumerate(lines, start=1)]


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
        return content.decode("ascii")
    except OSError as error:
        raise UserError(file, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, before.rpartition(b"\n")[2].count(b",") + 1
        raise UserError(
            file,
            "a byte that is not plain text; expected digits, commas and question marks",
            field=f"line {line}, column {column}",
            remedy="Take the file as UCI ships it, neither compressed nor re-encoded.",
        ) from error


def _row(file: Path, line: int, text: str) -> Row:
    fields = text.split(",")
    if len(fields) != len(COLUMNS):
        raise UserError(
            file,
            f"has {len(fields)} fields; expected {len(COLUMNS)}, separated by commas: "
            + ", ".join(column.name for column in COLUMNS),
            field=f"line {line}",
        )
    return {
        column.name: _value(file, line, position, column, field.strip())
        for position, (column, field) in enumerate(zip(COLUMNS, fields, strict=True), start=1)
    }


def _value(file: Path, line: int, position: int, column: Column, field: str) -> float | None:
    if field == "?":
        return None
    # Not float() alone, which also reads "nan", "inf" and "1_0".
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", field):
        problem = "is not a number"
    elif not column.allows(float(field)):
        problem = "is a number that this column cannot hold"
    else:
        return float(field)
    raise UserError(
        file,
        f"{problem}; expected {column.expected}",
        field=f"line {line}, column {position} ({column.name})",
        remedy="UCI's files have no header line: remove it." if line == position == 1 else "",
    )


class Patient(NamedTuple):
    """One row with its subject id and its label."""

    subject_id: int
    row: Row
    diseased: bool


def _patients(rows: Sequence[Row], first_id: int) -> list[Patient]:
    """The rows that have a diagnosis; an id follows from its row's place in the file."""
    return [
        Patient(subject_id, row, row["num"] > 0)
        for subject_id, row in enumerate(rows, start=first_id)
        if row["num"] is not None
    ]


def _report(site: str, rows: Sequence[Row], patients: Sequence[Patient]) -> SiteReport:
    unlabelled = len(rows) - len(patients)
    missing = Counter(name for row in rows for name, value in row.items() if value is None)
    coded = Counter(
        f"{column.name} = 0" for row in rows for column in COLUMNS if _coded_missing(column, row)
    )
    return SiteReport(
        site=site,
        rows=len(rows),
        patients=len(patients),
        positives=sum(patient.diseased for patient in patients),
        excluded={"no diagnosis": unlabelled} if unlabelled else {},
        missing=dict(missing),
        coded_missing=dict(coded),
        duplicates=len(rows) - len({tuple(row.items()) for row in rows}),
    )


def _coded_missing(column: Column, row: Row) -> bool:
    return isinstance(column, Number) and column.zero_is_missing and row[column.name] == 0


def _write_site(folder: Path, patients: Sequence[Patient]) -> None:
    data, state = folder / "data", folder / "state"
    (data / "meds" / "data").mkdir(parents=True)
    (data / "meds" / "metadata").mkdir()
    (folder / "site.toml").write_text(_SITE_FILE.format(name=folder.name), encoding="utf-8")
    pq.write_table(_events_table(patients), data / "meds" / "data" / "0.parquet")
    pq.write_table(_codes_table(), data / "meds" / code_metadata_filepath)
    (data / "meds" / dataset_metadata_filepath).write_text(
        json.dumps(_metadata(folder.name), indent=2) + "\n", encoding="utf-8"
    )
    pq.write_table(_labels_table(patients), data / "labels.parquet")
    write_patient_key(state, f"uci-heart/{folder.name}")


def _events_table(patients: Sequence[Patient]) -> pa.Table:
    events = [
        {"subject_id": patient.subject_id, "time": time, "code": code, "numeric_value": value}
        for patient in patients
        for time, code, value in _events(patient.row)
    ]
    return pa.Table.from_pylist(events, schema=DataSchema.schema())


def _events(row: Row) -> Iterator[tuple[datetime | None, str, float | None]]:
    """Time, code and value of a patient's events, in the order MEDS asks for."""
    if row["sex"] is not None:
        yield None, f"GENDER//{'M' if row['sex'] else 'F'}", None
    if row["age"] is not None:
        age = timedelta(days=row["age"] * DAYS_PER_YEAR)
        yield PREDICTION_TIME - age, birth_code, None
    for column in FEATURES:
        value = row[column.name]
        if value is None or _coded_missing(column, row):
            continue
        if isinstance(column, Number):
            yield MEASURED_AT, _code(column), value
        else:
            yield MEASURED_AT, _code(column, int(value)), None


def _code(column: Column, value: int | None = None) -> str:
    """MEDS code of a number, or of one value of a category.

    >>> _code(Category("cp", "chest pain", {1: "typical angina"}), 1)
    'HEART//CP//1'
    """
    code = f"HEART//{column.name.upper()}"
    return code if value is None else f"{code}//{value}"


def _codes_table() -> pa.Table:
    descriptions = {birth_code: "birth", "GENDER//F": "female", "GENDER//M": "male"}
    for column in FEATURES:
        if isinstance(column, Number):
            descriptions[_code(column)] = column.description
        else:
            for value, meaning in column.meanings.items():
                descriptions[_code(column, value)] = f"{column.description}: {meaning}"
    rows = [{"code": code, "description": text} for code, text in descriptions.items()]
    return pa.Table.from_pylist(rows, schema=CodeMetadataSchema.schema())


def _labels_table(patients: Sequence[Patient]) -> pa.Table:
    labels = [
        {
            "subject_id": patient.subject_id,
            "prediction_time": PREDICTION_TIME,
            "boolean_value": patient.diseased,
        }
        for patient in patients
    ]
    # Only the columns in use: MEDS forbids nulls in the other label columns.
    schema = LabelSchema.schema()
    used = [schema.field(name) for name in ("subject_id", "prediction_time", "boolean_value")]
    return pa.Table.from_pylist(labels, schema=pa.schema(used))


def _metadata(site: str) -> dict[str, Any]:
    # No created_at: converting twice gives the same bytes.
    return {
        "dataset_name": f"UCI Heart Disease, {site}",
        "etl_name": "wardround dataset uci-heart",
        "etl_version": version("wardround"),
        "meds_version": version("meds"),
        "license": "CC BY 4.0",
        "location_uri": "https://doi.org/10.24432/C52P4X",
    }


_SITE_FILE = """\
# UCI Heart Disease (doi 10.24432/C52P4X, CC BY 4.0): Andras Janosi, William Steinbrunn,
# Matthias Pfisterer, Robert Detrano. Written by `wardround dataset uci-heart`.

[site]
name = "{name}"
device = "cpu"
state = "state"

[data]
events = {{ format = "meds", path = "data/meds" }}
labels = "data/labels.parquet"
subgroups = ["sex", "age_band"]

[policy]
minimum_cell = 10
score_bins = "fine"             # this data is public; a hospital's own site file says "merged"
require_privacy = false
"""
