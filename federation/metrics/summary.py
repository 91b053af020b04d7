"""The score summary of one cell: label counts by score bin, and the moments that make Brier exact.

A site sends summaries instead of scores. They add, so that the summary of several sites is the
summary of their patients together, and every metric of a binary task is computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.metrics.grid import BINS, GRID, PLAIN, UNCHANGED, Line, Scale, bins_of

Counts = NDArray[np.int64]

_LARGEST = 2**31
"""More patients than any cell holds; what a site claims beyond it is refused."""
_SLACK, _SLACK_OF_ONE = 1e-6, 1e-9


@dataclass(frozen=True, eq=False)
class ScoreSummary:
    """Scores and labels of one cell (a site, or a subgroup of it), binary task.

    Args:
        counts: (2, BINS) int64, patients by label and score bin; bin k is [EDGES[k], EDGES[k+1]),
            the last one includes 1.
        score_sum: sum of the scores p.
        score_square_sum: sum of p squared.
        positive_score_sum: sum of p over the patients with label 1.
        scale: the risks p that the bins stand for.

    >>> site = ScoreSummary.from_scores([0.1, 0.8], [0, 1])
    >>> both = site + ScoreSummary.from_scores([0.5], [1])
    >>> both.n, both.positives, both.confusion(0.5)
    (3, 2, Confusion(tp=2, fp=0, tn=1, fn=0))
    """

    counts: Counts
    score_sum: float
    score_square_sum: float
    positive_score_sum: float
    scale: Scale = PLAIN

    def __post_init__(self) -> None:
        counts = np.array(self.counts)
        if counts.shape != (2, BINS) or not np.issubdtype(counts.dtype, np.integer):
            raise ValueError(f"counts must be whole numbers of shape (2, {BINS})")
        if counts.min() < 0:
            raise ValueError("counts must not be negative")
        counts = counts.astype(np.int64)
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)
        _check_moments(self)

    @classmethod
    def empty(cls) -> ScoreSummary:
        """The summary of no patient: the neutral element of addition."""
        return cls(np.zeros((2, BINS), np.int64), 0.0, 0.0, 0.0)

    @classmethod
    def from_scores(cls, scores: ArrayLike, labels: ArrayLike) -> ScoreSummary:
        """Count one cell's scores.

        Args:
            scores: (patients,) predicted risks in [0, 1].
            labels: (patients,) 0 or 1.

        Raises:
            ValueError: if lengths differ, a score is not in [0, 1] or a label not in {0, 1}.
        """
        p, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
        if p.ndim != 1 or p.shape != y.shape:
            raise ValueError("scores and labels must be two lists of the same length")
        if not np.isin(y, (0.0, 1.0)).all():
            raise ValueError("a label is neither 0 nor 1")
        if not ((p >= 0.0) & (p <= 1.0)).all():
            raise ValueError("a score is not a number between 0 and 1")
        bins = bins_of(p)
        flat = np.bincount(y.astype(np.int64) * BINS + bins, minlength=2 * BINS)
        # fsum, so that the order of the patients cannot change a bit
        return cls(
            flat.reshape(2, BINS).astype(np.int64),
            math.fsum(p),
            math.fsum(p * p),
            math.fsum(p[y == 1.0]),
        )

    def __add__(self, other: ScoreSummary) -> ScoreSummary:
        return merge([self, other])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScoreSummary):
            return NotImplemented
        alike = self.moments == other.moments and self.scale == other.scale
        return alike and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def moments(self) -> tuple[float, float, float]:
        """Sums of the scores, of their squares, and of those of the positives."""
        return self.score_sum, self.score_square_sum, self.positive_score_sum

    @property
    def n(self) -> int:
        """Number of patients."""
        return int(self.counts.sum())

    @property
    def positives(self) -> int:
        """Number of patients with label 1."""
        return int(self.counts[1].sum())

    @property
    def negatives(self) -> int:
        """Number of patients with label 0."""
        return int(self.counts[0].sum())

    def confusion(self, threshold: float) -> Confusion:
        """Confusion counts when a score at or above the threshold is called positive.

        Exact for the patients that were counted; in a summary that was ``merged``, a joined group
        lies on one side of the threshold as a whole, and in a ``recalibrated`` one a bin.

        Raises:
            ValueError: if the threshold is not an edge of the grid.
        """
        k = self.scale.index(threshold)
        tn, fn = self.counts[:, :k].sum(axis=1).tolist()
        fp, tp = self.counts[:, k:].sum(axis=1).tolist()
        return Confusion(tp=tp, fp=fp, tn=tn, fn=fn)

    def merged(self, minimum: int) -> ScoreSummary:
        """Join neighbouring bins until each occupied bin holds at least ``minimum`` patients.

        A group's patients are put in the bin of its median score, so that the result still adds to
        the summaries of other sites, and the moments become those of the joined bins: a mean, or an
        exact sum, would tell of one patient whose score a crafted model sets apart from all others.
        The confusion counts at 0.5 stay if enough patients lie on each side of it.

        What it costs, at a minimum of 10: at 60 patients a site's AUROC is off by 0.02 and its
        AUPRC by 0.07, at 300 patients by 0.001 and 0.007; docs/metrics.md has more.

        Raises:
            ValueError: if the whole cell holds fewer than ``minimum`` patients; such a cell is
                withheld (``suppression``), not merged.

        >>> coarse = ScoreSummary.from_scores([0.1, 0.2, 0.7, 0.8, 0.9], [0, 0, 1, 0, 1]).merged(2)
        >>> coarse.counts.sum(axis=0)[coarse.counts.any(axis=0)].tolist()
        [2, 3]
        """
        counts, place = np.zeros_like(self.counts), self.places(minimum)
        for label in (0, 1):
            np.add.at(counts[label], place, self.counts[label])
        return ScoreSummary(counts, *_moments_of(counts, PLAIN))

    def recalibrated(self, line: Line) -> ScoreSummary:
        """The same patients, each bin standing for the risk to which the line takes its midpoint.

        Everything that goes by the order of scores stays as it is, to the bit. The moments become
        those of the midpoints. Such a summary stays at the coordinator.

        Raises:
            ValueError: if it is recalibrated already, or the slope is not above 0.

        >>> cell = ScoreSummary.from_scores([0.2, 0.8], [0, 1]).recalibrated(Line(0.5, 0.0))
        >>> round(cell.score_sum, 2), round(cell.score_square_sum, 2)
        (1.0, 0.56)
        """
        if self.scale != PLAIN:
            raise ValueError("it is recalibrated already")
        if line == UNCHANGED:
            return self
        scale = Scale(line)
        return ScoreSummary(self.counts, *_moments_of(self.counts, scale), scale)

    def too_small(self, minimum: int, merged: bool) -> str:
        """Why it must not leave a site; empty if it may.

        Args:
            minimum: fewest patients of a cell.
            merged: whether an occupied bin may not hold fewer either.
        """
        if self.n < minimum:
            return "a cell is smaller than the site's minimum"
        patients = self.counts.sum(axis=0)
        if merged and ((patients > 0) & (patients < minimum)).any():
            return "an occupied bin is smaller than the site's minimum"
        return ""

    def places(self, minimum: int) -> NDArray[np.int64]:
        """Return the bin into which ``merged`` puts the patients of each bin: (BINS,).

        Raises:
            ValueError: as ``merged``.
        """
        if 0 < self.n < minimum:
            raise ValueError("a cell smaller than the minimum must be withheld, not merged")
        return self.places_of(self.counts.sum(axis=0), minimum)

    @staticmethod
    def places_of(patients: Counts, minimum: int) -> NDArray[np.int64]:
        """As ``places``, of so many patients by bin, (BINS,)."""
        return joined(patients, minimum, PLAIN.index(0.5))

    def to_json(self) -> dict[str, Any]:
        """Only the occupied bins, and the moments; exact both ways, of scores as they are.

        Raises:
            ValueError: if it is recalibrated.
        """
        if self.scale != PLAIN:
            raise ValueError("a recalibrated summary is not told")
        bins = np.flatnonzero(self.counts.any(axis=0))
        return {
            "grid": GRID,
            "bins": bins.tolist(),
            "negatives": self.counts[0, bins].tolist(),
            "positives": self.counts[1, bins].tolist(),
            "score_sum": self.score_sum,
            "score_square_sum": self.score_square_sum,
            "positive_score_sum": self.positive_score_sum,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ScoreSummary:
        """Read what ``to_json`` wrote; what a site sends is checked, not trusted.

        Raises:
            ValueError: if a part is missing, of another grid, or cannot belong to any patients.
        """
        if not isinstance(document, Mapping) or document.get("grid") != GRID:
            raise ValueError(f"not a score summary on the grid {GRID}")
        bins, negatives, positives = (
            _whole(document, key) for key in ("bins", "negatives", "positives")
        )
        if not len(bins) == len(negatives) == len(positives):
            raise ValueError("bins, negatives and positives must have the same length")
        if any(bins[k] >= bins[k + 1] for k in range(len(bins) - 1)) or any(
            not 0 <= k < BINS for k in bins
        ):
            raise ValueError(f"bins must be increasing numbers from 0 to {BINS - 1}")
        counts = np.zeros((2, BINS), np.int64)
        counts[0, bins], counts[1, bins] = negatives, positives
        summary = cls(
            counts,
            _real(document, "score_sum"),
            _real(document, "score_square_sum"),
            _real(document, "positive_score_sum"),
        )
        _check_moments(summary, _SLACK_OF_ONE)
        return summary


@dataclass(frozen=True)
class Confusion:
    """Patients by label and by decision at one threshold."""

    tp: int
    fp: int
    tn: int
    fn: int

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(
            self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn
        )

    @property
    def n(self) -> int:
        """Number of patients."""
        return self.tp + self.fp + self.tn + self.fn


def merge(summaries: Iterable[ScoreSummary]) -> ScoreSummary:
    """Add summaries; their order cannot change a bit.

    Raises:
        ValueError: if their bins stand for different risks.
    """
    parts = list(summaries)
    if len(parts) <= 1:
        return parts[0] if parts else ScoreSummary.empty()
    if any(one.scale != parts[0].scale for one in parts):
        raise ValueError("summaries of different scales cannot be added")
    counts = np.sum([one.counts for one in parts], axis=0)
    first, second, positive = (
        math.fsum(part) for part in zip(*(one.moments for one in parts), strict=True)
    )
    return ScoreSummary(counts, first, second, positive, parts[0].scale)


def joined(patients: Counts, minimum: int, border: int) -> NDArray[np.int64]:
    """Where patients are put when neighbouring bins are joined until they hold the minimum.

    Args:
        patients: (bins,), none or ``minimum`` in all.
        minimum: fewest patients of a group.
        border: bins below it are not joined with those from it on, if it can be helped.

    Returns:
        For each bin that of its group's median patient, (bins,).
    """
    place = np.arange(len(patients))
    for group in _groups(patients, minimum, border):
        seen = patients[group].cumsum()
        place[group] = group.start + int(np.searchsorted(seen, (seen[-1] + 1) // 2))
    return place


def _groups(patients: Counts, minimum: int, border: int) -> list[slice]:
    bins = len(patients)
    if min(patients[:border].sum(), patients[border:].sum()) < minimum:
        return _joined(patients, minimum, 0, bins)
    return _joined(patients, minimum, 0, border) + _joined(patients, minimum, border, bins)


def _joined(patients: Counts, minimum: int, start: int, end: int) -> list[slice]:
    """Bins joined from below until they hold the minimum; what is left joins the last group."""
    groups: list[slice] = []
    held = 0
    for k in range(start, end):
        held += int(patients[k])
        if held >= max(minimum, 1):
            groups.append(slice(start, k + 1))
            start, held = k + 1, 0
    if held:
        groups[-1] = slice(groups[-1].start, end)
    return groups


def _moments_of(counts: Counts, scale: Scale) -> tuple[float, float, float]:
    """The moments if every patient's score were what the bin stands for."""
    both, scores = counts.sum(axis=0), scale.scores
    return (
        math.fsum(both * scores),
        math.fsum(both * scores**2),
        math.fsum(counts[1] * scores),
    )


def _check_moments(summary: ScoreSummary, share: float = _SLACK) -> None:
    """Refuse moments that no scores in [0, 1] have: one site's nonsense must not reach a sum.

    Args:
        summary: of any patients.
        share: how much rounding may add for each; less for one site, so that no few of them can
            use it up for the sum of all.
    """
    first, second, positive = summary.moments
    n, slack = summary.n, share * (1 + summary.n)
    possible = (
        all(math.isfinite(moment) for moment in (first, second, positive))
        and -slack <= second <= first + slack <= n + 2 * slack
        and first * first <= (second + slack) * max(n, 1)
        and -slack <= positive <= min(first, summary.positives) + slack
    )
    if not possible:
        raise ValueError("the sums of scores do not belong to scores between 0 and 1")


def _whole(document: Mapping[str, Any], key: str) -> Sequence[int]:
    values = document.get(key)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"{key} must be a list of whole numbers")
    if any(type(value) is not int or not 0 <= value < _LARGEST for value in values):
        raise ValueError(f"{key} must be a list of whole numbers")
    return values


def _real(document: Mapping[str, Any], key: str) -> float:
    value = document.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} must be a number")
    if abs(value) > _LARGEST:
        raise ValueError(f"{key} is too large")
    return float(value)
