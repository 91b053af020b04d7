"""How the report writes values: metrics with their intervals, counts, names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from federation.pages.elements import TOTAL, Td
from server.report.documents import Cell, Metric, Ranked

MODEL_NAMES = {
    "federated": "Federated",
    "shared": "Federated, without what is each hospital's own",
    "local": "Each hospital alone",
    "pooled": "Pooled in one place",
    "existing_score": "The score that hospitals hold already, of those who have it",
    "leave_one_out": "Federated, at hospitals that it was trained without",
    "logistic_regression": "Federated, logistic regression on health records",
    "ehr_only": "Federated, health records only",
    "image_only": "Federated, images only",
    "text_only": "Federated, notes only",
}

MODALITIES = {"ehr": "health records", "image": "images", "text": "clinical notes"}

METRICS: Mapping[str, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_90_specificity": "Sensitivity at 90% specificity",
    "specificity_at_90_sensitivity": "Specificity at 90% sensitivity",
    "brier": "Brier score",
    "ece": "ECE",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}
"""The metrics of a cell, by their names in metrics.json, as columns of a table."""

ALL = "All hospitals"


def metric_text(metric: Metric | None, digits: int = 3) -> Td:
    """Value over interval, or why there is no value."""
    if metric is None or metric.value is None:
        return Td("–", metric.reason if metric else "not computed", "undefined")
    value = signed(metric.value, digits)
    if metric.low is None or metric.high is None:
        return Td(value, metric.reason)
    return Td(value, f"{signed(metric.low, digits)} to {signed(metric.high, digits)}")


def withheld(reason: str, columns: int) -> Td:
    """One cell across some columns that says why they are empty."""
    return Td(f"withheld: {reason}", look="withheld", span=columns)


def metrics_row(head: str, cell: Cell, look: str = "", note: str = "") -> list[Td]:
    """Patients, events and every metric of a cell."""
    if cell.suppressed:
        return [Td(head, note, look), withheld(cell.suppressed, len(METRICS) + 2)]
    values = [metric_text(getattr(cell, name)) for name in METRICS]
    return [Td(head, note, look), number(cell.n), number(cell.positives), *values]


def total_row(cell: Cell) -> list[Td]:
    """The same of all hospitals together."""
    return metrics_row(ALL, cell, TOTAL, excludes(cell))


def heat(cell: Ranked | None) -> Td:
    """AUROC of a cell, shaded by what it is."""
    if cell is None:
        return Td("–", "no patients", "undefined")
    if cell.suppressed:
        return Td("withheld", look="withheld")
    shown = metric_text(cell.auroc, 2)
    if cell.auroc is None or cell.auroc.value is None:
        return shown
    step = min(max(int((cell.auroc.value - 0.5) * 10), 0), 4)
    return Td(shown.text, shown.note, f"shade-{step}")


def excludes(cell: Cell) -> str:
    """Who is not counted in a cell."""
    many = len(cell.excludes) > 2
    sites = f"{len(cell.excludes)} hospitals" if many else " and ".join(cell.excludes)
    return f"without {sites} (withheld)" if cell.excludes else ""


def subgroup_name(name: str) -> str:
    """How a cell name reads.

    >>> subgroup_name("age_band=80+")
    'age band: 80+'
    """
    attribute, _, level = name.partition("=")
    return f"{attribute.replace('_', ' ')}: {level}" if level else name


def model_name(name: str) -> str:
    """How a model's name reads."""
    return MODEL_NAMES.get(name, name)


def signed(value: float, digits: int) -> str:
    """A number with a proper minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def number(count: int | str | None) -> Td:
    """A count; a small one may be given in words."""
    if isinstance(count, str):
        return Td(count)
    return Td("–" if count is None else f"{count:,}")


def plain(value: Any, digits: int = 3) -> Td:
    """A number without an interval, or a dash."""
    return Td(signed(value, digits) if isinstance(value, int | float) else "–")


def size(count: float | None) -> Td:
    """Bytes."""
    if count is None:
        return Td("–")
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return Td(f"{count:.3g} {unit}")
        count /= 1000
    return Td(f"{count:.3g} GB")


def listed(counts: Mapping[str, int | str]) -> str:
    """Counts with what they count."""
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def shown(value: Any) -> str:
    """A value of a study or an environment, for readers."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(shown(part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flattened(document: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every value of nested tables with its dotted key."""
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
