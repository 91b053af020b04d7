"""Times to an outcome: c-index, and AUROC and Brier score at the study's horizons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.pages.elements import Part, Section, Table, Td, Text
from server.report.other_tasks import hidden, main_model, told
from server.report.run_folder import RunFolder
from server.report.text import model_name, number, plain, subgroup_name

_HOW = (
    "Who is not followed to a horizon is made up for by those who are, each with the inverse of "
    "the chance to be followed so long. There is no threshold, and so no decision at one."
)


def survival(run: RunFolder) -> Section | None:
    """c-index by hospital, subgroup and model, and figures by horizon; None for other tasks."""
    if run.task != "survival":
        return None
    model = main_model(run)
    parts: list[Part] = []
    if "auroc_at" in model["overall"]:
        parts.append(_horizons(model["overall"]))
    named = {subgroup_name(name): cell for name, cell in model["subgroups"].items()}
    models = {model_name(n): one["overall"] for n, one in run.document["models"].items()}
    parts += [
        Text(_HOW, note=True),
        _cells("c-index by hospital, held-out patients", "Hospital", model["sites"]),
        _cells("c-index by subgroup, held-out patients", "Subgroup", named),
        _cells("Each model of the run", "Model", models),
    ]
    return Section("survival", "Times to the outcome", parts)


def _horizons(cell: Mapping[str, Any]) -> Table:
    rows = [
        [
            Td(f"{auroc['days']:g}"),
            told(auroc),
            told(brier),
            plain(risk["predicted"]),
            plain(risk["observed"]),
        ]
        for auroc, brier, risk in zip(
            cell["auroc_at"], cell["brier_at"], cell["risk_at"], strict=True
        )
    ]
    return Table(
        "By horizon, held-out patients of all hospitals",
        ["Days", "AUROC", "Brier score", "Predicted risk", "Observed risk"],
        rows,
    )


def _cells(caption: str, head: str, cells: Mapping[str, Any]) -> Table:
    rows = []
    for name, cell in cells.items():
        if "suppressed" in cell:
            rows.append(hidden(Td(name), cell, 4))
            continue
        counts = number(cell["n"]), number(cell["events"])
        rows.append([Td(name), *counts, told(cell["c_index"]), told(cell["integrated_brier"])])
    return Table(caption, [head, "Patients", "Events", "c-index", "Integrated Brier score"], rows)
