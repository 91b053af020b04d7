"""How a model's risks were recalibrated, and what it changed, in words."""

from __future__ import annotations

from collections.abc import Mapping

from server.report.documents import Cell, Recalibrated
from server.report.text import signed

_FIGURES: Mapping[str, str] = {
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
    "ece": "ECE",
    "brier": "Brier score",
}


def recalibration_words(told: Recalibrated | None, after: Cell) -> str:
    """What was done, and held-out patients' figures before and after; empty if nothing was asked.

    Args:
        told: of the model, or of one of its outcomes.
        after: the figures of all hospitals together.
    """
    if told is None:
        return ""
    if told.slope is None:
        return f"Risks were not recalibrated: {told.reason}. They are as the model gives them."
    without = f", without {', '.join(told.excludes)} (withheld)" if told.excludes else ""
    return (
        f"Risks were recalibrated on {told.n:,} tuning patients of all hospitals{without}: "
        f"{line_words(told)}. {_compared(told, after)}Whom the model puts above whom, and so "
        "AUROC, is the same."
    )


def line_words(told: Recalibrated) -> str:
    """The line through the logits.

    >>> line_words(Recalibrated(method="platt", slope=0.5, intercept=-1.0))
    'the log-odds times 0.500, less 1.000'
    """
    shift = told.intercept or 0.0
    words = f"the log-odds times {told.slope or 0.0:.3f}"
    if not shift:
        return words
    return f"{words}, {'plus' if shift > 0 else 'less'} {abs(shift):.3f}"


def _compared(told: Recalibrated, after: Cell) -> str:
    found = []
    for name, words in _FIGURES.items():
        earlier, now = told.before.get(name), getattr(after, name)
        if earlier is None or now is None or earlier.value is None or now.value is None:
            continue
        found.append(f"{words} {signed(earlier.value, 3)} before, {signed(now.value, 3)} after")
    return f"On held-out patients: {'; '.join(found)}. " if found else ""
