"""From what a site holds to its patients for one task: labels, events, splits, subgroups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from clients.exclusion import excluded_patients
from clients.linking.events import linked_events
from clients.patient_labels import Subjects, labels_of_patients
from clients.pseudonyms import pseudonyms, split_places
from clients.site import Site
from clients.sources import meds
from clients.sources.registry import site_events
from clients.sources.schema import Told
from clients.sources.subjects import SubjectIds
from clients.timeline import Timeline, build_timeline
from federation.arrival import places
from federation.errors import UserError
from federation.study import Split, SplitSection
from federation.subgroups import UNKNOWN
from federation.tasks import Task
from federation.vocabulary import AGE

SPLITS: tuple[Split, ...] = ("train", "tuning", "held_out")
AGE_BANDS = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (80, "65-79"), (200, "80+"))
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
        subject_ids: (patients,) int64, each patient's pseudonym under the site's key, in the
            order of the identifiers; those are gone from here on, and neither leaves the site.
        labels: (patients,) float32, or (patients, columns), as the task has them
            (``federation.tasks``).
        events: rows of (row, hours_before, code, numeric_value, text_value), oldest first within
            a patient, none later than the patient's prediction time; ``hours_before`` is NaN
            for static facts.
        splits: rows of each split.
        subgroups: (patients,) level names for each attribute that the site offers.
        excluded: patients left out, by reason.
        notices: patients with something that a person should see, by what it is.
        arrival: (patients,) float64: a training patient's place among the site's by prediction
            time (``federation.arrival.places``); NaN for the others.
        times: (patients,) int64, prediction times in seconds since 1970; they never leave.
    """

    subject_ids: NDArray[np.int64]
    labels: NDArray[np.float32]
    events: pd.DataFrame
    splits: Mapping[Split, NDArray[np.int64]]
    subgroups: Mapping[str, NDArray[np.str_]]
    excluded: Mapping[str, int]
    notices: Mapping[str, int]
    arrival: NDArray[np.float64]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.subject_ids)


def read_patients(site: Site, task: Task, split: SplitSection) -> Patients:
    """Read a site's patients for a task.

    Raises:
        UserError: if a file is missing or malformed, or holds another label, or nobody is left.
    """
    subjects, told = SubjectIds(site.patient_key), Told()
    read = labels_of_patients(site, task, subjects)
    excluded, notices = _counts(read.without), _counts(read.notices)
    labels = _without_shared(read.rows, site, subjects, excluded)
    events = site_events(site, subjects, told)
    timeline = build_timeline(
        chain(events, _linked(site, subjects, read.labelled)),
        labels["subject_id"].to_numpy(),
        labels["prediction_time"].to_numpy(),
        read.labelled,
        until=not read.by_rule,
    )
    if timeline.others and not read.by_rule:
        excluded["no label"] += timeline.others
    kept = timeline.seen
    if not kept.all():
        excluded["label without any event"] += int((~kept).sum())
    if split.by == "given":
        labels, kept = _with_given_split(labels, kept, site, excluded)
    for absent, names in told.excluded.items():
        excluded[absent] += len(names)
    if not kept.any():
        reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items())
        raise UserError(
            site.labels or site.file,
            f"no patient is left for {task.label} ({reasons or 'the file is empty'})",
        )
    past = _of_kept(timeline.events, kept)
    _count_notices(timeline, told, labels, kept, notices)
    labels = labels[kept].reset_index(drop=True)
    hashed = pseudonyms(labels["subject_id"].to_numpy(), site.patient_key())
    splits = _split(labels, split, site, hashed)
    return Patients(
        subject_ids=hashed,
        labels=_of_shape(labels[list(read.values)].to_numpy(np.float32)),
        events=past,
        splits=splits,
        subgroups={name: _levels(name, past, labels) for name in site.settings.data.subgroups},
        excluded=dict(excluded),
        notices=dict(notices),
        arrival=_arrival(labels, splits["train"]),
        times=labels["prediction_time"].to_numpy("datetime64[s]").astype(np.int64),
    )


