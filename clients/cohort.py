"""From what a site holds to its patients for one task: labels, events, splits, subgroups."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from clients.linking.events import linked_events
from clients.site import Site
from clients.sources import meds
from federation.arrival import places
from federation.errors import UserError
from federation.study import Split, SplitSection, TaskSection
from federation.subgroups import UNKNOWN
from federation.vocabulary import AGE

SPLITS: tuple[Split, ...] = ("train", "tuning", "held_out")
AGE_BANDS = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (80, "65-79"), (200, "80+"))
HOURS_PER_YEAR = 24 * 365.25
OLDEST = 120
"""Years; a birth longer ago, often a placeholder such as 1900-01-01, says nothing of the age."""
LARGEST_NUMBER = 1e30
"""A value beyond it is no measurement, and its square would not fit a float32."""
KNOWN_ETHNICITIES = (
    # Whole words, for "Caucasian" holds "asian"; the first that fits.
    ("white", re.compile(r"\b(white|caucasian)\b")),
    ("black", re.compile(r"\b(black|african)\b")),
    ("asian", re.compile(r"\basian\b")),
    ("hispanic", re.compile(r"(?<!non-)(?<!non )(?<!not )\b(hispanic|latin[aox])\b")),
    ("native", re.compile(r"\bnative\b")),
)

DECLINED = re.compile(r"\b(unknown|declined|refused|unable|not[ _]specified|missing)\b")


@dataclass(frozen=True)
class Patients:
    """The patients of one site for one task; row i is one person everywhere.

    Attributes:
        subject_ids: (patients,) int64, ascending; they never leave the site.
        labels: (patients,) float32, 0 or 1.
        events: rows of (row, hours_before, code, numeric_value, text_value), oldest first within
            a patient, none later than the patient's prediction time; ``hours_before`` is NaN
            for static facts.
        splits: rows of each split.
        subgroups: (patients,) level names for each attribute that the site offers.
        excluded: patients left out, by reason.
        notices: patients with something that a person should see, by what it is.
        arrival: (patients,) float64: a training patient's place among the site's by prediction
            time (``federation.arrival.places``); NaN for the others.
    """

    subject_ids: NDArray[np.int64]
    labels: NDArray[np.float32]
    events: pd.DataFrame
    splits: Mapping[Split, NDArray[np.int64]]
    subgroups: Mapping[str, NDArray[np.str_]]
    excluded: Mapping[str, int]
    notices: Mapping[str, int]
    arrival: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.subject_ids)


def read_patients(site: Site, task: TaskSection, split: SplitSection) -> Patients:
    """Read a site's patients for a task.

    Raises:
        UserError: if a file is missing or malformed, or holds another label, or nobody is left.
    """
    _check_label(site, task)
    excluded: Counter[str] = Counter()
    notices: Counter[str] = Counter()
    rows = meds.read_labels(site.labels)
    labels = _one_label_each(rows, excluded, notices)
    events, unlabelled = meds.read_events(site.events, pa.array(rows["subject_id"].unique()))
    if unlabelled:
        excluded["no label"] += unlabelled
    events = _with_linked(events, site, rows["subject_id"].unique())
    seen = labels["subject_id"].isin(events["subject_id"].unique())
    if not seen.all():
        excluded["label without any event"] += int((~seen).sum())
    labels = labels[seen].reset_index(drop=True)
    if split.by == "given":
        labels = _with_given_split(labels, site, excluded)
    if labels.empty:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items())
        raise UserError(
            site.labels, f"no patient is left for {task.label} ({reasons or 'the file is empty'})"
        )
    past = _before_prediction(events, labels, notices)
    splits = _split(labels, split, site)
    return Patients(
        subject_ids=labels["subject_id"].to_numpy(),
        labels=labels["label"].to_numpy(np.float32),
        events=past,
        splits=splits,
        subgroups={name: _levels(name, past, labels) for name in site.settings.data.subgroups},
        excluded=dict(excluded),
        notices=dict(notices),
        arrival=_arrival(labels, splits["train"]),
    )


def _with_linked(events: pd.DataFrame, site: Site, subjects: NDArray[np.int64]) -> pd.DataFrame:
    linked = linked_events(site, whole_number, subjects).to_pandas()
    if linked.empty:
        return events
    together = pd.concat([events.astype({"code": str}), linked], ignore_index=True)
    return together.astype({"code": "category"})


def whole_number(name: str) -> int | None:
    """Return the subject id that a patient's name is; None if it is no whole number."""
    return int(name) if re.fullmatch(r"[0-9]{1,18}", name) else None


