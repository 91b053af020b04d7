"""What each code says of the label: from the very events that a model would see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from clients.checks.tools import unique_sorted
from clients.cohort import Patients

FEWEST, FEWEST_OF_A_CLASS = 20, 5
"""Patients below whom a code's AUROC says nothing."""


@dataclass(frozen=True)
class Signal:
    """One code among the labelled patients, up to the prediction time.

    Attributes:
        code: the code.
        holders: patients who have it.
        positives: those of them with the outcome.
        present: AUROC of having it or not; None where the classes are too small.
        value: AUROC of its last value among those who have one; None likewise.
        at_prediction: share of its timed events exactly at the prediction time.
        timed: its events with a time.
    """

    code: str
    holders: int
    positives: int
    present: float | None
    value: float | None
    at_prediction: float
    timed: int

    @property
    def strongest(self) -> float:
        """The larger of both AUROCs, whichever way they point; 0.5 if neither is known."""
        return max(max(a, 1 - a) for a in (self.present, self.value, 0.5) if a is not None)


def signals(patients: Patients) -> list[Signal]:
    """Return every code's signal, in the order of the codes."""
    events, labels = patients.events, patients.labels > 0
    row = events["row"].to_numpy()
    code = events["code"].cat.codes.to_numpy().astype(np.int64)
    hours = events["hours_before"].to_numpy()
    names = [str(name) for name in events["code"].cat.categories]
    key = code * len(labels) + row
    pairs = unique_sorted(key)
    holders = np.bincount(pairs // len(labels), minlength=len(names))
    positives = np.bincount(
        (pairs // len(labels))[labels[pairs % len(labels)]], minlength=len(names)
    )
    timed = np.bincount(code[~np.isnan(hours)], minlength=len(names))
    at_once = np.bincount(code[hours == 0], minlength=len(names))
    by_value = dict(_by_value(key, events["numeric_value"].to_numpy(np.float64), labels))
    total = (len(labels), int(labels.sum()))
    return [
        Signal(
            name,
            int(holders[i]),
            int(positives[i]),
            _of_presence(int(holders[i]), int(positives[i]), *total),
            by_value.get(i),
            float(at_once[i] / max(timed[i], 1)),
            int(timed[i]),
        )
        for i, name in enumerate(names)
    ]


def _of_presence(holders: int, positives: int, patients: int, outcomes: int) -> float | None:
    others = patients - outcomes
    if patients < FEWEST or min(outcomes, others) < FEWEST_OF_A_CLASS:
        return None
    return (1 + positives / outcomes - (holders - positives) / others) / 2


def _by_value(
    key: NDArray[np.int64], values: NDArray[np.float64], labels: NDArray[np.bool_]
) -> Iterator[tuple[int, float]]:
    """Yield codes with the AUROC of each holder's last value (Mann-Whitney)."""
    finite = np.flatnonzero(np.isfinite(values))
    # Oldest first within a patient, so that of equal keys the last is the newest.
    newest = finite[np.argsort(key[finite], kind="stable")]
    last = newest[np.flatnonzero(np.diff(key[newest], append=-1))]
    code, sick = key[last] // len(labels), labels[key[last] % len(labels)]
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    for where in np.split(np.arange(len(code)), starts[1:]):
        positives = int(sick[where].sum())
        others = len(where) - positives
        if len(where) >= FEWEST and min(positives, others) >= FEWEST_OF_A_CLASS:
            ranks = rankdata(values[last[where]])[sick[where]].sum()
            yield (
                int(code[where[0]]),
                float((ranks - positives * (positives + 1) / 2) / (positives * others)),
            )
