"""How well scores rank the patients: AUROC, average precision, sensitivity at a specificity.

The functions named ``*_of`` work on any number of count tables at once, tables: (..., 2, bins),
label by ascending score bin, and give NaN where a metric is undefined; the others take a summary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.metrics.estimate import Estimate, unranked
from federation.metrics.grid import Floats
from federation.metrics.summary import ScoreSummary

Tables = NDArray[Any]


def auroc(summary: ScoreSummary) -> Estimate:
    """Chance that a positive scores above a negative; patients of one bin are ties and count half.

    >>> auroc(ScoreSummary.from_scores([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])).value
    0.875
    """
    reason = unranked(summary)
    return Estimate.undefined(reason) if reason else Estimate(float(auroc_of(summary.counts)))


def auprc(summary: ScoreSummary) -> Estimate:
    """Average precision: the mean, over the positives, of the precision when each is reached.

    That is ``sklearn.metrics.average_precision_score`` of scores without ties. Inside a bin the
    order is unknown and taken as random; counting the bin as one step would be too low (by 0.005
    for 240 patients in 200 bins, where this is off by 0.0002).

    >>> auprc(ScoreSummary.from_scores([0.1, 0.4, 0.8], [0, 1, 1])).value
    1.0
    """
    reason = unranked(summary)
    return Estimate.undefined(reason) if reason else Estimate(float(auprc_of(summary.counts)))


def sensitivity_at_specificity(summary: ScoreSummary, specificity: float = 0.9) -> Estimate:
    """Sensitivity where the ROC curve passes the specificity, linear inside a bin.

    >>> sensitivity_at_specificity(ScoreSummary.from_scores([0.1, 0.4, 0.8], [0, 1, 1])).value
    1.0
    """
    reason = unranked(summary)
    if reason:
        return Estimate.undefined(reason)
    return Estimate(float(sensitivity_of(summary.counts, specificity)))


def roc_curve(summary: ScoreSummary) -> tuple[Floats, Floats]:
    """False and true positive rate from (0, 0) to (1, 1), one point for each occupied bin."""
    counts = summary.counts[:, summary.counts.any(axis=0)]
    fp, tp = np.cumsum(counts[:, ::-1], axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.concatenate([[0.0], fp]), np.concatenate([[0.0], tp])


def precision_recall_curve(summary: ScoreSummary) -> tuple[Floats, Floats]:
    """Recall and precision where each occupied bin is reached, from the highest score down.

    The first point is that of the first bin, drawn on to recall 0. Both classes must be there.

    >>> recall, precision = precision_recall_curve(
    ...     ScoreSummary.from_scores([0.1, 0.4, 0.8], [0, 1, 1])
    ... )
    >>> recall.tolist(), precision.round(3).tolist()
    ([0.0, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 0.667])
    """
    counts = summary.counts[:, summary.counts.any(axis=0)][:, ::-1]
    called = np.cumsum(counts, axis=1)
    precision = called[1] / called.sum(axis=0)
    recall = called[1] / summary.positives
    return np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])


def auroc_of(tables: Tables) -> Floats:
    """AUROC of each table: (...,)."""
    negatives, positives = _split(tables)
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    won = (positives * below).sum(axis=-1)
    return _ratio(won, negatives.sum(axis=-1) * positives.sum(axis=-1))


def auprc_of(tables: Tables) -> Floats:
    """Average precision of each table: (...,).

    The j-th of a bin's ``a`` positives meets ``b j / (a + 1)`` of its ``b`` negatives before it, in
    the mean over their orders, so its precision is ``(A + j) / (A + B + c j)`` with
    ``c = 1 + b / (a + 1)`` and ``A``, ``B`` counted above the bin. The sum over j is the integral
    from 1/2 to a + 1/2 (midpoint rule), and the term itself where a is 1.
    """
    negatives, positives = (part[..., ::-1] for part in _split(tables))
    tp = np.cumsum(positives, axis=-1) - positives
    alerts = tp + np.cumsum(negatives, axis=-1) - negatives
    mean = _ratio(_gained(negatives, positives, tp, alerts).sum(axis=-1), positives.sum(axis=-1))
    return np.where(negatives.any(axis=-1), mean, np.nan)


def auprc_variance(tables: Tables) -> Floats:
    """Jackknife variance of each table's average precision, two positives or more: (...,).

    To leave a patient out shifts all bins below by the same, so that a cumulative sum gives the
    average precision without each of them.

    Source: Efron and Stein, Annals of Statistics 1981.
    """
    negatives, positives = (part[..., ::-1] for part in _split(tables))
    tp = np.cumsum(positives, axis=-1) - positives
    alerts = tp + np.cumsum(negatives, axis=-1) - negatives
    here = _gained(negatives, positives, tp, alerts)
    above = np.cumsum(here, axis=-1) - here

    def below(gained: Floats) -> Floats:
        return np.asarray(gained[..., ::-1].cumsum(axis=-1)[..., ::-1] - gained)

    fewer, less = np.maximum(tp - 1, 0), np.maximum(alerts - 1, 0)
    left = positives.sum(axis=-1, keepdims=True)
    without_positive = (
        above
        + _gained(negatives, np.maximum(positives - 1, 0), tp, alerts)
        + below(_gained(negatives, positives, fewer, less))
    ) / np.maximum(left - 1, 1)
    without_negative = (
        above
        + _gained(np.maximum(negatives - 1, 0), positives, tp, alerts)
        + below(_gained(negatives, positives, tp, np.maximum(less, tp)))
    ) / np.maximum(left, 1)
    n = np.maximum((negatives + positives).sum(axis=-1), 1)
    mean = (positives * without_positive + negatives * without_negative).sum(axis=-1) / n
    apart = positives * (without_positive - mean[..., None]) ** 2
    apart = apart + negatives * (without_negative - mean[..., None]) ** 2
    return np.asarray((n - 1) / n * apart.sum(axis=-1))


def sensitivity_of(tables: Tables, specificity: ArrayLike) -> Floats:
    """Sensitivity of each table at the specificity, or at one of each: (...,)."""
    negatives, positives = (part[..., ::-1] for part in _split(tables))
    fp = np.cumsum(negatives, axis=-1)
    spared = 1.0 - np.asarray(specificity, np.float64)[..., None]
    # the slack keeps 1 - 0.9 = 0.0999... from losing a whole step of a small table's curve
    allowed = spared * fp[..., -1:] + 1e-9
    room = np.clip(allowed - (fp - negatives), 0.0, negatives) / np.maximum(negatives, 1.0)
    share = np.where(fp <= allowed, 1.0, room)
    reached = _ratio((share * positives).sum(axis=-1), positives.sum(axis=-1))
    return np.where(fp[..., -1] > 0, np.minimum(reached, 1.0), np.nan)


def specificity_of(tables: Tables, sensitivity: ArrayLike) -> Floats:
    """Specificity of each table at the sensitivity: (...,).

    With the classes and the order of the scores turned round it is a sensitivity.
    """
    return sensitivity_of(np.asarray(tables)[..., ::-1, ::-1], sensitivity)


def _gained(negatives: Floats, positives: Floats, tp: Floats, alerts: Floats) -> Floats:
    """Precision summed over the positives of each bin, see ``auprc_of``."""
    slope = 1.0 + negatives / (positives + 1.0)
    risen = np.log1p(slope * positives / (alerts + slope / 2))
    many = positives / slope + (tp - alerts / slope) / slope * risen
    single = (tp + 1.0) / (alerts + slope)
    return np.where(positives == 1.0, single, np.where(positives > 0, many, 0.0))


def _split(tables: Tables) -> tuple[Floats, Floats]:
    counts = np.asarray(tables, np.float64)
    return counts[..., 0, :], counts[..., 1, :]


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
