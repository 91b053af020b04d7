"""What a row of a labels file says, by the kind of task: parquet or CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.sources.columns import Layout, Rows, names_of, no_nulls, read_rows
from clients.sources.parsing import read_numbers, read_times, read_words
from clients.sources.settings import NO_VALUE
from clients.sources.subjects import SubjectIds
from federation.errors import UserError
from federation.tasks import (
    BinaryTask,
    MulticlassTask,
    MultilabelTask,
    SeveralTask,
    SurvivalTask,
    Task,
)
from federation.tasks.multilabel import UNCERTAIN

Values = NDArray[np.float64]
NOT_ALLOWED = np.inf
"""Stands for what is no value of a label, such as a class that the study does not name."""
TRUTH = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}


def value_columns(task: Task) -> tuple[str, ...]:
    """Return the names of a task's columns of labels."""
    if isinstance(task, SeveralTask):
        return tuple(f"{name}:{c}" for name, one in task.tasks.items() for c in value_columns(one))
    if isinstance(task, MultilabelTask):
        return tuple(f"label:{name}" for name in task.labels)
    return ("days", "event") if isinstance(task, SurvivalTask) else ("label",)


def labels_with_values(file: Path, subjects: SubjectIds, task: Task) -> pd.DataFrame:
    """Read a labels file: the MEDS label schema; a column a finding, where there are several.

    Args:
        file: parquet or CSV.
        subjects: makes ids of text, where the export's patients have no numbers.
        task: says which columns hold the values, and which values there are.

    Returns:
        ``subject_id`` int64, ``prediction_time`` datetime64[us] (may be NaT), a float64 for each of
        ``value_columns``: NaN where there is none, `NOT_ALLOWED` where it is none of the task's;
        ``contradictory`` bool: whether the row's values differ.

    Raises:
        UserError: if the file is unreadable or lacks the columns.
    """
    wanted, either = _columns(task)
    names = names_of(file)
    if either and not set(either) & set(names):
        raise UserError(
            file,
            f"neither {' nor '.join(either)} is there",
            remedy=f"It has: {', '.join(names[:40])}.",
        )
    frames = [
        _read(rows, subjects, task)
        for rows in read_rows(file, ["subject_id", "prediction_time", *wanted], Layout(), either)
    ]
    if not frames:
        raise UserError(file, "holds no label")
    return pd.concat(frames, ignore_index=True)


def _columns(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns that must be there, and those of which one must be."""
    if isinstance(task, MultilabelTask):
        return task.labels, ()
    if isinstance(task, SurvivalTask):
        return ("float_value",), ("boolean_value", "integer_value")
    if isinstance(task, MulticlassTask):
        return (), ("categorical_value", "integer_value")
    return (), ("boolean_value", "integer_value")


def _read(rows: Rows, subjects: SubjectIds, task: Task) -> pd.DataFrame:
    given = rows.columns["subject_id"]
    names = read_words(given, ("",))
    no_nulls(Rows(rows.file, rows.first, {"subject_id": names}), "subject_id", "patient")
    times = read_times(rows.columns["prediction_time"], NO_VALUE)
    if times.bad.any():
        place = int(np.flatnonzero(times.bad)[0])
        raise rows.error("prediction_time", place, "expected a time without a zone")
    values, contradictory = READERS[type(task)](task, rows.columns)
    return pd.DataFrame(
        {
            # Numbers stay what they are, those of 19 digits too.
            "subject_id": subjects.of(
                given if pa.types.is_integer(given.type) else names
            ).to_numpy(),
            "prediction_time": times.array().to_pandas(),
            **dict(zip(value_columns(task), values, strict=True)),
            "contradictory": contradictory,
        }
    )


Read = tuple[list[Values], NDArray[np.bool_]]


def _yes_or_no(task: Task, columns: Mapping[str, pa.Array]) -> Read:
    label, contradictory = _either(
        _truth(columns["boolean_value"]), _truth(columns["integer_value"])
    )
    return [label], contradictory


def _class(task: Task, columns: Mapping[str, pa.Array]) -> Read:
    assert isinstance(task, MulticlassTask)
    words = read_words(columns["categorical_value"], ("",))
    place = pc.index_in(words, value_set=pa.array(task.classes)).fill_null(-1).to_numpy()
    named = np.where(place >= 0, place, NOT_ALLOWED).astype(np.float64)
    named[pc.is_null(words).to_numpy(zero_copy_only=False)] = np.nan
    numbered = _allowed(columns["integer_value"], range(len(task.classes)))
    label, contradictory = _either(named, numbered)
    return [label], contradictory


def _findings(task: Task, columns: Mapping[str, pa.Array]) -> Read:
    assert isinstance(task, MultilabelTask)
    values = []
    for name in task.labels:
        found = _allowed(columns[name], (0, 1, UNCERTAIN), booleans=True)
        if task.blank == "negative":
            found[np.isnan(found)] = 0.0
        counts_as = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}[task.uncertain]
        values.append(np.where(found == UNCERTAIN, counts_as, found))
    return values, np.zeros(len(values[0]), bool)


def _time_and_event(task: Task, columns: Mapping[str, pa.Array]) -> Read:
    numbers = read_numbers(columns["float_value"], NO_VALUE)
    days = np.where(
        numbers.bad | (numbers.limit != 0) | (numbers.values < 0), NOT_ALLOWED, numbers.values
    )
    event, contradictory = _either(
        _truth(columns["boolean_value"]), _truth(columns["integer_value"])
    )
    return [days, event], contradictory


READERS: Mapping[type[Task], Callable[[Task, Mapping[str, pa.Array]], Read]] = {
    BinaryTask: _yes_or_no,
    MulticlassTask: _class,
    MultilabelTask: _findings,
    SurvivalTask: _time_and_event,
}


def _either(first: Values, second: Values) -> tuple[Values, NDArray[np.bool_]]:
    """Return what either column says, and where they say different things."""
    differ = (first != second) & ~np.isnan(first) & ~np.isnan(second)
    return np.where(np.isnan(first), second, first), differ


def _truth(column: pa.Array) -> Values:
    words = pc.utf8_lower(read_words(column, NO_VALUE))
    place = pc.index_in(words, value_set=pa.array(list(TRUTH))).fill_null(-1).to_numpy()
    known = np.array([*TRUTH.values(), NOT_ALLOWED])[place]
    return np.where(pc.is_valid(words).to_numpy(zero_copy_only=False), known, np.nan)


def _allowed(column: pa.Array, values: range | tuple[float, ...], booleans: bool = False) -> Values:
    """Return numbers of a closed list, also as text, and true and false where they are meant."""
    words = pc.utf8_lower(read_words(column, NO_VALUE))
    if booleans:
        words = pc.replace_substring_regex(words, "^true$", "1")
        words = pc.replace_substring_regex(words, "^false$", "0")
    numbers = read_numbers(words, NO_VALUE)
    fits = np.isin(numbers.values, list(values)) & ~numbers.bad & (numbers.limit == 0)
    given = pc.is_valid(words).to_numpy(zero_copy_only=False)
    return np.where(given, np.where(fits, numbers.values, NOT_ALLOWED), np.nan)
