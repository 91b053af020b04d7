"""Each hospital's own model on each other hospital's patients."""

from __future__ import annotations

from collections.abc import Mapping

from federation.pages.elements import Section, Table, Td
from server.report.documents import Ranked
from server.report.run_folder import RunFolder
from server.report.text import heat


def cross_site(run: RunFolder) -> Section | None:
    """The matrix as a heat map, in runs that trained local models."""
    if not run.metrics.cross_site:
        return None
    return Section("across", "Across hospitals", [cross_site_table(run.metrics.cross_site)])


def cross_site_table(found: Mapping[str, Mapping[str, Ranked]]) -> Table:
    """AUROC of the model trained at the row's hospital on the patients of the column's."""
    tested = sorted({site for cells in found.values() for site in cells})
    rows = [
        [Td(trained), *(heat(cells.get(site)) for site in tested)]
        for trained, cells in sorted(found.items())
    ]
    return Table(
        "AUROC of each hospital's own model (row) on each hospital's patients (column)",
        ["Trained at", *tested],
        rows,
        "The diagonal is each model at home: what falls off beside it does not travel. Darker, or "
        "brighter on a dark page, is higher.",
    )