def _counts(whom: Subjects) -> Counter[str]:
    return Counter({str(reason): len(patients) for reason, patients in whom.items()})


def _linked(
    site: Site, subjects: SubjectIds, labelled: NDArray[np.int64]
) -> Iterator[pa.RecordBatch]:
    """Stream the events of files that the site file ties to patients, after those of the export."""
    yield from linked_events(site, subjects.of_text, labelled).to_batches()


def _of_shape(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(labels[:, 0] if labels.shape[1] == 1 else labels)


def _without_shared(
    labels: pd.DataFrame, site: Site, subjects: SubjectIds, excluded: Counter[str]
) -> pd.DataFrame:
    section = site.settings.data.exclude
    if section is None:
        return labels
    ids = labels["subject_id"].to_numpy()
    shared = excluded_patients(section, site.file.parent, subjects, ids)
    if shared.any():
        excluded["treated at several hospitals"] += int(shared.sum())
    return labels[~shared].reset_index(drop=True)


def _with_given_split(
    labels: pd.DataFrame, kept: NDArray[np.bool_], site: Site, excluded: Counter[str]
) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    given = labels["subject_id"].map(meds.read_splits(site.events))
    without = given.isna().to_numpy() & kept
    if without.any():
        excluded["no split given"] += int(without.sum())
    return labels.assign(split=given), kept & ~without


def _of_kept(events: pd.DataFrame, kept: NDArray[np.bool_]) -> pd.DataFrame:
    if kept.all():
        return events
    row = events["row"].to_numpy()
    chosen: pd.DataFrame = events[kept[row]].reset_index(drop=True)
    chosen["row"] = (np.cumsum(kept) - 1)[chosen["row"].to_numpy()]
    chosen["code"] = chosen["code"].cat.remove_unused_categories()
    return chosen


def _count_notices(
    timeline: Timeline,
    told: Told,
    labels: pd.DataFrame,
    kept: NDArray[np.bool_],
    notices: Counter[str],
) -> None:
    for reason, rows in timeline.notices.items():
        if count := int((rows & kept).sum()):
            notices[reason] += count
    ids = labels["subject_id"].to_numpy()[kept]
    for reason, subjects in told.notices.items():
        if count := int(np.isin(ids, np.fromiter(subjects, np.int64, len(subjects))).sum()):
            notices[reason] += count


def _split(
    labels: pd.DataFrame, split: SplitSection, site: Site, hashed: NDArray[np.int64]
) -> dict[Split, NDArray[np.int64]]:
    if split.by == "given":
        return {name: np.flatnonzero(labels["split"] == name) for name in SPLITS}
    if split.by == "time":
        times = labels["prediction_time"].to_numpy()
        if len(np.unique(times)) < 2:
            raise UserError(
                site.labels or site.file,
                "all prediction times are the same, so the patients cannot be split by time",
                field="prediction_time",
                remedy='Use split.by = "patient" or "given".',
            )
        place = places(times)
    else:
        place = split_places(hashed)
    fractions = split.fractions
    bounds = np.cumsum([fractions.train, fractions.tuning])
    which = np.searchsorted(bounds, place, side="right")
    return {name: np.flatnonzero(which == i) for i, name in enumerate(SPLITS)}


def _arrival(labels: pd.DataFrame, train: NDArray[np.int64]) -> NDArray[np.float64]:
    arrival = np.full(len(labels), np.nan)
    arrival[train] = places(labels["prediction_time"].to_numpy()[train])
    return arrival


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
    # Hispanics have a race too, where both are told: the later one stays, unless it says nothing.
    for code in sorted(chosen, key=lambda code: (code.startswith("ETHNICITY"), code)):
        rows, level = events.loc[events["code"] == code, "row"], namer(code.partition("//")[2])
        if level != UNKNOWN:
            levels[rows] = level
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
