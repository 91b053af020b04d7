"""Choosing the one threshold at which decisions are judged, from the tuning split's summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from federation.metrics.estimate import FEWEST_EVENTS, ONE_BIN, missing
from federation.metrics.grid import EDGES, PLAIN
from federation.metrics.summary import ScoreSummary

Rule = Literal["youden", "sensitivity", "fixed"]

TOO_FEW = f"fewer than {FEWEST_EVENTS} patients of one class in the tuning split"


@dataclass(frozen=True)
class Threshold:
    """The threshold of one model.

    Args:
        value: an edge of the summary's scale below 1, so that decisions at it are exact; None if
            there is none.
        reason: why there is none.
    """

    value: float | None
    reason: str = ""


def choose_threshold(summary: ScoreSummary, rule: Rule, value: float | None = None) -> Threshold:
    """Choose a threshold by a rule.

    Args:
        summary: the tuning split of all sites together.
        rule: ``youden`` takes the largest sensitivity + specificity; ``sensitivity`` the highest
            threshold that still has the sensitivity ``value``; ``fixed`` is ``value`` itself.
        value: of the rule; an edge of the grid where it is fixed.

    Returns:
        The threshold; one of several that decide alike lies in their middle.

    Source: Youden, Cancer 1950.

    >>> cell = ScoreSummary.from_scores([0.1] * 9 + [0.3] * 9, [0] * 9 + [1] * 9)
    >>> 0.1 < choose_threshold(cell, "youden").value < 0.3
    True
    """
    if rule == "fixed":
        assert value is not None
        return Threshold(float(EDGES[PLAIN.index(value)]))
    reason = missing(summary)
    if not reason and min(summary.positives, summary.negatives) < FEWEST_EVENTS:
        reason = TOO_FEW
    if not reason and summary.counts.any(axis=0).sum() == 1:
        reason = ONE_BIN
    if reason:
        return Threshold(None, reason)
    negatives, positives = summary.counts
    # At edge k everybody from bin k on is called positive.
    missed = np.cumsum(positives) - positives
    spared = np.cumsum(negatives) - negatives
    if rule == "youden":
        # Whole numbers, so that ties are ties: sensitivity + specificity times both class sizes.
        gain = spared * summary.positives - missed * summary.negatives
        best = np.flatnonzero(gain == gain.max())
    else:
        assert value is not None
        allowed = np.floor((1 - value) * summary.positives + 1e-9)
        best = np.flatnonzero(missed == missed[missed <= allowed].max())
        # Edges that miss as many differ in whom they spare.
        best = best[spared[best] == spared[best].max()]
    first_run = best[: int(np.argmax(np.diff(best, append=best[-1] + 2) > 1)) + 1]
    return Threshold(float(summary.scale.edges[first_run[len(first_run) // 2]]))
