"""Summaries of many cells side by side, on their occupied bins, to compute on all of them at once.

A cell's numbers do not depend on which others stand beside it: it is padded to a width that
follows from its own occupied bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from federation.metrics.estimate import NO_PATIENTS, ONE_BIN, ONE_CLASS, student
from federation.metrics.grid import BINS, Floats, Scale
from federation.metrics.summary import Counts, ScoreSummary

CELLS = 128
"""Most cells of a stack: its tables then stay in the processor's cache."""
NARROWEST = 8

_READ = 512


@dataclass(frozen=True, eq=False)
class Stack:
    """Some cells, each on its occupied bins.

    Args:
        full: (cells, 2, BINS) patients by label and bin of the grid.
        tables: (cells, 2, width) patients by label and occupied bin, ascending; 0 beyond them.
        scores: (cells, width) the risks that those bins stand for; 0.5 beyond them.
        moments: (cells, 3) sums of the scores, of their squares, and over the positives.
        scale: of all these cells.
    """

    full: Counts
    tables: Floats
    scores: Floats
    moments: Floats
    scale: Scale

    @cached_property
    def negatives(self) -> Floats:
        """Patients with label 0: (cells,)."""
        return np.asarray(self.tables[:, 0].sum(axis=-1))

    @cached_property
    def positives(self) -> Floats:
        """Patients with label 1: (cells,)."""
        return np.asarray(self.tables[:, 1].sum(axis=-1))

    @cached_property
    def n(self) -> Floats:
        """Patients: (cells,)."""
        return self.negatives + self.positives

    @cached_property
    def smaller(self) -> Floats:
        """Patients of the smaller class: (cells,)."""
        return np.minimum(self.negatives, self.positives)

    @cached_property
    def quantile(self) -> Floats:
        """Student's quantile of a 95% interval: (cells,).

        From the patients of the smaller class; of all, where there is one class.
        """
        return student(np.where(self.smaller > 0, self.smaller, self.n))

    @cached_property
    def tied(self) -> NDArray[np.bool_]:
        """Whether all patients share one bin: (cells,)."""
        return np.asarray(self.tables.any(axis=1).sum(axis=-1) == 1)


def stacks(summaries: Sequence[ScoreSummary]) -> Iterator[tuple[list[int], Stack]]:
    """Yield all summaries in stacks, with the place of each cell in the sequence."""
    for start in range(0, len(summaries), _READ):
        some = summaries[start : start + _READ]
        full = np.stack([one.counts for one in some])
        occupied = full.max(axis=1) > 0
        widths = _widths(occupied.sum(axis=1))
        alike: dict[tuple[Scale, int], list[int]] = {}
        for place, (one, width) in enumerate(zip(some, widths.tolist(), strict=True)):
            alike.setdefault((one.scale, width), []).append(place)
        for (scale, width), same in alike.items():
            for first in range(0, len(same), CELLS):
                places = same[first : first + CELLS]
                moments = np.array([some[place].moments for place in places])
                yield (
                    [place + start for place in places],
                    _packed(full[places], occupied[places], width, moments, scale),
                )


def stack_of(summary: ScoreSummary) -> Stack:
    """Return the stack of one cell."""
    ((_, stack),) = stacks([summary])
    return stack


def unclassed(stack: Stack) -> list[tuple[NDArray[np.bool_], str]]:
    """Where a metric that needs both classes is undefined, and why."""
    return [(stack.n == 0, NO_PATIENTS), (stack.smaller == 0, ONE_CLASS)]


def unranked(stack: Stack) -> list[tuple[NDArray[np.bool_], str]]:
    """Where patients cannot be ranked, and why, as ``estimate.unranked``."""
    return [*unclassed(stack), (stack.tied, ONE_BIN)]


def _widths(occupied: NDArray[np.int64]) -> NDArray[np.int64]:
    """The next power of two."""
    powers = np.ceil(np.log2(np.maximum(occupied, NARROWEST))).astype(np.int64)
    return np.left_shift(1, powers)


def _packed(
    full: Counts, occupied: NDArray[np.bool_], width: int, moments: Floats, scale: Scale
) -> Stack:
    cell, bin_ = np.nonzero(occupied)
    place = (np.cumsum(occupied, axis=1) - 1)[cell, bin_]
    tables, scores = np.zeros((len(full), 2, width)), np.full((len(full), width), 0.5)
    for label in (0, 1):
        tables[cell, label, place] = full[cell, label, bin_]
    scores[cell, place] = np.broadcast_to(scale.scores, (len(full), BINS))[cell, bin_]
    return Stack(full, tables, scores, moments, scale)
