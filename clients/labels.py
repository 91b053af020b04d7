"""Who is to be predicted, when, and the answer: from a labels file or from a rule on the events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.sources.columns import Layout, no_nulls, read_rows
from clients.sources.meds import LABEL_VALUES, read_labels
from clients.sources.parsing import read_times, read_words
from clients.sources.settings import NO_VALUE, LabelRule
from clients.sources.subjects import SubjectIds
from federation.errors import UserError

HOUR = 3_600_000_000
NO_INDEX = "no index event"
TOO_EARLY = "stay or outcome ended before the prediction time"
TRUTH = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}


def labels_of_file(file: Path, subjects: SubjectIds) -> pd.DataFrame:
    """Read a labels file: the MEDS label schema, as parquet or CSV; subjects may be text.

    Returns:
        As `clients.sources.meds.read_labels`.

    Raises:
        UserError: if the file is unreadable or lacks the columns.
    """
    if file.suffix == ".parquet":
        return read_labels(file, subjects)
    frames = []
    for rows in read_rows(file, ["subject_id", "prediction_time"], Layout(), tuple(LABEL_VALUES)):
        names = read_words(rows.columns["subject_id"], ("",))
        no_nulls(type(rows)(file, rows.first, {"subject_id": names}), "subject_id", "patient")
        times = read_times(rows.columns["prediction_time"], NO_VALUE)
        if times.bad.any():
            place = int(np.flatnonzero(times.bad)[0])
            raise rows.error("prediction_time", place, "expected a time without a zone")
        values = [_truth(rows.columns[name]) for name in LABEL_VALUES]
        first, second = values
        frames.append(
            pd.DataFrame(
                {
                    "subject_id": subjects.of(names).to_numpy(),
                    "prediction_time": times.array().to_pandas(),
                    "label": np.where(np.isnan(first), second, first),
                    "contradictory": (first != second) & ~np.isnan(first) & ~np.isnan(second),
                }
            )
        )
    if not frames:
        raise UserError(file, "holds no label")
    return pd.concat(frames, ignore_index=True)


def _truth(column: pa.Array) -> NDArray[np.float64]:
    """Return 0, 1, NaN where there is none, and 2 for what is neither true nor false."""
    words = pc.utf8_lower(read_words(column, NO_VALUE))
    place = pc.index_in(words, value_set=pa.array(list(TRUTH))).fill_null(-1).to_numpy()
    known = np.array([*TRUTH.values(), 2.0])[place]
    return np.where(pc.is_valid(words).to_numpy(zero_copy_only=False), known, np.nan)


def labels_by_rule(
    rule: LabelRule, batches: Iterable[pa.RecordBatch]
) -> tuple[pd.DataFrame, Counter[str]]:
    """Derive each patient's label from the first index event that can be predicted after.

    Such an index event has neither its outcome nor the end of its stay up to the prediction time.
    The label is 1 if an outcome follows the prediction time within the horizon and until the stay
    ends. Where only ``until`` bounds the time, a stay without an end and without an outcome is not
    over yet, and tells nothing.

    Args:
        rule: ``[data.labels]`` of the site file.
        batches: the site's events.

    Returns:
        Labels as `labels_of_file` does, and the patients without one, by reason.
    """
    marks = _marks(rule, batches)
    found: list[tuple[int, int, float]] = []
    excluded: Counter[str] = Counter()
    for subject, index, outcome, end in marks:
        if not len(index):
            excluded[NO_INDEX] += 1
            continue
        label = _first_label(rule, index, outcome, end)
        if label is None:
            excluded[TOO_EARLY] += 1
        else:
            found.append((subject, *label))
    subjects, times, labels = zip(*found, strict=True) if found else ((), (), ())
    table = pd.DataFrame(
        {
            "subject_id": np.array(subjects, np.int64),
            "prediction_time": np.array(times, np.int64).astype("datetime64[us]"),
            "label": np.array(labels, np.float64),
            "contradictory": np.zeros(len(found), bool),
        }
    )
    return table, excluded


def _first_label(
    rule: LabelRule, index: NDArray[np.int64], outcome: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[int, float] | None:
    """Return prediction time and label; the arguments are ascending times of one patient."""
    for start in index:
        predicted = int(start + round(rule.predict_after_hours * HOUR))
        last = _LATEST
        if rule.horizon_hours is not None:
            last = int(start + round(rule.horizon_hours * HOUR))
        ended = end[np.searchsorted(end, start, side="right") :]
        if len(ended):
            last = min(last, int(ended[0]))
        follows = outcome[np.searchsorted(outcome, start, side="left") :]
        if last <= predicted or (len(follows) and follows[0] <= predicted):
            continue
        if len(follows) and follows[0] <= last:
            return predicted, 1.0
        if last != _LATEST:
            return predicted, 0.0
    return None


_LATEST = np.iinfo(np.int64).max


def _marks(
    rule: LabelRule, batches: Iterable[pa.RecordBatch]
) -> Iterable[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each subject with the ascending times of its index events, outcomes and ends."""
    everyone: set[int] = set()
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]] = []
    for batch in batches:
        everyone.update(pc.unique(batch["subject_id"]).to_pylist())
        coded = batch["code"].dictionary_encode()
        kinds = np.array([_kinds(rule, code) for code in coded.dictionary.to_pylist()], np.int8)
        if not kinds.any():
            continue
        kind = kinds[coded.indices.to_numpy()]
        at = (kind > 0) & pc.is_valid(batch["time"]).to_numpy(zero_copy_only=False)
        times = batch["time"].cast(pa.int64()).fill_null(0).to_numpy()
        parts.append((batch["subject_id"].to_numpy()[at], times[at], kind[at]))
    nothing = np.zeros(0, np.int64)
    columns = [np.concatenate(part) for part in zip(*parts, strict=True)] if parts else []
    subjects, times, kinds = columns or (nothing, nothing, nothing.astype(np.int8))
    order = np.lexsort((times, subjects))
    subjects, times, kinds = subjects[order], times[order], kinds[order]
    named, starts = np.unique(subjects, return_index=True)
    for subject, at, kind in zip(
        named.tolist(), np.split(times, starts[1:]), np.split(kinds, starts[1:]), strict=False
    ):
        yield subject, at[kind & 1 > 0], at[kind & 2 > 0], at[kind & 4 > 0]
    for subject in everyone - set(named.tolist()):
        yield subject, nothing, nothing, nothing


def _kinds(rule: LabelRule, code: str) -> int:
    kinds = (rule.index, rule.outcome, rule.until)
    return sum(
        1 << bit
        for bit, codes in enumerate(kinds)
        if any(code == one or code.startswith(f"{one}//") for one in codes)
    )