def _check_label(site: Site, task: TaskSection) -> None:
    held = site.settings.data.label
    if held not in (None, task.label):
        raise UserError(
            site.file,
            f'the labels are of "{held}", the study predicts task.label = "{task.label}"',
            field="data.label",
            remedy=f'Give in data.labels a file of "{task.label}", or take part with another site '
            "file that does.",
        )


def _one_label_each(
    labels: pd.DataFrame, excluded: Counter[str], notices: Counter[str]
) -> pd.DataFrame:
    """Keep one label per patient: the unit of everything is a person."""

    def drop(bad: pd.Series, reason: str) -> None:
        nonlocal labels
        if bad.any():
            kept = labels[~bad]
            gone = set(labels.loc[bad, "subject_id"]) - set(kept["subject_id"])
            excluded[reason] += len(gone)
            labels = kept

    drop(labels["label"].isna(), "label is empty")
    drop(~labels["label"].isin([0, 1]), "label outside the classes")
    drop(labels["prediction_time"].isna(), "no prediction time")
    repeated = labels.duplicated()
    if repeated.any():
        notices["repeated label rows"] += labels.loc[repeated, "subject_id"].nunique()
        labels = labels[~repeated]
    labels = labels.sort_values(["subject_id", "prediction_time"], kind="stable")
    moment = ["subject_id", "prediction_time"]
    first = labels.groupby("subject_id")["prediction_time"].transform("min")
    at_first = labels["prediction_time"] == first
    unclear = labels["contradictory"] | labels.duplicated(moment, keep=False)
    drop(
        labels["subject_id"].isin(labels.loc[at_first & unclear, "subject_id"]),
        "contradictory labels",
    )
    later = labels.duplicated("subject_id")
    if later.any():
        patients = labels.loc[later, "subject_id"].nunique()
        notices["later prediction times, not used"] += patients
    return labels[~later].reset_index(drop=True)


def _with_given_split(labels: pd.DataFrame, site: Site, excluded: Counter[str]) -> pd.DataFrame:
    given = labels["subject_id"].map(meds.read_splits(site.events))
    if given.isna().any():
        excluded["no split given"] += int(given.isna().sum())
    return labels.assign(split=given)[given.notna()].reset_index(drop=True)


def _before_prediction(
    events: pd.DataFrame, labels: pd.DataFrame, notices: Counter[str]
) -> pd.DataFrame:
    """Cut every patient's events at the prediction time, and add the age at that time."""
    row_of = pd.Series(labels.index.to_numpy(), index=labels["subject_id"])
    events = events[events["subject_id"].isin(row_of.index)]
    row = row_of.loc[events["subject_id"]].to_numpy()
    gap = labels["prediction_time"].to_numpy()[row] - events["time"].to_numpy()
    hours = gap / np.timedelta64(1, "h")
    births = (events["code"] == "MEDS_BIRTH").to_numpy()
    impossible = births & ((hours < 0) | (hours > OLDEST * HOURS_PER_YEAR))
    later = (hours < 0) & ~births
    values = events["numeric_value"].to_numpy()
    kept = ~(later | impossible)
    absurd = kept & (np.abs(values) > LARGEST_NUMBER)
    for reason, which in (
        ("events after the prediction time, not used", later),
        ("birth: after the prediction time or over 120 years before", impossible),
        ("value: not a finite number", absurd),
    ):
        if which.any():
            notices[reason] += len(np.unique(row[which]))
    past = events.loc[kept, ["code", "text_value"]].assign(
        numeric_value=np.where(absurd, np.float32(np.nan), values)[kept],
        row=row[kept],
        hours_before=hours[kept],
    )
    born = (past["code"] == "MEDS_BIRTH") & past["hours_before"].notna()
    first = past[born].drop_duplicates("row")
    ages = first.assign(code=AGE, numeric_value=first["hours_before"] / HOURS_PER_YEAR)
    ages["hours_before"] = np.nan
    past["code"] = past["code"].astype(str)
    together = pd.concat([past, ages], ignore_index=True) if len(ages) else past
    ordered = together.sort_values(
        ["row", "hours_before"], ascending=[True, False], na_position="first", kind="stable"
    )
    ordered["code"] = ordered["code"].astype("category")
    return ordered.reset_index(drop=True)


