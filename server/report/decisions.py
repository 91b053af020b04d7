"""The tables of decisions at one threshold, of gaps between groups, and of what joining brings."""

from __future__ import annotations

from collections.abc import Mapping

from federation.pages.elements import Table, Td
from server.report.run_folder import Cell, Joining, Metric, ModelMetrics
from server.report.tables import MODEL_NAMES, metric_text, subgroup_name

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


def decision_table(model: ModelMetrics) -> Table:
    """What the model's one threshold achieves everywhere; no rows in runs that chose none."""
    cells = {"All hospitals": model.overall, **dict(sorted(model.sites.items()))}
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


def between_table(models: Mapping[str, ModelMetrics]) -> Table:
    """AUROC of the average hospital, and of one more, where enough can be compared."""
    rows = []
    for name in sorted(models, key=lambda name: (name != "federated", name)):
        found = models[name].between_sites
        if found is None or found.auroc.value is None:
            continue
        ends = found.prediction.get("low"), found.prediction.get("high")
        ahead = metric_text(Metric(value=found.auroc.value, low=ends[0], high=ends[1])).note
        rows.append(
            [
                Td(MODEL_NAMES.get(name, name)),
                Td(str(found.hospitals)),
                metric_text(found.auroc),
                Td(ahead),
                Td("–" if found.i_squared is None else f"{100 * found.i_squared:.0f}%"),
            ]
        )
    return Table(
        "AUROC of the average hospital (random effects), and where one more is to be expected",
        ["Model", "Hospitals", "Average", "One more, 95%", "Variation beyond chance"],
        rows,
    )


def joining_table(joining: Joining | None) -> Table:
    """What each hospital gains or loses by joining."""
    rows = []
    for site, one in sorted(joining.sites.items()) if joining else ():
        if one.suppressed:
            rows.append([Td(site), Td(f"withheld: {one.suppressed}", look="withheld", span=3)])
            continue
        shown = [metric_text(metric) for metric in (one.federated, one.local, one.difference)]
        rows.append([Td(site, "" if one.paired else "unpaired"), *shown])
    if joining and rows:
        rows.append([Td("Mean"), Td(""), Td(""), metric_text(joining.mean)])
    return Table(
        "What each hospital gains by joining: AUROC on its own held-out patients",
        ["Hospital", "Federated", "Its own alone", "Difference"],
        rows,
        "Above 0, the federated model is better at home than what the hospital trains alone.",
    )


def _decided(head: str, cell: Cell) -> list[Td]:
    found = cell.at_threshold
    if cell.suppressed or found is None:
        withheld = f"withheld: {cell.suppressed}"
        return [Td(head), Td(withheld, look="withheld", span=len(_RATES))]
    if found.reason:
        return [Td(head), Td(found.reason, look="undefined", span=len(_RATES))]
    digits = {"number_needed_to_evaluate": 1}
    return [
        Td(head),
        *(metric_text(getattr(found, name), digits.get(name, 3)) for name in _RATES),
    ]
