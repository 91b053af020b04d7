"""What a site's tables hold, as far as shifts look at it and change it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.site import Site
from clients.sources import meds
from clients.sources.schema import EVENT_COLUMNS
from clients.sources.subjects import SubjectIds
from federation.errors import UserError
from simulations.shifts.looks import Look

FACTS = ("MEDS_", "GENDER//", "SEX//", "ETHNICITY//", "RACE//", "IMAGE//", "NOTE//")
"""Starts of codes with a meaning of their own, which no shift changes."""
IMAGES, NOTES = "IMAGE//", "NOTE//"


@dataclass(frozen=True)
class SiteTables:
    """The tables of one site; a shift returns another one.

    Attributes:
        site: where they were read.
        events: rows of (file, row, subject_id, time, code, numeric_value, path), in the order of
            the files; ``file`` and ``row`` are an event's place on disk, ``code`` is categorical,
            ``path`` is the text of image events alone.
        labels: rows of (row, subject_id, prediction_time, label, contradictory).
        splits: split by subject, where the site gives one.
        recoded: present code by code on disk (or by one between), where they differ.
        looks: changes of the pixels of every image, in order.
    """

    site: Site
    events: pd.DataFrame
    labels: pd.DataFrame
    splits: Mapping[int, str] | None = None
    recoded: Mapping[str, str] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()

    @cached_property
    def patients(self) -> pd.DataFrame:
        """(patients,) rows of (subject_id, prediction_time, label), by ascending subject.

        As in a cohort, a patient is a subject with events and one clear label of 0 or 1 at the
        first prediction time.
        """
        rows = self.labels
        rows = rows[rows["label"].isin([0, 1]) & rows["prediction_time"].notna()]
        rows = rows[rows["subject_id"].isin(self.events["subject_id"].unique())]
        rows = rows.sort_values(["subject_id", "prediction_time"], kind="stable")
        first = rows.groupby("subject_id")["prediction_time"].transform("min")
        rows = rows[rows["prediction_time"] == first]
        by_subject = rows.groupby("subject_id")
        unclear = (by_subject["label"].transform("nunique") > 1) | by_subject[
            "contradictory"
        ].transform("any")
        rows = rows[~unclear].drop_duplicates("subject_id").reset_index(drop=True)
        return rows[["subject_id", "prediction_time", "label"]].astype({"label": np.int64})

    @cached_property
    def place_of(self) -> NDArray[np.int64]:
        """(events,) each event's patient, a row of ``patients``; -1 for none."""
        index = pd.Index(self.patients["subject_id"])
        return np.asarray(index.get_indexer(self.events["subject_id"]), np.int64)

    @cached_property
    def past(self) -> pd.DataFrame:
        """The patients' events without those after the prediction time, oldest first.

        Columns are those of ``events`` and ``patient``, a row of ``patients``.
        """
        place = self.place_of
        times = self.patients["prediction_time"].to_numpy()
        known = place >= 0
        at = self.events["time"].to_numpy()
        late = np.zeros(len(at), bool)
        late[known] = at[known] > times[place[known]]
        kept = known & ~late
        past = self.events[kept].assign(patient=place[kept])
        return past.sort_values(["patient", "time"], kind="stable", na_position="first")

    def codes(self, starts: Iterable[str] = ("",)) -> list[str]:
        """The codes that begin with one of ``starts`` and are no fact of their own, sorted."""
        chosen = tuple(starts)
        present = self.events["code"].cat.remove_unused_categories().cat.categories
        return sorted(c for c in present if c.startswith(chosen) and not c.startswith(FACTS))

    def keep(self, stays: NDArray[np.bool_]) -> SiteTables:
        """Without the patients whose row is False; subjects who are no patients stay.

        Args:
            stays: (patients,) whether each stays.
        """
        gone = set(self.patients["subject_id"][~stays])
        splits = self.splits
        return replace(
            self,
            events=self.events[~self.events["subject_id"].isin(gone)],
            labels=self.labels[~self.labels["subject_id"].isin(gone)],
            splits=None if splits is None else {s: v for s, v in splits.items() if s not in gone},
        )

    def relabel(self, labels: NDArray[np.int64]) -> SiteTables:
        """With other labels, (patients,) 0 or 1, at each patient's first prediction time."""
        patients = self.patients
        changed = patients.assign(new=labels)[labels != patients["label"].to_numpy()]
        keys = ["subject_id", "prediction_time"]
        new = self.labels.merge(changed[[*keys, "new"]], how="left", on=keys)["new"].to_numpy()
        label = np.where(np.isnan(new), self.labels["label"].to_numpy(), new)
        return replace(self, labels=self.labels.assign(label=label))


def read_tables(site: Site) -> SiteTables:
    """Read a site's events, labels and splits.

    Raises:
        UserError: if a file is unreadable, or lacks a column, or holds another kind of value.
    """
    labels_of = labels_file(site)
    frames = []
    for number, file in enumerate(meds.event_files(site.events)):
        table = meds.read_columns(file, EVENT_COLUMNS, meds.OPTIONAL)
        text = table["text_value"]
        is_image = pc.starts_with(table["code"], IMAGES)
        path = pc.if_else(pc.fill_null(is_image, False), text, pa.scalar(None, pa.string()))
        columns: dict[str, Any] = {
            "file": np.full(len(table), number),
            "row": np.arange(len(table)),
            **{name: table[name].to_pandas() for name in ("subject_id", "time", "numeric_value")},
            "code": table["code"].to_pandas(),
            "path": path.to_pandas(),
        }
        frames.append(pd.DataFrame(columns))
    events = pd.concat(frames, ignore_index=True)
    events["code"] = events["code"].astype("category")
    labels = meds.read_labels(labels_of, SubjectIds(site.patient_key))
    given = site.events / "metadata" / "subject_splits.parquet"
    return SiteTables(
        site=site,
        events=events,
        labels=labels.assign(row=np.arange(len(labels))),
        splits=meds.read_splits(site.events) if given.is_file() else None,
    )


def labels_file(site: Site) -> Path:
    """Return the labels of a site whose tables can be written anew.

    Raises:
        UserError: if its events are not MEDS, or its labels no parquet file.
    """
    labels = site.labels
    if site.settings.data.events.format != "meds" or labels is None or labels.suffix != ".parquet":
        raise UserError(
            site.file,
            "shifts are applied to MEDS events with a parquet file of labels",
            field="data",
            remedy="Take a site that `wardround synthesize` or `wardround dataset` wrote so.",
        )
    return labels