def _split(labels: pd.DataFrame, split: SplitSection, site: Site) -> dict[Split, NDArray[np.int64]]:
    if split.by == "given":
        return {name: np.flatnonzero(labels["split"] == name) for name in SPLITS}
    if split.by == "time":
        times = labels["prediction_time"].to_numpy()
        if len(np.unique(times)) < 2:
            raise UserError(
                site.labels,
                "all prediction times are the same, so the patients cannot be split by time",
                field="prediction_time",
                remedy='Use split.by = "patient" or "given".',
            )
        place = places(times)
    else:
        place = hashed_places(labels["subject_id"].to_numpy(), site.patient_key())
    fractions = split.fractions
    bounds = np.cumsum([fractions.train, fractions.tuning])
    which = np.searchsorted(bounds, place, side="right")
    return {name: np.flatnonzero(which == i) for i, name in enumerate(SPLITS)}


def _arrival(labels: pd.DataFrame, train: NDArray[np.int64]) -> NDArray[np.float64]:
    arrival = np.full(len(labels), np.nan)
    arrival[train] = places(labels["prediction_time"].to_numpy()[train])
    return arrival


def hashed_places(subjects: NDArray[np.int64], key: bytes) -> NDArray[np.float64]:
    """Map each patient to [0, 1) by a keyed hash: stable, and unguessable without the key."""

    def place(subject: int) -> float:
        digest = hmac.digest(key, str(subject).encode(), hashlib.sha256)
        return int.from_bytes(digest[:7], "big") / 2**56

    return np.array([place(int(subject)) for subject in subjects])


def _levels(attribute: str, events: pd.DataFrame, labels: pd.DataFrame) -> NDArray[np.str_]:
    """Return each patient's level of a subgroup attribute, from a closed list of names."""
    levels = np.full(len(labels), UNKNOWN, dtype="<U32")
    if attribute == "age_band":
        ages = events[events["code"] == AGE]
        for row, age in zip(ages["row"], ages["numeric_value"], strict=True):
            levels[row] = next((name for limit, name in AGE_BANDS if age < limit), UNKNOWN)
        return levels
    prefixes = {"sex": ("GENDER//", "SEX//"), "ethnicity": ("ETHNICITY//", "RACE//")}[attribute]
    namer = {"sex": sex_level, "ethnicity": ethnicity_level}[attribute]
    chosen = [code for code in events["code"].cat.categories if code.startswith(prefixes)]
    for code in chosen:
        levels[events.loc[events["code"] == code, "row"]] = namer(code.partition("//")[2])
    return levels


def sex_level(value: str) -> str:
    """Return the level of ``sex`` that a code's text after the first ``//`` stands for."""
    first = value.strip().lower()[:1]
    return {"f": "female", "m": "male"}.get(first, "other" if first else UNKNOWN)


def ethnicity_level(value: str) -> str:
    """Return the level of ``ethnicity`` that a code's text after the first ``//`` stands for.

    A closed list, so that no free text of a site can become the name of a cell.
    """
    if DECLINED.search(value.lower()):
        return UNKNOWN
    lowered = value.lower().replace("_", " ").replace(" or latino", "")
    return next((known for known, words in KNOWN_ETHNICITIES if words.search(lowered)), "other")
