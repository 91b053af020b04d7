"""A run of several tasks as a run of each: for what is shown of a task as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from federation.pages.elements import Chooser, Figure, Folded, Heading, Pair, Part, Section
from server.judges.several import cross_site_of_task, model_of_task
from server.report.documents import Metrics
from server.report.run_folder import RunFolder

SEVERAL = "several"


def runs_of_tasks(run: RunFolder) -> dict[str, RunFolder]:
    """The run as it would be of each task alone, by the task's name; empty for other runs."""
    if run.task != SEVERAL:
        return {}
    return {name: _of_task(run, name, task) for name, task in run.study["task"]["tasks"].items()}


def _of_task(run: RunFolder, name: str, task: Mapping[str, Any]) -> RunFolder:
    whole = run.document
    document = {
        **whole,
        "models": {model: model_of_task(one, name) for model, one in whole["models"].items()},
        "cross_site": cross_site_of_task(whole.get("cross_site", {}), name),
    }
    if "joining" in whole:
        document["joining"] = whole["joining"]["tasks"][name]
    return replace(
        run,
        study={**run.study, "task": dict(task)},
        document=document,
        metrics=Metrics.model_validate(document),
        summaries={"": run.summaries.get(name, {})},
    )


def under_one_heading(name: str, title: str, sections: list[Section]) -> Section:
    """Put the sections of a task into one, with names of figures that no other task has."""
    parts: list[Part] = []
    for section in sections:
        parts += [Heading(section.title), *(_renamed(part, name) for part in section.parts)]
    return Section(f"task-{name}", title, parts)


def _renamed(part: Part, task: str) -> Part:
    if isinstance(part, Figure):
        return _figure(part, task)
    if isinstance(part, Pair):
        return replace(part, figures=[_figure(one, task) for one in part.figures])
    if isinstance(part, Folded):
        return replace(part, parts=[_renamed(one, task) for one in part.parts])
    if isinstance(part, Chooser):
        figures = [f"{task}-{figure}" for figure in part.figures]
        return replace(part, name=f"{task}-{part.name}", figures=figures)
    return part


def _figure(figure: Figure, task: str) -> Figure:
    return replace(figure, name=f"{task}-{figure.name}")
