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

from clients.label_values import value_columns
from clients.labels import labels_of_file
from clients.patient_labels import one_label_each
from clients.site import Site
from clients.sources import meds
from clients.sources.schema import EVENT_COLUMNS
from clients.sources.subjects import SubjectIds
from federation.tasks import Task
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
        task: says what a label is.
        labels: rows of (row, subject_id, prediction_time, contradictory) and, as float64, of
            `clients.label_values.value_columns`.
        splits: split by subject, where the site gives one.
        recoded: present code by code on disk (or by one between), where they differ.
        looks: changes of the pixels of every image, in order.
    """

    site: Site
    task: Task
    events: pd.DataFrame
    labels: pd.DataFrame
    splits: Mapping[int, str] | None = None
    recoded: Mapping[str, str] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()

    @cached_property
    def patients(self) -> pd.DataFrame:
        """(patients,) rows of subject_id, prediction_time and the label, by ascending subject.

        As in a cohort, a patient is a subject with events and one clear label at the first
        prediction time.
        """
        values = value_columns(self.task)
        rows = self.labels.drop(columns="row")
        rows = rows[rows["subject_id"].isin(self.events["subject_id"].unique())]
        found = one_label_each(rows, values, {}, {})
        found = found[["subject_id", "prediction_time", *values]]
        return found.astype({"label": np.int64}) if values == ("label",) else found

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

    def relabel(self, values: Mapping[str, NDArray[Any]]) -> SiteTables:
        """With other labels at each patient's first prediction time; what is not known stays so.

        Args:
            values: (patients,) by column of values.
        """
        keys, labels = ["subject_id", "prediction_time"], self.labels
        new = labels[keys].merge(self.patients[keys].assign(**values), how="left", on=keys)
        known = {name: new[name].notna() & labels[name].notna().to_numpy() for name in values}
        changed = {name: np.where(known[name], new[name], labels[name]) for name in values}
        return replace(self, labels=labels.assign(**changed))


def read_tables(site: Site, task: Task) -> SiteTables:
    """Read a site's events, labels and splits.

    Args:
        site: where they lie.
        task: says which columns hold the labels, and which values there are.

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
    labels = labels_of_file(labels_of, SubjectIds(site.patient_key), task)
    given = site.events / "metadata" / "subject_splits.parquet"
    return SiteTables(
        site=site,
        task=task,
        events=events,
        labels=labels.assign(row=np.arange(len(labels))),
        splits=meds.read_splits(site.events) if given.is_file() else None,
    )


def labels_file(site: Site) -> Path:
    """Return the labels of a MEDS site (``simulations.shifts.as_meds``)."""
    assert site.labels is not None
    return site.labels
