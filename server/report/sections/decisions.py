"""What decisions at one threshold achieve, and how far apart groups of patients are."""

from __future__ import annotations

from collections.abc import Mapping

from federation.pages.elements import TOTAL, Heading, Part, Section, Table, Td
from server.report.documents import Cell, ModelMetrics
from server.report.run_folder import RunFolder
from server.report.text import ALL, metric_text, subgroup_name, withheld

_RATES: Mapping[str, str] = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "alert_rate": "Alert rate",
    "number_needed_to_evaluate": "Number needed to evaluate",
}

_GAPS: Mapping[str, str] = {
    "sensitivity": "Sensitivity",
    "false_positive_rate": "False positive rate",
    "selection_rate": "Share called positive",
    "calibration": "Observed minus predicted risk",
    "auroc": "AUROC",
}


def decisions(run: RunFolder) -> Section | None:
    """Both, in runs that have them."""
    made, gaps, parts = decision_table(run.model), gap_table(run.model), list[Part]()
    if made.rows:
        parts.append(made)
    if gaps.rows:
        parts += [Heading("Gaps between subgroups"), gaps]
    return Section("decisions", "Decisions and fairness", parts) if parts else None


def decision_table(model: ModelMetrics) -> Table:
    """What the model's one threshold achieves everywhere; no rows in runs that chose none."""
    cells = {ALL: model.overall, **dict(sorted(model.sites.items()))}
    cells |= {subgroup_name(name): cell for name, cell in sorted(model.subgroups.items())}
    rows = [
        _decided(head, cell)
        for head, cell in cells.items()
        if cell.at_threshold is not None or cell.suppressed
    ]
    known = any(cell.at_threshold is not None for cell in cells.values())
    return Table(
        "Decisions at one threshold, held-out patients",
        ["Patients of", *_RATES.values()],
        rows if known else [],
        threshold_words(model),
    )


def threshold_words(model: ModelMetrics) -> str:
    """How the threshold was chosen."""
    told = model.threshold
    if told is None:
        return ""
    rule = {
        "youden": "the largest sensitivity + specificity",
        "sensitivity": f"a sensitivity of {told.sensitivity}",
        "fixed": "the study",
    }[told.rule]
    where = "" if told.rule == "fixed" else " on the tuning split"
    if told.value is not None:
        return f"The threshold is {told.value:.4g}, fixed by {rule}{where}, for all alike."
    if told.sites:
        return f"Each hospital's own model has its own threshold, fixed by {rule}{where}."
    return f"There is no threshold: {told.reason}."


def gap_table(model: ModelMetrics) -> Table:
    """The largest gap between two groups of each attribute, by measure."""
    rows = [
        [
            Td(f"{attribute.replace('_', ' ')}: {words}"),
            metric_text(gap),
            Td(subgroup_name(gap.lowest), look="text"),
            Td(subgroup_name(gap.highest), look="text"),
        ]
        for attribute, gaps in sorted(model.fairness.items())
        for name, words in _GAPS.items()
        if (gap := gaps.get(name)) is not None
    ]
    return Table(
        "Largest gap between two subgroups, held-out patients",
        ["What", "Gap", "Lowest", "Highest"],
        rows,
        "The interval holds for all pairs of an attribute's groups together; one that begins at 0 "
        "may be chance. Patients of unknown level are no group.",
    )


def _decided(head: str, cell: Cell) -> list[Td]:
    found = cell.at_threshold
    first = Td(head, look=TOTAL if head == ALL else "")
    if cell.suppressed or found is None:
        return [first, withheld(cell.suppressed, len(_RATES))]
    if found.reason:
        return [first, Td(found.reason, look="undefined", span=len(_RATES))]
    digits = {"number_needed_to_evaluate": 1}
    return [
        first,
        *(metric_text(getattr(found, name), digits.get(name, 3)) for name in _RATES),
    ]
