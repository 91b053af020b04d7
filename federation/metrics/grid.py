"""The fixed grid on which sites count scores, and the risks that its bins stand for.

As a model gives them, scores stand for themselves. A line through their logits moves what every bin
stands for and leaves who is in it, so that nothing that ranks patients changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID = "logit400/1"
"""Name of the grid below; summaries of another grid cannot be added and are refused."""

THRESHOLDS: tuple[float, ...] = (0.01, 0.02, 0.03, *(step / 20 for step in range(1, 20)))
"""Decision thresholds at which confusion counts and net benefit are exact."""

ECE_BINS = 15


def _edges() -> Floats:
    """The fixed grid: 400 logit-spaced bins, cut again at the thresholds and the ECE edges.

    Half as many bins cost AUROC up to 0.002 when all scores lie close together, as those of a model
    in its first rounds or under strong privacy do (logits with a standard deviation of 0.2). The
    logistic edges are rounded, because two machines' ``exp`` may differ in the last bit.
    """
    logistic = np.round(1.0 / (1.0 + np.exp(-np.linspace(-7.0, 7.0, 399))), 12)
    exact = np.unique([0.0, 1.0, *THRESHOLDS, *(k / ECE_BINS for k in range(1, ECE_BINS))])
    apart = np.abs(logistic[:, None] - exact).min(axis=1) > 1e-9
    return np.sort(np.concatenate([exact, logistic[apart]]))


EDGES: Floats = _edges()
BINS: int = len(EDGES) - 1
SCORES: Floats = (EDGES[:-1] + EDGES[1:]) / 2
"""The score that stands for each bin: its midpoint."""
EDGES.setflags(write=False)
SCORES.setflags(write=False)


class Line(NamedTuple):
    """A line through logits."""

    slope: float
    intercept: float


UNCHANGED = Line(1.0, 0.0)


@dataclass(frozen=True)
class Scale:
    """What the bins of the grid stand for.

    Args:
        line: through the logits of the scores, of a slope above 0.

    >>> flat = Scale(Line(0.5, 0.0))
    >>> bool((abs(flat.scores - 0.5) < abs(SCORES - 0.5)).all())
    True
    """

    line: Line = UNCHANGED

    def __post_init__(self) -> None:
        if not (0 < self.line.slope < np.inf and np.isfinite(self.line.intercept)):
            raise ValueError("a line that keeps the order of patients has a slope above 0")

    @cached_property
    def scores(self) -> Floats:
        """The risk that each bin stands for: (BINS,)."""
        return SCORES if self.line == UNCHANGED else self._moved(SCORES)

    @cached_property
    def edges(self) -> Floats:
        """The risks between which each bin lies: (BINS + 1,)."""
        if self.line == UNCHANGED:
            return EDGES
        return np.concatenate([[0.0], self._moved(EDGES[1:-1]), [1.0]])

    def index(self, threshold: float) -> int:
        """The first bin whose patients are called positive at a threshold.

        Raises:
            ValueError: if scores stand for themselves, and the threshold is not an edge.

        >>> float(EDGES[PLAIN.index(0.5)])
        0.5
        """
        if self.line != UNCHANGED:
            return int(np.searchsorted(self.scores, threshold))
        k = int(np.searchsorted(EDGES, threshold))
        if k >= len(EDGES) or EDGES[k] != threshold:
            raise ValueError(f"{threshold} is not an edge of the score grid; see grid.THRESHOLDS")
        return k

    def _moved(self, scores: Floats) -> Floats:
        moved = self.line.slope * logit(scores) + self.line.intercept
        return np.asarray(1 / (1 + np.exp(-np.clip(moved, -30, 30))))  # never 0 or 1


PLAIN = Scale()
"""Scores stand for themselves."""


def bins_of(scores: Floats) -> NDArray[np.int64]:
    """Return the bin of each score in [0, 1]: (patients,)."""
    return np.minimum(np.searchsorted(EDGES, scores, side="right") - 1, BINS - 1)


def logit(scores: Floats) -> Floats:
    """Return the log-odds of risks inside (0, 1): (...,)."""
    return np.asarray(np.log(scores) - np.log1p(-scores))


LARGEST_LOGIT = float(-logit(SCORES[:1])[0])
"""That of the outermost bins: the grid does not tell larger ones apart."""
