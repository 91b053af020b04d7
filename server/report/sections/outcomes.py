"""Classes or findings: each by itself, by hospital and by subgroup, and classes beside others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.pages.elements import Heading, Part, Section, Table, Td, Text
from server.report.documents import Cell, Recalibrated
from server.report.other_tasks import by_outcome, hidden, main_model, told
from server.report.recalibration import recalibration_words
from server.report.run_folder import RunFolder
from server.report.text import METRICS, model_name, number, subgroup_name

_MEANS = (
    "The mean over outcomes has no interval: its outcomes are of the same patients, and how they "
    "hang together does not leave the hospitals."
)


def outcomes(run: RunFolder) -> Section | None:
    """Every metric of each class or finding; None for other tasks."""
    if run.task not in ("multiclass", "multilabel"):
        return None
    model = main_model(run)
    parts: list[Part] = [_overall(model["overall"]), Text(_MEANS, note=True)]
    parts += [Text(f"{name}: {words}") for name, words in recalibrated_outcomes(model).items()]
    parts += [
        _cells("Mean AUROC and AUROC of each outcome by hospital", "Hospital", model["sites"]),
        _cells(
            "Mean AUROC and AUROC of each outcome by subgroup",
            "Subgroup",
            {subgroup_name(name): cell for name, cell in model["subgroups"].items()},
        ),
        _cells(
            "Each model of the run",
            "Model",
            {model_name(n): one["overall"] for n, one in run.document["models"].items()},
        ),
    ]
    if "confusion" in model["overall"]:
        parts += [Heading("The likeliest class beside the true one"), _confusion(model["overall"])]
    return Section("outcomes", "Outcomes", parts)


def recalibrated_outcomes(model: Mapping[str, Any]) -> dict[str, str]:
    """What is told of the risks of each finding that was to be recalibrated, by its name."""
    cells = by_outcome(model["overall"])
    told = {
        name: Recalibrated.model_validate(one["recalibration"])
        for name, one in model.get("by_label", {}).items()
        if "recalibration" in one
    }
    return {
        name: recalibration_words(one, Cell.model_validate(cells.get(name, {})))
        for name, one in told.items()
    }


def _overall(cell: Mapping[str, Any]) -> Table:
    rows = []
    for name, one in by_outcome(cell).items():
        if "suppressed" in one:
            rows.append(hidden(Td(name), one, len(METRICS) + 2))
            continue
        values = [told(one.get(metric)) for metric in METRICS]
        rows.append([Td(name), number(one["n"]), number(one["positives"]), *values])
    return Table(
        "Performance by outcome, held-out patients of all hospitals",
        ["Outcome", "Patients", "Events", *METRICS.values()],
        rows,
    )


def _cells(caption: str, head: str, cells: Mapping[str, Any]) -> Table:
    names = list(dict.fromkeys(name for cell in cells.values() for name in by_outcome(cell)))
    rows = []
    for key, cell in cells.items():
        if "suppressed" in cell:
            rows.append(hidden(Td(key), cell, len(names) + 2))
            continue
        found = [by_outcome(cell).get(name, {}) for name in names]
        values = [
            Td("withheld") if "suppressed" in one else told(one.get("auroc")) for one in found
        ]
        rows.append([Td(key), number(cell["n"]), told(cell["macro"]["auroc"]), *values])
    return Table(caption, [head, "Patients", "Mean", *names], rows)


def _auroc(cell: Mapping[str, Any]) -> Td:
    return Td("withheld", look="withheld") if "suppressed" in cell else told(cell.get("auroc"))


def _confusion(cell: Mapping[str, Any]) -> Table:
    found, names = cell["confusion"], list(by_outcome(cell))
    rows = [
        [Td(name), *(Td(f"{count:,}") for count in row), Td(f"{rest:,}")]
        for name, row, rest in zip(
            names, found["true_by_predicted"], found["predicted_class_withheld"], strict=True
        )
    ]
    accuracy = told(cell["accuracy"])
    return Table(
        "Patients by true class (rows) and likeliest class (columns)",
        ["True class", *names, "Likeliest withheld"],
        rows,
        f"The likeliest class is the true one in {accuracy.text} of all patients "
        f"({accuracy.note}).",
    )
