"""The sections of the report, in their order: one file and one line here for each.

A section is a function of the run folder that returns what it shows, or None where the run has
nothing for it. Every column of its tables has an entry in ``glossary.py``, or is a plain word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from federation.pages.elements import Section
from server.report.run_folder import RunFolder
from server.report.sections.comparators import comparators
from server.report.sections.cross_site import cross_site
from server.report.sections.curves import curves
from server.report.sections.data import data
from server.report.sections.decisions import decisions
from server.report.sections.drift import drift
from server.report.sections.glossary import glossary
from server.report.sections.hospitals import hospitals
from server.report.sections.outcomes import outcomes
from server.report.sections.participation import participation
from server.report.sections.privacy import privacy
from server.report.sections.provenance import provenance
from server.report.sections.shifts import shifts
from server.report.sections.subgroups import subgroups
from server.report.sections.survival import survival
from server.report.sections.training import training
from server.report.several import runs_of_tasks, under_one_heading

Shown = Callable[[RunFolder], Section | None]

OF_ONE_OUTCOME: tuple[Shown, ...] = (
    hospitals,
    subgroups,
    decisions,
    curves,
    comparators,
    cross_site,
    drift,
)
"""Of a single yes-or-no outcome."""

OF_OTHER_TASKS: tuple[Shown, ...] = (outcomes, survival)

OF_EVERY_RUN: tuple[Shown, ...] = (
    training,
    participation,
    data,
    shifts,
    privacy,
    provenance,
    glossary,
)


SECTIONS = (*OF_ONE_OUTCOME, *OF_OTHER_TASKS, *OF_EVERY_RUN)


def sections_of(run: RunFolder) -> list[Section]:
    """What the report of a run shows, in order; of several tasks each in a section of its own."""
    of_tasks = [
        under_one_heading(name, _title(one), _measured(one))
        for name, one in runs_of_tasks(run).items()
    ]
    return [*(of_tasks or _measured(run)), *_shown(OF_EVERY_RUN, run)]


def _measured(run: RunFolder) -> list[Section]:
    return _shown(OF_ONE_OUTCOME if run.task == "binary" else OF_OTHER_TASKS, run)


def _shown(sections: Iterable[Shown], run: RunFolder) -> list[Section]:
    return [one for section in sections if (one := section(run)) is not None]


def _title(run: RunFolder) -> str:
    label = str(run.study["task"]["label"]).replace("_", " ")
    return f"{label[:1].upper()}{label[1:]}"
