"""The site file of a group of eICU hospitals: how their tables map to codes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

APS = (
    "intubated",
    "vent",
    "dialysis",
    "eyes",
    "motor",
    "verbal",
    "urine",
    "wbc",
    "temperature",
    "respiratoryrate",
    "sodium",
    "heartrate",
    "meanbp",
    "ph",
    "hematocrit",
    "creatinine",
    "albumin",
    "pao2",
    "pco2",
    "bun",
    "glucose",
    "bilirubin",
    "fio2",
)
"""The worst values of the first day, as APACHE scores them; -1 means that there is none."""


def site_file(name: str, origin: datetime, hourly: Sequence[str] | None) -> str:
    """Return the text of ``site.toml``.

    Args:
        name: of the site.
        origin: everyone's admission to the unit.
        hourly: the signals of the hourly series, if there are any.
    """
    text = _HEAD.format(name=name, origin=origin.isoformat())
    text += "".join(f'columns.{column} = {{ code = "APS//{column}" }}\n' for column in APS)
    if hourly is not None:
        text += _HOURLY
        text += "".join(
            f'columns.{column} = {{ code = "HOURLY//{column}" }}\n' for column in hourly
        )
    return text + _POLICY


_HEAD = """\
# eICU-CRD demo 2.0.1 (PhysioNet, doi 10.13026/4mxk-na84, ODbL 1.0): Johnson, Pollard, Badawi,
# Raffa. Written by `wardround dataset eicu-demo`. Derived databases stay under the ODbL.
# Label: death in hospital, 24 hours after admission to the unit. data/comparator.csv holds the
# prediction of APACHE IVa for those who have one; no study reads it.

[site]
name = "{name}"
device = "cpu"
state = "state"

[data]
labels = "data/labels.csv"
label = "hospital_death"
subgroups = ["sex", "age_band", "ethnicity"]

[data.events]
format = "tables"
path = "data/tables"
origin = {origin}

[data.events.stays]
file = "patient.csv"
key = "patientunitstayid"
subject = "uniquepid"

[[data.events.tables]]
file = "patient.csv"
subject = "uniquepid"
static = true
missing = ["Unknown", "Other/Unknown"]
columns.gender = {{ code = "GENDER", kind = "category" }}
columns.ethnicity = {{ code = "ETHNICITY", kind = "category" }}
columns.admissionheight = {{ code = "ADMISSION//HEIGHT" }}
columns.admissionweight = {{ code = "ADMISSION//WEIGHT" }}
columns.hospitaladmitsource = {{ code = "ADMISSION//SOURCE", kind = "category" }}
columns.unitadmitsource = {{ code = "ADMISSION//UNIT_SOURCE", kind = "category" }}
columns.unittype = {{ code = "ADMISSION//UNIT", kind = "category" }}
columns.apacheadmissiondx = {{ code = "ADMISSION//DIAGNOSIS", kind = "category" }}

[[data.events.tables]]
file = "patient.csv"
subject = "uniquepid"
offset = "hospitaladmitoffset"
columns.age = {{ code = "MEDS_BIRTH", kind = "age", values = {{ "> 89" = 90 }} }}

[[data.events.tables]]
file = "apache_aps.csv"
stay = "patientunitstayid"
offset = "minutes"
missing = ["-1"]
"""

_HOURLY = """
[[data.events.tables]]
file = "hourly.parquet"
stay = "stay_id"
offset = "minutes"
"""

_POLICY = """
[policy]
minimum_cell = 5                # public data; a hospital's own file says 10
score_bins = "fine"
"""
