"""From a site's patients to the tensors of each modality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.cohort import Patients
from clients.images.picture import View
from clients.images.pool import spread
from clients.images.read import picture_or_reason
from clients.images.settings import ImagesSection
from federation.modalities import EhrSection, ImageSection
from federation.vocabulary import CodeMoments, Vocabulary

EVENTS_AT_ONCE = 1_000_000
CELLS_AT_ONCE = 4_000_000
"""Events, and features of all patients, that are in memory at once beside the result."""
LARGEST_VALUE = 10.0
"""Scaled values are clipped here: a typing error must not drown a site's other values."""


@dataclass(frozen=True)
class ModalityTensor:
    """One modality of all patients of a site.

    Attributes:
        values: (patients, ...); zeros where absent.
        present: (patients,) bool.
        unusable: patients of whom something could not be used, by reason.
    """

    values: Tensor
    present: Tensor
    unusable: Mapping[str, int]


def ehr_tensor(patients: Patients, section: EhrSection, vocabulary: Vocabulary) -> ModalityTensor:
    """Aggregate each patient's events by place of the vocabulary.

    Returns:
        (patients, places x aggregates) float32. ``last``, ``mean`` and ``slope`` (per day) are of
        scaled values; ``count`` is log(1 + n); ``since`` is exp(-hours / 24) of the newest;
        ``present`` is 0 or 1.
    """
    events = patients.events
    width = vocabulary.places * len(section.aggregates)
    values = np.zeros((len(patients), width), np.float32)
    present = np.zeros(len(patients), bool)
    for first, last, start, end in portions(events["row"].to_numpy(), len(patients), width):
        marks = _marks(in_window(events.iloc[start:end], section), vocabulary, first)
        columns = _aggregates(marks, (last - first, vocabulary.places))
        wanted = np.stack([columns[name] for name in section.aggregates], axis=-1)
        values[first:last] = wanted.reshape(last - first, -1)
        present[first + marks.row] = True
    return ModalityTensor(torch.from_numpy(values), torch.from_numpy(present), {})


