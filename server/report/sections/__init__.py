"""The sections of the report, in their order: one file and one line here for each.

A section is a function of the run folder that returns what it shows, or None where the run has
nothing for it. Every column of its tables has an entry in ``glossary.py``, or is a plain word.
"""

from __future__ import annotations

from collections.abc import Callable

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
from server.report.sections.participation import participation
from server.report.sections.privacy import privacy
from server.report.sections.provenance import provenance
from server.report.sections.shifts import shifts
from server.report.sections.subgroups import subgroups
from server.report.sections.training import training

SECTIONS: tuple[Callable[[RunFolder], Section | None], ...] = (
    hospitals,
    subgroups,
    decisions,
    curves,
    comparators,
    cross_site,
    drift,
    training,
    participation,
    data,
    shifts,
    privacy,
    provenance,
    glossary,
)
