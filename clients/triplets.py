"""From a site's patients to their events as they came, for encoders that read those."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from clients.cohort import Patients
from clients.features import ModalityTensor, in_window, portions, scaled_values
from federation.modalities import EhrSection
from federation.models.triplets import FACTS, MOST_PIECES, columns
from federation.vocabulary import Vocabulary

CUT = "event: cut at the study's max_events"


def event_tensor(patients: Patients, section: EhrSection, vocabulary: Vocabulary) -> ModalityTensor:
    """Write each patient's events in a row: facts without a time, then the newest first.

    A patient with more than ``max_events`` loses the oldest, and is counted. Events of codes that
    the vocabulary does not have are left out, as in the aggregates.

    Returns:
        (patients, max_events, 4 + pieces) float32, as `federation.models.triplets` says.
    """
    events, most = patients.events, section.max_events
    width = columns(vocabulary.buckets > 0)
    values = np.zeros((len(patients), most, width), np.float32)
    present = np.zeros(len(patients), bool)
    cut = 0
    rows = events["row"].to_numpy()
    for first, last, start, end in portions(rows, len(patients), most * width):
        some = in_window(events.iloc[start:end], section)
        pieces, numbers = _told(some, vocabulary, width - FACTS)
        known = (pieces != 0).any(1)
        row = some["row"].to_numpy()[known] - first
        hours = some["hours_before"].to_numpy()[known]
        order, rank = _newest_first(row, hours)
        counts = np.bincount(row, minlength=last - first)
        cut += int((counts > most).sum())
        present[first:last] = counts > 0
        kept = order[rank < most]
        place = rank[rank < most]
        timed, valued = ~np.isnan(hours[kept]), ~np.isnan(numbers[known][kept])
        values[first + row[kept], place, 0] = np.where(timed, np.maximum(hours[kept], 0), 0)
        values[first + row[kept], place, 1] = timed
        values[first + row[kept], place, 2] = np.where(valued, numbers[known][kept], 0)
        values[first + row[kept], place, 3] = valued
        values[first + row[kept], place, FACTS:] = pieces[known][kept]
    unusable = {CUT: cut} if cut else {}
    return ModalityTensor(torch.from_numpy(values), torch.from_numpy(present), unusable)


def _told(
    events: pd.DataFrame, vocabulary: Vocabulary, width: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each event's places, (events, width) from 1, 0 for none, and scaled value or NaN."""
    categories = [str(code) for code in events["code"].cat.categories]
    code = events["code"].cat.codes.to_numpy()
    table = np.zeros((len(categories), width), np.int64)
    for i, name in enumerate(categories):
        places = vocabulary.places_of(name)[0][-MOST_PIECES:]
        table[i, : len(places)] = np.array(places, np.int64) + 1
    numbers = scaled_values(
        events["numeric_value"].to_numpy(np.float64), code, categories, vocabulary
    )
    return table[code], numbers


def _newest_first(
    row: NDArray[np.int64], hours: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return an order by patient, facts without a time before the newest, and places in it.

    Of equal times, the later in the events is the newer.
    """
    order = np.lexsort((-np.arange(len(row)), np.where(np.isnan(hours), -np.inf, hours), row))
    starts = np.searchsorted(row[order], row[order])
    return order, np.arange(len(order)) - starts
