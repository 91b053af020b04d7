"""What a site tells of its patients' inputs by window of time: coarse levels, small ones joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from clients.workbench import Cohort
from federation.bodies import InputLevel, Inputs
from federation.study import Study
from federation.vocabulary import Vocabulary

Counts = dict[str, dict[InputLevel, int]]
"""Patients by window and level."""


def inputs_by_window(
    cohort: Cohort,
    study: Study,
    vocabulary: Vocabulary | None,
    rows: NDArray[np.int64],
    windows: Mapping[str, NDArray[np.bool_]],
    minimum_cell: int,
) -> Inputs:
    """Count where patients' inputs lie, by window.

    Of each code with a reference range in the study: no value, or the newest below, within or above
    the range (the mean, where the study does not use the newest). Of image and text: whether there
    is one. A level that any window has of fewer than ``minimum_cell`` patients is joined with
    others in all windows, so that no sum over windows or levels gives it away; an input of which
    less than two levels are left is not told.

    Args:
        cohort: the site's.
        study: names the inputs.
        vocabulary: of its health records.
        rows: (patients,) who is counted.
        windows: by name of the cell, who of them lies in it: (patients,) each.
        minimum_cell: of the site's policy.
    """
    told: Inputs = {name: {} for name in windows}
    for feature, levels in _levels(cohort, study, vocabulary, rows):
        counts = {
            name: {level: int((inside & which).sum()) for level, which in levels.items()}
            for name, inside in windows.items()
        }
        for name, kept in _joined(counts, minimum_cell).items():
            told[name][feature] = kept
    return told


def input_levels(
    cohort: Cohort, study: Study, vocabulary: Vocabulary | None, rows: NDArray[np.int64]
) -> dict[str, dict[InputLevel, int]]:
    """Count some patients' inputs as they are, for the site itself."""
    return {
        feature: {level: int(which.sum()) for level, which in levels.items()}
        for feature, levels in _levels(cohort, study, vocabulary, rows)
    }


def _levels(
    cohort: Cohort, study: Study, vocabulary: Vocabulary | None, rows: NDArray[np.int64]
) -> Iterator[tuple[str, dict[InputLevel, NDArray[np.bool_]]]]:
    """Yield each input with who of the rows has which level of it."""
    ehr = study.modalities.ehr
    if ehr is not None and vocabulary is not None:
        aggregates = ehr.aggregates
        values = cohort.modalities["ehr"].values[rows].numpy()
        table = values.reshape(len(rows), vocabulary.places, len(aggregates))
        value = _first_of(("last", "mean"), aggregates)
        known = _first_of(("present", "count"), aggregates)
        for place, code in enumerate(vocabulary.codes):
            if code in ehr.reference_ranges and value is not None and known is not None:
                scaled, has = table[:, place, value], table[:, place, known] > 0
                yield (
                    code,
                    {
                        "absent": ~has,
                        "below": has & (scaled < -1),
                        "within": has & (scaled >= -1) & (scaled <= 1),
                        "above": has & (scaled > 1),
                    },
                )
    for name, modality in cohort.modalities.items():
        if name != "ehr":
            has = modality.present[rows].numpy()
            yield name, {"absent": ~has, "present": has}


def _joined(counts: Counts, minimum: int) -> Counts:
    """Join small levels in all windows alike; nothing where fewer than two are left."""
    if not counts:
        return {}
    names: Sequence[InputLevel] = list(next(iter(counts.values())))
    total = {level: sum(by_level[level] for by_level in counts.values()) for level in names}
    joined = [level for level in names if any(0 < one[level] < minimum for one in counts.values())]
    rest = sorted((one for one in names if one not in joined), key=lambda one: total[one])
    rest = [level for level in rest if total[level]]
    while joined and any(
        0 < sum(one[level] for level in joined) < minimum for one in counts.values()
    ):
        if not rest:
            return {}
        joined.append(rest.pop(0))
    if len(rest) + bool(joined) < 2:
        return {}
    found: Counts = {}
    for name, one in counts.items():
        found[name] = {level: one[level] for level in names if level in rest}
        if joined:
            found[name]["others"] = sum(one[level] for level in joined)
    return found


def _first_of(wanted: Sequence[str], there: Sequence[str]) -> int | None:
    return next((there.index(name) for name in wanted if name in there), None)
