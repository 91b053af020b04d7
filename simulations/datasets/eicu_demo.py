"""eICU Collaborative Research Database demo: 186 hospitals grouped into 13 sites, hospital death.

Johnson, Pollard, Badawi, Raffa: eICU-CRD Demo. PhysioNet 2021, ``eicu-crd-demo`` 2.0.1, doi
10.13026/4mxk-na84, ODbL 1.0. The hourly series are those of YAIB's demo data (van de Water et al.).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from federation.errors import UserError
from simulations.datasets import ConversionReport, SiteReport
from simulations.datasets.eicu_site_file import APS, site_file
from simulations.datasets.folders import (
    require_empty,
    require_files,
    write_patient_key,
    written_to,
)

ORIGIN = datetime(2010, 1, 1)
"""Everyone's admission to the unit: the publisher tells minutes from it, and no dates."""
DAY = 24 * 60
PATIENT = (
    "patientunitstayid",
    "uniquepid",
    "gender",
    "age",
    "ethnicity",
    "admissionheight",
    "admissionweight",
    "hospitaladmitoffset",
    "hospitaladmitsource",
    "unitadmitsource",
    "unittype",
    "apacheadmissiondx",
)
"""What is known at admission; nothing of the discharge but the label is taken."""
TABLES = ("patient", "hospital", "apacheApsVar", "apachePatientResult")
CHOICE = (
    "unitvisitnumber",
    "patienthealthsystemstayid",
    "hospitalid",
    "hospitaldischargeyear",
    "hospitaldischargestatus",
    "hospitaldischargeoffset",
)
HOURLY = "yaib_hourly/los"


def convert(source: Path, out: Path) -> ConversionReport:
    """Write a site folder for each group of hospitals, with tables and the mapping that reads them.

    A patient's first stay counts: of an adult, with a known outcome, 24 hours after admission to
    the unit. APACHE IVa's own prediction is kept beside the data as ``comparator.csv``.

    Args:
        source: folder with ``tables/*.csv.gz`` and ``yaib_hourly/los/dyn.parquet`` (or the tables
            themselves, then without hourly series).
        out: folder to write to; new or empty.

    Raises:
        UserError: if a file is missing or lacks a column, or ``out`` is not empty.
    """
    folder = source / "tables" if (source / "tables").is_dir() else source
    names = [f"{name}.csv.gz" for name in TABLES]
    require_files(folder, names, "Give the folder of PhysioNet's eicu-crd-demo.")
    require_empty(out)
    stays = _read(folder, "patient", (*PATIENT, *CHOICE))
    hospitals = _read(
        folder, "hospital", ("hospitalid", "numbedscategory", "teachingstatus", "region")
    )
    scores = _read(folder, "apacheApsVar", ("patientunitstayid", *APS))
    predicted = _apache_prediction(folder)
    hourly = _hourly(source / HOURLY)
    stays = stays.merge(hospitals, on="hospitalid", how="left")
    stays["site"] = [
        site_of(*row)
        for row in stays[["region", "numbedscategory", "teachingstatus"]].itertuples(index=False)
    ]
    reports = []
    for site, rows in stays.groupby("site", sort=True):
        chosen, excluded = _cohort(rows, stays)
        with written_to(out / str(site)):
            _write_site(out / str(site), chosen, scores, predicted, hourly)
        reports.append(_report(str(site), rows, chosen, excluded))
    return ConversionReport("eicu-demo", tuple(reports))


def site_of(region: object, beds: object, teaching: object) -> str:
    """Return the group of a hospital: by region, then whether it teaches, then by size.

    >>> site_of("Midwest", ">= 500", "t"), site_of("South", "100 - 249", "f")
    ('midwest-teaching', 'south-medium')
    """
    if not isinstance(region, str):
        return "unknown-region"
    name = region.lower()
    if name == "northeast":  # too few patients for groups
        return name
    if teaching == "t" and name != "west":
        return f"{name}-teaching"
    size = {"100 - 249": "medium", "250 - 499": "large", ">= 500": "large"}.get(str(beds), "small")
    return f"{name}-{size}"


def _read(folder: Path, table: str, columns: tuple[str, ...]) -> pd.DataFrame:
    file = folder / f"{table}.csv.gz"
    try:
        found = pd.read_csv(file, usecols=list(columns), low_memory=False)
    except ValueError:  # a column that is not there, or no UTF-8: pandas' words may quote a row
        raise UserError(
            file, f"is not the publisher's table; expected a CSV with {', '.join(columns)}"
        ) from None
    except (OSError, EOFError):
        raise UserError(file, "cannot be read (damaged gzip)") from None
    return found[list(columns)]


