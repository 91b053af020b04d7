"""Who a site's patients are: age, sex, ethnicity and comorbidity, from the events until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clients.cohort import AGE_BANDS, ethnicity_level, sex_level
from clients.timeline import HOURS_PER_YEAR, OLDEST
from federation.subgroups import UNKNOWN
from simulations.shifts.tables import SiteTables


def attributes(
    tables: SiteTables, comorbidities: Sequence[str] = ("ICD",)
) -> Mapping[str, NDArray[Any]]:
    """Return each patient's attributes.

    Args:
        tables: of the site.
        comorbidities: how the codes begin of which each different one counts.

    Returns:
        (patients,) arrays: ``age`` in years at the prediction time (NaN: not known), ``age_band``,
        ``sex`` and ``ethnicity`` as levels of federation.subgroups, ``comorbidity`` as a count.
    """
    past, patients = tables.past, tables.patients
    ages = _ages(past, patients)
    diagnoses = past[past["code"].astype(str).str.startswith(tuple(comorbidities))]
    counts = diagnoses.groupby("patient")["code"].nunique()
    return {
        "age": ages,
        "age_band": np.array([_band(age) for age in ages], dtype=object),
        "sex": _levels(past, len(patients), ("GENDER//", "SEX//"), sex_level),
        "ethnicity": _levels(past, len(patients), ("ETHNICITY//", "RACE//"), ethnicity_level),
        "comorbidity": counts.reindex(range(len(patients)), fill_value=0).to_numpy(np.float64),
    }


def _ages(past: pd.DataFrame, patients: pd.DataFrame) -> NDArray[np.float64]:
    births = past[(past["code"] == "MEDS_BIRTH") & past["time"].notna()].drop_duplicates("patient")
    born = births.set_index("patient")["time"].reindex(range(len(patients)))
    gap = patients["prediction_time"].to_numpy() - born.to_numpy()
    years = gap / np.timedelta64(1, "h") / HOURS_PER_YEAR
    return np.where(years <= OLDEST, years, np.nan)


def _band(age: float) -> str:
    return next((name for limit, name in AGE_BANDS if age < limit), UNKNOWN)


def _levels(
    past: pd.DataFrame, patients: int, starts: tuple[str, ...], level: Callable[[str], str]
) -> NDArray[Any]:
    levels = np.full(patients, UNKNOWN, dtype=object)
    for code in past["code"].cat.categories:
        if code.startswith(starts):
            levels[past.loc[past["code"] == code, "patient"]] = level(code.partition("//")[2])
    return levels
