"""Who is to be predicted, when, and the answer: from a labels file or from a rule on the events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.label_values import labels_with_values
from clients.sources.meds import read_labels
from clients.sources.settings import LabelRule
from clients.sources.subjects import SubjectIds
from federation.bodies import Reason
from federation.tasks import BinaryTask, Task

HOUR = 3_600_000_000
NO_INDEX: Reason = "no index event"
TOO_EARLY: Reason = "stay or outcome ended before the prediction time"
HOURS_OF_A_DAY = 24


def labels_of_file(file: Path, subjects: SubjectIds, task: Task) -> pd.DataFrame:
    """Read a labels file: the MEDS label schema, as parquet or CSV; subjects may be text.

    Returns:
        As `clients.label_values.labels_with_values`.

    Raises:
        UserError: if the file is unreadable or lacks the columns.
    """
    if file.suffix == ".parquet" and isinstance(task, BinaryTask):
        return read_labels(file, subjects)
    return labels_with_values(file, subjects, task)


def labels_by_rule(
    rule: LabelRule, batches: Iterable[pa.RecordBatch]
) -> tuple[pd.DataFrame, dict[Reason, set[int]]]:
    """Derive each patient's label from the first index event that can be predicted after.

    Such an index event has neither its outcome nor the end of its stay up to the prediction time.
    The label is 1 if an outcome follows the prediction time within the horizon and until the stay
    ends. Where only ``until`` bounds the time, a stay without an end and without an outcome is not
    over yet, and tells nothing. With ``time_to_event`` the label is the days from the prediction
    time to the outcome, or else to the horizon, the stay's end or the patient's last event.

    Args:
        rule: ``[data.labels]`` of the site file.
        batches: the site's events.

    Returns:
        Labels as `labels_of_file` does, of the kind of task that the rule is for, and the patients
        without one, by reason.
    """
    columns = ("days", "event") if rule.time_to_event else ("label",)
    found: list[tuple[int, int, tuple[float, ...]]] = []
    without: dict[Reason, set[int]] = {}
    for subject, marks in _marks(rule, batches):
        if not len(marks.starts):
            without.setdefault(NO_INDEX, set()).add(subject)
            continue
        label = _first_label(rule, marks)
        if label is None:
            without.setdefault(TOO_EARLY, set()).add(subject)
        else:
            found.append((subject, *label))
    values = np.array([label for *_, label in found], np.float64).reshape(-1, len(columns))
    table = pd.DataFrame(
        {
            "subject_id": np.array([subject for subject, *_ in found], np.int64),
            "prediction_time": np.array([time for _, time, _ in found], np.int64).astype(
                "datetime64[us]"
            ),
            **dict(zip(columns, values.T, strict=True)),
            "contradictory": np.zeros(len(found), bool),
        }
    )
    return table, without


class Marks(NamedTuple):
    """Ascending times of one patient's index events, outcomes and ends; and of the last event."""

    starts: NDArray[np.int64]
    outcome: NDArray[np.int64]
    end: NDArray[np.int64]
    last: int


def _first_label(rule: LabelRule, marks: Marks) -> tuple[int, tuple[float, ...]] | None:
    """Return prediction time and label, or days and event, of the first index that has them."""
    for start in marks.starts:
        predicted = int(start + round(rule.predict_after_hours * HOUR))
        last = marks.last if rule.time_to_event else _LATEST
        if rule.horizon_hours is not None:
            last = min(last, int(start + round(rule.horizon_hours * HOUR)))
        ended = marks.end[np.searchsorted(marks.end, start, side="right") :]
        if len(ended):
            last = min(last, int(ended[0]))
        follows = marks.outcome[np.searchsorted(marks.outcome, start, side="left") :]
        if last <= predicted or (len(follows) and follows[0] <= predicted):
            continue
        happens = bool(len(follows)) and follows[0] <= last
        if rule.time_to_event:
            until = int(follows[0]) if happens else last
            return predicted, ((until - predicted) / (HOURS_OF_A_DAY * HOUR), float(happens))
        if happens:
            return predicted, (1.0,)
        if last != _LATEST:
            return predicted, (0.0,)
    return None


_LATEST = np.iinfo(np.int64).max


def _marks(rule: LabelRule, batches: Iterable[pa.RecordBatch]) -> Iterable[tuple[int, Marks]]:
    """Yield each subject with what the rule looks at."""
    everyone: set[int] = set()
    latest: Counter[int] = Counter()
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]] = []
    for batch in batches:
        everyone.update(pc.unique(batch["subject_id"]).to_pylist())
        if rule.time_to_event:
            latest |= _last_times(batch)
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
        yield (
            subject,
            Marks(at[kind & 1 > 0], at[kind & 2 > 0], at[kind & 4 > 0], latest[subject]),
        )
    for subject in everyone - set(named.tolist()):
        yield subject, Marks(nothing, nothing, nothing, 0)


def _last_times(batch: pa.RecordBatch) -> Counter[int]:
    """Return the time of each subject's last event, in microseconds since 1970."""
    table = pa.table({"subject": batch["subject_id"], "time": batch["time"].cast(pa.int64())})
    last = table.drop_null().group_by("subject").aggregate([("time", "max")])
    return Counter(
        dict(zip(last["subject"].to_pylist(), last["time_max"].to_pylist(), strict=True))
    )


def _kinds(rule: LabelRule, code: str) -> int:
    kinds = (rule.index, rule.outcome, rule.until)
    return sum(
        1 << bit
        for bit, codes in enumerate(kinds)
        if any(code == one or code.startswith(f"{one}//") for one in codes)
    )
