"""What decisions at one threshold achieve: the rates of the patients who are called positive.

A patient is called positive, and somebody is alerted, if the score is at or above the threshold.
All here follows from the four confusion counts, which add over sites, also where the sites' models
or thresholds differ. The rates are shares of patients, so Wilson's interval holds for them without
any resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation.metrics.estimate import NO_PATIENTS, ONE_CLASS, Estimate, Z
from federation.metrics.intervals import wilson_interval
from federation.metrics.summary import Confusion
from federation.metrics.utility import benefit

NO_ALERT = "nobody is called positive"
ALL_ALERTED = "everybody is called positive"
NO_HIT = "nobody who is called positive has the event"

_SHARES: Mapping[str, Callable[[Confusion], tuple[int, int, str]]] = {
    "sensitivity": lambda c: (c.tp, c.tp + c.fn, ONE_CLASS),
    "specificity": lambda c: (c.tn, c.tn + c.fp, ONE_CLASS),
    "false_positive_rate": lambda c: (c.fp, c.tn + c.fp, ONE_CLASS),
    "ppv": lambda c: (c.tp, c.tp + c.fp, NO_ALERT),
    "npv": lambda c: (c.tn, c.tn + c.fn, ALL_ALERTED),
    "alert_rate": lambda c: (c.tp + c.fp, c.n, NO_PATIENTS),
}
"""Of each rate: patients counted, patients they are a share of, and why there may be none."""


def rate(name: str, confusion: Confusion, z: float = Z) -> Estimate:
    """One rate with its interval, by default of 95%.

    Args:
        name: ``sensitivity``, ``specificity``, ``false_positive_rate``, ``ppv``, ``npv`` or
            ``alert_rate``.
        confusion: of some patients.
        z: normal quantile of the interval.

    >>> rate("ppv", Confusion(tp=3, fp=1, tn=5, fn=1)).value
    0.75
    """
    counted, of, reason = _SHARES[name](confusion)
    if not of:
        return Estimate.undefined(reason if confusion.n else NO_PATIENTS)
    share = counted / of
    return Estimate(share).between(*wilson_interval(share, of, z))


def f1(confusion: Confusion) -> Estimate:
    """Harmonic mean of sensitivity and PPV, 2 tp / (2 tp + fp + fn), with its 95% interval.

    It rises with tp / (tp + fp + fn), the share of those with event or alert who have both; that
    share's interval is carried over.

    >>> f1(Confusion(tp=3, fp=1, tn=5, fn=1)).value
    0.75
    """
    either = confusion.tp + confusion.fp + confusion.fn
    if not confusion.tp + confusion.fn:
        return Estimate.undefined(ONE_CLASS if confusion.n else NO_PATIENTS)
    low, high = wilson_interval(confusion.tp / either, either)
    value = 2 * confusion.tp / (confusion.tp + either)
    return Estimate(value).between(_f1_of(low), _f1_of(high))


def number_needed_to_evaluate(confusion: Confusion) -> Estimate:
    """Alerts to look at for each patient with the event: 1 / PPV, with its 95% interval.

    Source: Romero-Brufau et al., Critical Care 2015.

    >>> number_needed_to_evaluate(Confusion(tp=2, fp=6, tn=5, fn=1)).value
    4.0
    """
    hits = rate("ppv", confusion)
    if hits.value is None:
        return hits
    if not confusion.tp:
        return Estimate.undefined(NO_HIT)
    assert hits.low is not None and hits.high is not None
    return Estimate(1 / hits.value).between(1 / hits.high, 1 / hits.low)


def at_threshold(confusion: Confusion, threshold: float | None) -> dict[str, Estimate]:
    """Everything that decisions at one threshold achieve, by name.

    Args:
        confusion: of some patients.
        threshold: at which they were counted; None where sites decide at thresholds of their own,
            which no common net benefit belongs to.
    """
    names = ("sensitivity", "specificity", "ppv", "npv", "alert_rate")
    found = {name: rate(name, confusion) for name in names}
    found |= {
        "f1": f1(confusion),
        "number_needed_to_evaluate": number_needed_to_evaluate(confusion),
    }
    if threshold is not None:
        found["net_benefit"] = benefit(confusion, threshold)
    return found


def _f1_of(both: float) -> float:
    return 2 * both / (1 + both)
