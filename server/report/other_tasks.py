"""What the report shows of tasks with several outcomes, or times to one: cells as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from federation.pages.elements import Fact, Td
from server.report.documents import Metric
from server.report.run_folder import RunFolder
from server.report.several import runs_of_tasks
from server.report.text import metric_text, subgroup_name, withheld

Cell = Mapping[str, Any]


def main_model(run: RunFolder) -> Mapping[str, Any]:
    """The entry of metrics.json that the report is about."""
    found: Mapping[str, Any] = run.document["models"][run.main]
    return found


def told(found: Any) -> Td:
    """A metric of metrics.json."""
    return metric_text(Metric.model_validate(found) if found else None)


def by_outcome(cell: Cell) -> Mapping[str, Cell]:
    """The cells of a cell's classes or findings."""
    found: Mapping[str, Cell] = cell.get("classes") or cell.get("labels") or {}
    return found


def hidden(head: Td, cell: Cell, columns: int) -> list[Td]:
    """A row of a cell that is withheld."""
    return [head, withheld(str(cell["suppressed"]), columns)]


TITLES = {"binary": "AUROC", "survival": "c-index"}


def other_facts(run: RunFolder) -> list[Fact]:
    """The first figures: of all hospitals, and of the worst hospital and subgroup.

    Of several tasks the first figure of each.
    """
    if each := runs_of_tasks(run):
        labels = {name: str(one.study["task"]["label"]) for name, one in each.items()}
        return [
            replace(_of_all(one), name=f"{labels[name].replace('_', ' ')}: {_title(one)}")
            for name, one in each.items()
        ]
    model, title = main_model(run), _title(run)
    facts = [_of_all(run)]
    if "suppressed" in model["overall"]:
        return facts
    for name, cells in (("Worst hospital", "sites"), ("Worst subgroup", "subgroups")):
        values = {
            subgroup_name(key): value
            for key, cell in sorted(model[cells].items())
            if "suppressed" not in cell and (value := _first(cell).get("value")) is not None
        }
        if values:
            worst = min(values, key=values.__getitem__)
            facts.append(Fact(f"{name}, {title}", f"{values[worst]:.3f}", f"{worst}."))
    return facts


def _title(run: RunFolder) -> str:
    return TITLES.get(run.task, "Mean AUROC of the outcomes")


def _of_all(run: RunFolder) -> Fact:
    overall, title = main_model(run)["overall"], f"{_title(run)}, all hospitals"
    if "suppressed" in overall:
        return Fact(title, "withheld", str(overall["suppressed"]))
    first = Metric.model_validate(_first(overall))
    shown = metric_text(first)
    interval = shown.note if first.low is None else f"95% interval {shown.note}"
    return Fact(title, shown.text, interval)


def _first(cell: Cell) -> dict[str, Any]:
    if "c_index" in cell:
        return dict(cell["c_index"])
    return dict(cell.get("macro", cell)["auroc"])
