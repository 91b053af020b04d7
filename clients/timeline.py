"""The past of each patient up to the prediction time, built from a stream of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.sources.schema import BIRTH
from clients.sources.subjects import in_sorted
from federation.bodies import Reason
from federation.vocabulary import AGE

HOUR = 3.6e9
HOURS_PER_YEAR = 24 * 365.25
OLDEST = 120
"""Years; a birth longer ago, often a placeholder such as 1900-01-01, says nothing of the age."""
LARGEST_NUMBER = 1e30
"""A value beyond it is no measurement, and its square would not fit a float32."""
WITH_TEXT = ("IMAGE//", "NOTE//")
"""Codes whose text is used; no other text is kept."""


@dataclass(frozen=True)
class Timeline:
    """The events of some patients before their prediction times.

    Attributes:
        events: as `clients.cohort.Patients.events`; row i is patient i of the labels.
        seen: (patients,) whether a patient has any event at all, also a later one.
        others: subjects who are not among the patients.
        notices: (patients,) bool for each thing that a person should see.
    """

    events: pd.DataFrame
    seen: NDArray[np.bool_]
    others: int
    notices: Mapping[Reason, NDArray[np.bool_]]


def build_timeline(
    batches: Iterable[pa.RecordBatch],
    subjects: NDArray[np.int64],
    predicted: NDArray[np.datetime64],
    labelled: NDArray[np.int64],
    until: bool,
) -> Timeline:
    """Cut every patient's events at the prediction time, and add the age at that time.

    Only what is kept of a batch stays in memory: 24 bytes an event, and the texts in use.

    Args:
        batches: events in any order; of one patient, those of equal time keep theirs.
        subjects: (patients,) int64, ascending.
        predicted: (patients,) datetime64[us].
        labelled: subjects that count as patients although nothing of them is kept, ascending.
        until: whether events at the prediction time itself are used.
    """
    builder = _Builder(subjects, predicted.astype("datetime64[us]").astype(np.int64), until)
    others: set[int] = set()
    for batch in batches:
        ids = batch["subject_id"].to_numpy()
        row = in_sorted(ids, subjects)
        unknown = row < 0
        if unknown.any():
            strange = np.unique(ids[unknown])
            others.update(strange[in_sorted(strange, labelled) < 0].tolist())
        builder.add(batch, row)
    return Timeline(builder.events(), builder.seen, len(others), builder.notices)


class _Builder:
    def __init__(self, subjects: NDArray[np.int64], predicted: NDArray[np.int64], until: bool):
        count = len(subjects)
        self.predicted, self.until = predicted, until
        self.seen = np.zeros(count, bool)
        self.notices: dict[Reason, NDArray[np.bool_]] = {
            "events after the prediction time, not used": np.zeros(count, bool),
            "birth: after the prediction time or over 120 years before": np.zeros(count, bool),
            "value: not a finite number": np.zeros(count, bool),
            "events before the birth, not used": np.zeros(count, bool),
        }
        self.age = np.full(count, np.nan)
        self.codes: dict[str, int] = {AGE: 0}
        self.parts: list[tuple[NDArray[np.generic], ...]] = []
        self.texts: dict[int, str] = {}
        self.kept = 0

    def add(self, batch: pa.RecordBatch, row: NDArray[np.int64]) -> None:
        """Keep what of a batch is a patient's past; ``row`` is -1 for nobody."""
        known = row >= 0
        if not known.all():
            batch, row = batch.filter(pa.array(known)), row[known]
        if not len(row):
            return
        self.seen[row] = True
        coded = batch["code"].dictionary_encode()
        names = coded.dictionary.to_pylist()
        numbers = np.array([self.codes.setdefault(n, len(self.codes)) for n in names], np.int32)
        code = numbers[coded.indices.to_numpy()]
        micros = batch["time"].cast(pa.int64()).fill_null(0).to_numpy()
        hours = (self.predicted[row] - micros) / HOUR
        hours[pc.is_null(batch["time"]).to_numpy(zero_copy_only=False)] = np.nan
        births = code == self.codes.get(BIRTH, -1)
        impossible = births & ((hours < 0) | (hours > OLDEST * HOURS_PER_YEAR))
        later = ((hours < 0) if self.until else (hours <= 0)) & ~births
        kept = ~(later | impossible)
        values = batch["numeric_value"].to_numpy(zero_copy_only=False).astype(np.float32)
        absurd = kept & (np.abs(values) > LARGEST_NUMBER)
        self._notice("events after the prediction time, not used", row[later])
        self._notice("birth: after the prediction time or over 120 years before", row[impossible])
        self._notice("value: not a finite number", row[absurd])
        values = np.where(absurd, np.float32(np.nan), values)
        self._born(row[births & kept], hours[births & kept])
        self._keep_texts(batch, [n.startswith(WITH_TEXT) for n in names], coded, kept)
        self.parts.append((row[kept].astype(np.int32), hours[kept], code[kept], values[kept]))
        self.kept += int(kept.sum())

    def _notice(self, reason: Reason, rows: NDArray[np.int64]) -> None:
        self.notices[reason][rows] = True

    def _born(self, rows: NDArray[np.int64], hours: NDArray[np.float64]) -> None:
        timed = ~np.isnan(hours)
        first, places = np.unique(rows[timed], return_index=True)
        unknown = np.isnan(self.age[first])
        self.age[first[unknown]] = hours[timed][places[unknown]] / HOURS_PER_YEAR

    def _keep_texts(
        self, batch: pa.RecordBatch, wanted: list[bool], coded: pa.Array, kept: NDArray[np.bool_]
    ) -> None:
        if not any(wanted):
            return
        texts = batch["text_value"]
        used = np.array(wanted)[coded.indices.to_numpy()] & kept
        used &= pc.is_valid(texts).to_numpy(zero_copy_only=False)
        places = self.kept + np.cumsum(kept)[used] - 1
        held = texts.filter(pa.array(used)).to_pylist()
        self.texts.update(zip(places.tolist(), held, strict=True))

    def events(self) -> pd.DataFrame:
        """Return all that was kept, oldest first within a patient, static facts before."""
        row, hours, code, value = self._columns()
        text = np.full(len(row), None, object)
        if self.texts:
            text[np.fromiter(self.texts, np.int64, len(self.texts))] = list(self.texts.values())
            self.texts = {}
        prenatal = hours > (self.age[row] * HOURS_PER_YEAR + 24)  # births are dates
        if prenatal.any():
            self._notice("events before the birth, not used", row[prenatal])
            row, hours, code, value, text = (c[~prenatal] for c in (row, hours, code, value, text))
        aged = np.flatnonzero(~np.isnan(self.age)).astype(np.int32)
        row = np.concatenate([row, aged])
        hours = np.concatenate([hours, np.full(len(aged), np.nan)])
        code = np.concatenate([code, np.zeros(len(aged), np.int32)])
        # An age keeps its digits where there is one.
        number = np.concatenate([value, self.age[aged]]) if len(aged) else value
        text = np.concatenate([text, np.full(len(aged), None, object)])
        order = np.lexsort((np.where(np.isnan(hours), -np.inf, -hours), row))
        names = np.array(list(self.codes), object)
        used = np.flatnonzero(np.bincount(code, minlength=len(names)))
        used = used[np.argsort(names[used].astype(str), kind="stable")]
        rank = np.zeros(len(names), np.int32)
        rank[used] = np.arange(len(used))
        return pd.DataFrame(
            {
                "code": pd.Categorical.from_codes(rank[code[order]], names[used].tolist()),
                "text_value": text[order],
                "numeric_value": number[order],
                "row": row[order].astype(np.int64),
                "hours_before": hours[order],
            },
            copy=False,
        )

    def _columns(self) -> tuple[NDArray, ...]:  # type: ignore[type-arg]
        """Join the parts column by column, so that each is in memory twice only for a while."""
        kinds = (np.int32, np.float64, np.int32, np.float32)
        joined = []
        columns = [list(column) for column in zip(*self.parts, strict=True)] or [[]] * 4
        self.parts = []
        for held, kind in zip(columns, kinds, strict=True):
            joined.append(np.concatenate(held) if held else np.zeros(0, kind))
            held.clear()
        return tuple(joined)
