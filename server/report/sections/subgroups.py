"""How well the model does for each group of patients, overall and at each hospital."""

from __future__ import annotations

from federation.pages.elements import Heading, Part, Section, Table, Td, Text
from server.report.documents import ModelMetrics
from server.report.run_folder import RunFolder
from server.report.text import METRICS, excludes, heat, metrics_row, subgroup_name


def subgroups(run: RunFolder) -> Section:
    """A table by subgroup and a heat map by hospital and subgroup."""
    model, parts = run.model, list[Part]()
    if model.subgroups:
        parts.append(subgroups_table(model))
    else:
        parts.append(Text("No subgroup was evaluated.", note=True))
    by_site = site_subgroup_table(model)
    if by_site.rows:
        parts += [Heading("By hospital and subgroup"), by_site]
    return Section("subgroups", "Subgroups", parts)


def subgroups_table(model: ModelMetrics) -> Table:
    """Every metric by subgroup, over all hospitals that did not withhold it."""
    rows = [
        metrics_row(subgroup_name(name), cell, note=excludes(cell))
        for name, cell in sorted(model.subgroups.items())
    ]
    return Table(
        "Performance by subgroup, held-out patients of all hospitals",
        ["Subgroup", "Patients", "Events", *METRICS.values()],
        rows,
    )


def site_subgroup_table(model: ModelMetrics) -> Table:
    """AUROC of each subgroup at each hospital, shaded."""
    names = sorted({name for cells in model.site_subgroups.values() for name in cells})
    rows = [
        [Td(site), *(heat(cells.get(name)) for name in names)]
        for site, cells in sorted(model.site_subgroups.items())
        if cells
    ]
    return Table(
        "AUROC by hospital and subgroup",
        ["Hospital", *(subgroup_name(name) for name in names)],
        rows,
        "Darker, or brighter on a dark page, is higher; every cell says its number. Cells of few "
        "patients vary widely by chance: read the interval. Hospitals withhold cells of few "
        "patients, and others from which those could be told.",
    )
