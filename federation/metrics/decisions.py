"""What decisions at one threshold achieve: the rates of the patients who are called positive.

A patient is called positive, and somebody is alerted, if the score is at or above the threshold.
All here follows from the four confusion counts, which add over sites, also where the sites' models
or thresholds differ. The rates are shares of patients, so Wilson's interval holds for them without
any resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from federation.metrics.column import Column
from federation.metrics.estimate import NO_PATIENTS, ONE_CLASS, Estimate, Z
from federation.metrics.grid import Floats
from federation.metrics.intervals import wilson
from federation.metrics.summary import Confusion
from federation.metrics.utility import benefits

NO_ALERT = "nobody is called positive"
ALL_ALERTED = "everybody is called positive"
NO_HIT = "nobody who is called positive has the event"


@dataclass(frozen=True, eq=False)
class Decisions:
    """Confusion counts of many cells: (cells,) each."""

    tp: Floats
    fp: Floats
    tn: Floats
    fn: Floats

    @classmethod
    def of(cls, confusions: Iterable[Confusion]) -> Decisions:
        """Put confusion counts side by side."""
        counts = [(one.tp, one.fp, one.tn, one.fn) for one in confusions]
        return cls(*np.array(counts, np.float64).reshape(-1, 4).T)

    @property
    def n(self) -> Floats:
        """Patients: (cells,)."""
        return self.tp + self.fp + self.tn + self.fn


_SHARES: Mapping[str, Callable[[Decisions], tuple[Floats, Floats, str]]] = {
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
    return rates(name, Decisions.of([confusion]), z).at(0)


def at_threshold(confusion: Confusion, threshold: float | None) -> dict[str, Estimate]:
    """Everything that decisions at one threshold achieve, by name.

    Args:
        confusion: of some patients.
        threshold: at which they were counted; None where sites decide at thresholds of their own,
            which no common net benefit belongs to.

    >>> found = at_threshold(Confusion(tp=3, fp=1, tn=5, fn=1), 0.5)
    >>> found["f1"].value, found["sensitivity"].value
    (0.75, 0.75)
    """
    at = np.array([np.nan if threshold is None else threshold])
    found = {name: one.at(0) for name, one in decided(Decisions.of([confusion]), at).items()}
    if threshold is None:
        del found["net_benefit"]
    return found


def decided(decisions: Decisions, thresholds: Floats) -> dict[str, Column]:
    """As ``at_threshold``, of many cells: each column by its name.

    Args:
        decisions: of the cells.
        thresholds: (cells,) not a number where a cell has none of its own; its net benefit means
            nothing.
    """
    names = ("sensitivity", "specificity", "ppv", "npv", "alert_rate")
    return {
        **{name: rates(name, decisions) for name in names},
        "f1": _f1s(decisions),
        "number_needed_to_evaluate": _numbers_needed(decisions),
        "net_benefit": benefits(decisions.tp, decisions.fp, decisions.n, thresholds),
    }


def rates(name: str, decisions: Decisions, z: float = Z) -> Column:
    """As ``rate``, of many cells."""
    counted, of, reason = _SHARES[name](decisions)
    share = counted / np.maximum(of, 1)
    low, high = wilson(share, np.maximum(of, 1), z)
    undefined = [(decisions.n == 0, NO_PATIENTS), (of == 0, reason)]
    return Column.of(share, low, high, undefined=undefined)


def _f1s(decisions: Decisions) -> Column:
    """Harmonic mean of sensitivity and PPV, 2 tp / (2 tp + fp + fn).

    It rises with tp / (tp + fp + fn), the share of those with event or alert who have both; that
    share's interval is carried over.
    """
    tp, either = decisions.tp, np.maximum(decisions.tp + decisions.fp + decisions.fn, 1)
    low, high = wilson(tp / either, either)
    return Column.of(
        2 * tp / (tp + either),
        2 * low / (1 + low),
        2 * high / (1 + high),
        undefined=[(decisions.n == 0, NO_PATIENTS), (tp + decisions.fn == 0, ONE_CLASS)],
    )


def _numbers_needed(decisions: Decisions) -> Column:
    """Alerts to look at for each patient with the event: 1 / PPV.

    Source: Romero-Brufau et al., Critical Care 2015.
    """
    tp, alerts = decisions.tp, decisions.tp + decisions.fp
    low, high = wilson(tp / np.maximum(alerts, 1), np.maximum(alerts, 1))
    hit = tp > 0
    return Column.of(
        alerts / np.maximum(tp, 1),
        1 / np.where(hit, high, 1),
        1 / np.where(hit, low, 1),
        undefined=[(decisions.n == 0, NO_PATIENTS), (alerts == 0, NO_ALERT), (~hit, NO_HIT)],
    )