def portions(
    row: NDArray[np.int64], patients: int, width: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield first and last patient, and first and last event, of portions that fit in memory.

    Args:
        row: (events,) ascending.
        patients: all of them.
        width: of a patient's features.
    """
    starts = np.searchsorted(row, np.arange(patients + 1))
    first = 0
    while first < patients:
        by_events = int(np.searchsorted(starts, starts[first] + EVENTS_AT_ONCE, side="right")) - 1
        last = min(max(by_events, first + 1), first + max(CELLS_AT_ONCE // max(width, 1), 1))
        last = min(last, patients)
        yield first, last, int(starts[first]), int(starts[last])
        first = last


def code_moments(
    patients: Patients, section: EhrSection, minimum_cell: int
) -> dict[str, CodeMoments]:
    """Count codes and sum values over the training patients, for the prepare exchange.

    A code is left out unless at least ``minimum_cell`` training patients have it; its moments
    are left out unless as many have a value of it.
    """
    events = in_window(patients.events, section)
    events = events[events["row"].isin(patients.splits["train"])]
    skipped = Vocabulary((), {}, 1)
    found: dict[str, CodeMoments] = {}
    for code, group in events.groupby("code", observed=True, sort=True):
        holders = group["row"].nunique()
        if holders < minimum_cell or not skipped.places_of(str(code))[0]:
            continue
        valued = group[np.isfinite(group["numeric_value"])]
        values = valued["numeric_value"].to_numpy(np.float64)
        if valued["row"].nunique() < minimum_cell:
            values = values[:0]
        found[str(code)] = CodeMoments(
            holders, len(values), float(values.sum()), float(np.square(values).sum())
        )
    return found


def zeros(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array of zeros in memory."""
    return np.zeros(shape, np.float32)


def image_tensor(
    patients: Patients,
    section: ImageSection,
    folder: Path | None,
    settings: ImagesSection | None = None,
    workers: int = 0,
    room: Callable[[tuple[int, ...]], NDArray[np.float32]] = zeros,
) -> ModalityTensor:
    """Read each patient's newest readable image.

    Args:
        patients: whose ``IMAGE//`` events name files.
        section: the study's.
        folder: of the images; None if the site has none.
        settings: ``[data.images]`` of the site file; None reads DICOM with its defaults.
        workers: processes that decode; 0 decodes in this one.
        room: makes the array of all images, with zeros; where it lies is its affair.

    Returns:
        (patients, channels, [planes,] size, size) float32 in [0, 1].
    """
    values = room((len(patients), *section.shape))
    present = np.zeros(len(patients), bool)
    unusable: dict[str, set[int]] = {}
    rows, files = newest_first(patients.events, "IMAGE//")
    if folder is not None and not rows:
        unusable["image: offered, but no event names a file"] = set(range(len(patients)))
    waiting: dict[int, list[str]] = {}
    for row, file in zip(rows, files, strict=True) if folder is not None else ():
        waiting.setdefault(row, []).append(file)
    read = partial(
        picture_or_reason,
        folder=folder or Path(),
        shape=section.shape,
        view=settings.view if settings else View(),
        kind=settings.format if settings else "dicom",
        spacing_mm=section.spacing_mm,
    )
    while waiting:  # all patients' newest first, then the next of those whose could not be read
        asked = list(waiting)
        for place, found in spread(read, [waiting[row].pop(0) for row in asked], workers):
            row = asked[place]
            if isinstance(found, np.ndarray):
                values[row], present[row] = found, True
            else:
                reason = found or "the decoder crashed"
                unusable.setdefault(f"image: {reason}", set()).add(row)
        waiting = {row: files for row, files in waiting.items() if files and not present[row]}
    counted = {reason: len(rows) for reason, rows in unusable.items()}
    return ModalityTensor(torch.from_numpy(values), torch.from_numpy(present), counted)


def in_window(events: pd.DataFrame, section: EhrSection) -> pd.DataFrame:
    """Return the events of the study's window, and facts without a time."""
    if section.window_hours is None:
        return events
    return events[~(events["hours_before"] > section.window_hours)]


@dataclass(frozen=True)
class _Marks:
    """Events spread over their places: one entry per (event, place), oldest first."""

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    hours: NDArray[np.float64]
    value: NDArray[np.float64]


def _marks(events: pd.DataFrame, vocabulary: Vocabulary, first: int) -> _Marks:
    """Spread events; rows count from patient ``first``."""
    categories = [str(code) for code in events["code"].cat.categories]
    places = [vocabulary.places_of(code) for code in categories]
    code = events["code"].cat.codes.to_numpy()
    scaled = scaled_values(
        events["numeric_value"].to_numpy(np.float64), code, categories, vocabulary
    )
    rows, marked, hours, values, order = [], [], [], [], []
    for depth in range(max((len(where) for where, _ in places), default=0)):
        place = np.array([where[depth] if depth < len(where) else -1 for where, _ in places])[code]
        valued = np.array([-1 if target is None else target for _, target in places])[code]
        kept = place >= 0
        rows.append(events["row"].to_numpy()[kept] - first)
        marked.append(place[kept])
        hours.append(events["hours_before"].to_numpy()[kept])
        values.append(np.where(place == valued, scaled, np.nan)[kept])
        order.append(np.flatnonzero(kept))
    if not rows:
        nothing = np.zeros(0)
        return _Marks(nothing.astype(np.int64), nothing.astype(np.int64), nothing, nothing)
    # Back from depth by depth to the order of the events, also where codes share a bucket.
    sequence = np.argsort(np.concatenate(order), kind="stable")
    return _Marks(*(np.concatenate(part)[sequence] for part in (rows, marked, hours, values)))


def scaled_values(
    values: NDArray[np.float64],
    code: NDArray[np.integer],
    categories: list[str],
    vocabulary: Vocabulary,
) -> NDArray[np.float64]:
    """Scale values, (events,), by their codes' ranges; ``code`` counts in ``categories``."""
    scales = [vocabulary.scales.get(name) for name in categories]
    center = np.array([0.0 if s is None else s.center for s in scales])[code]
    width = np.array([1.0 if s is None else s.width for s in scales])[code]
    known = np.array([s is not None for s in scales], bool)[code]
    result = np.where(known, (values - center) / width, np.arcsinh(values) / 3)
    return np.clip(result, -LARGEST_VALUE, LARGEST_VALUE)


def _aggregates(marks: _Marks, shape: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
    size = shape[0] * shape[1]
    key = marks.row * shape[1] + marks.place

    def total(weights: NDArray[np.float64] | None, where: NDArray[np.bool_]) -> NDArray[np.float64]:
        chosen = None if weights is None else weights[where]
        return np.bincount(key[where], chosen, size).astype(np.float64)

    everywhere = np.ones(len(key), bool)
    valued = ~np.isnan(marks.value)
    timed = ~np.isnan(marks.hours)
    count = total(None, everywhere)
    n_values = total(None, valued)
    mean = total(marks.value, valued) / np.maximum(n_values, 1)
    last = np.zeros(size)
    last[key[valued]] = marks.value[valued]  # oldest first, so the newest is written last
    newest = np.full(size, np.inf)
    np.minimum.at(newest, key[timed], marks.hours[timed])
    columns = {
        "last": last,
        "mean": mean,
        "count": np.log1p(count),
        "slope": _slope(marks, key, valued & timed, size),
        "since": np.exp(-newest / 24),
        "present": (count > 0).astype(np.float64),
    }
    return {name: column.reshape(shape) for name, column in columns.items()}


def _slope(
    marks: _Marks, key: NDArray[np.int64], where: NDArray[np.bool_], size: int
) -> NDArray[np.float64]:
    """Least-squares change per day, 0 where there are fewer than two times."""
    key, value = key[where], marks.value[where]
    days = -marks.hours[where] / 24
    n = np.maximum(np.bincount(key, None, size), 1)
    # Centre first: sums of squares of raw times lose the small differences between them.
    days = days - (np.bincount(key, days, size) / n)[key]
    spread = np.bincount(key, days * days, size)
    covariance = np.bincount(key, days * value, size)
    known = spread > 1e-6
    slope = np.zeros(size)
    slope[known] = covariance[known] / spread[known]
    return np.clip(slope, -LARGEST_VALUE, LARGEST_VALUE)


def newest_first(events: pd.DataFrame, prefix: str) -> tuple[list[int], list[str]]:
    """Return rows and texts of the events whose codes begin so, those of a patient newest first."""
    codes = [code for code in events["code"].cat.categories if code.startswith(prefix)]
    chosen = events[events["code"].isin(codes) & events["text_value"].notna()].iloc[::-1]
    return chosen["row"].tolist(), chosen["text_value"].tolist()