def _apache_prediction(folder: Path) -> pd.Series:
    """Return APACHE IVa's predicted hospital mortality by stay; -1 means that there is none."""
    columns = ("patientunitstayid", "apacheversion", "predictedhospitalmortality")
    found = _read(folder, "apachePatientResult", columns)
    found = found[found["apacheversion"] == "IVa"]
    risk = pd.to_numeric(found["predictedhospitalmortality"], errors="coerce")
    return pd.Series(risk.to_numpy(), index=found["patientunitstayid"])[lambda s: s >= 0]


def _hourly(folder: Path) -> pd.DataFrame | None:
    file = folder / "dyn.parquet"
    if not file.is_file():
        return None
    table = pq.read_table(file)
    minutes = table["time"].cast(pa.int64()).to_numpy() // 60
    found = table.drop_columns("time").to_pandas()
    found.insert(1, "minutes", minutes)
    first_day: pd.DataFrame = found[minutes <= DAY]
    return first_day


def _cohort(rows: pd.DataFrame, everywhere: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return a site's first stays, one a patient of all sites, and how many stays are left out."""
    reasons: dict[str, int] = {}

    def keep(good: pd.Series, reason: str) -> None:
        nonlocal rows
        if not good.all():
            reasons[reason] = int((~good).sum())
            rows = rows[good]

    order = ["hospitaldischargeyear", "patienthealthsystemstayid", "unitvisitnumber"]
    first = everywhere.sort_values(order).drop_duplicates("uniquepid")["patientunitstayid"]
    keep(rows["patientunitstayid"].isin(first), "later stay of the same patient")
    age = pd.to_numeric(rows["age"].replace("> 89", "90"), errors="coerce")
    keep(~(age < 18), "under 18 years")
    known = rows["hospitaldischargestatus"].isin(["Alive", "Expired"])
    keep(known, "no outcome")
    keep(rows["hospitaldischargeoffset"] > DAY, "left the hospital or died within 24 hours")
    return rows, reasons


def _write_site(
    folder: Path,
    stays: pd.DataFrame,
    scores: pd.DataFrame,
    predicted: pd.Series,
    hourly: pd.DataFrame | None,
) -> None:
    tables = folder / "data" / "tables"
    tables.mkdir(parents=True)
    stays[list(PATIENT)].to_csv(tables / "patient.csv", index=False)
    ids = stays["patientunitstayid"]
    ours = scores[scores["patientunitstayid"].isin(ids)]
    ours.assign(minutes=DAY).to_csv(tables / "apache_aps.csv", index=False)
    if hourly is not None:
        series = hourly[hourly["stay_id"].isin(ids)]
        pq.write_table(
            pa.Table.from_pandas(series, preserve_index=False), tables / "hourly.parquet"
        )
    labels = pd.DataFrame(
        {
            "subject_id": stays["uniquepid"],
            "prediction_time": (ORIGIN + timedelta(minutes=DAY)).isoformat(),
            "boolean_value": stays["hospitaldischargestatus"].eq("Expired").map(_TRUTH),
        }
    )
    labels.to_csv(folder / "data" / "labels.csv", index=False)
    compared = pd.DataFrame(
        {"subject_id": stays["uniquepid"], "apache_iva": ids.map(predicted)}
    ).dropna()
    compared.to_csv(folder / "data" / "comparator.csv", index=False)
    write_patient_key(folder / "state", f"eicu-demo/{folder.name}")
    text = site_file(folder.name, ORIGIN, None if hourly is None else list(hourly.columns[2:]))
    (folder / "site.toml").write_text(text, encoding="utf-8")


_TRUTH = {True: "true", False: "false"}


def _report(
    site: str, rows: pd.DataFrame, chosen: pd.DataFrame, excluded: Mapping[str, int]
) -> SiteReport:
    missing = {name: int(chosen[name].isna().sum()) for name in PATIENT}
    return SiteReport(
        site=site,
        rows=len(rows),
        patients=len(chosen),
        positives=int(chosen["hospitaldischargestatus"].eq("Expired").sum()),
        excluded=excluded,
        missing={name: count for name, count in missing.items() if count},
        coded_missing={},
        duplicates=0,
    )
