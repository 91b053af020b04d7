"""Who the patients are: the counts of each hospital, small ones withheld at the hospital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.pages.elements import TOTAL, Part, Section, Table, Td, Text
from server.report.documents import Cell, ModelMetrics, SiteData
from server.report.run_folder import RunFolder
from server.report.text import ALL, MODALITIES, listed, number, subgroup_name, withheld

UNTOLD = "not told under differential privacy"


_NOISED = "The counts of held-out patients have noise, so they are not exact and do not add up."


def data(run: RunFolder) -> Section:
    """Characteristics of the held-out patients, and patients by split and modality."""
    parts: list[Part] = [characteristics_table(run.model)]
    if run.noised:
        parts.append(Text(_NOISED, note=True))
    if run.sites:
        parts.append(patients_table(run.sites))
    else:
        parts.append(Text("No hospital described its data.", note=True))
    return Section("data", "Data", parts)


def characteristics_table(model: ModelMetrics) -> Table:
    """Held-out patients by hospital: the outcome and each level of each attribute.

    Made of the sizes of the evaluation's cells: nothing else leaves a hospital for it.
    """
    names = sorted(model.subgroups)
    rows = [_characteristics(site, cell, model.site_subgroups.get(site, {}), names)
            for site, cell in sorted(model.sites.items())]  # fmt: skip
    return Table(
        "Characteristics of the held-out patients, by hospital",
        ["Hospital", "Patients", "With the outcome", *(subgroup_name(name) for name in names)],
        [_characteristics_of_all(model, names), *rows],
        "Shares are of the hospital's held-out patients; of all hospitals, only those count that "
        "told. Training and tuning patients are not described in this way.",
    )


def patients_table(sites: Mapping[str, SiteData]) -> Table:
    """Patients by split and modality, with what was left out."""
    modalities = sorted({name for one in sites.values() for name in one.modalities})
    rows = [
        [
            Td(site),
            *(number(one.patients.get(split)) for split in ("train", "tuning", "held_out")),
            *(number(one.modalities.get(name)) for name in modalities),
            Td(one.failure or listed(one.excluded) or "none", look="text"),
            Td(listed(one.notices) or ("none" if one.counted else UNTOLD), look="text"),
        ]
        for site, one in sorted(sites.items())
    ]
    splits = ["Training", "Tuning", "Held out"]
    held = [f"With {MODALITIES.get(name, name)}" for name in modalities]
    return Table(
        "Patients by hospital",
        ["Hospital", *splits, *held, "Excluded", "Noticed"],
        rows,
    )


def _characteristics(
    site: str, whole: Cell, cells: Mapping[str, Cell], names: Sequence[str]
) -> list[Td]:
    if whole.suppressed or whole.n is None:
        return [Td(site), withheld(whole.suppressed, 2 + len(names))]
    shares = [_share(cells.get(name), whole.n) for name in names]
    return [Td(site), number(whole.n), _counted(whole.positives, whole.n), *shares]


def _characteristics_of_all(model: ModelMetrics, names: Sequence[str]) -> list[Td]:
    whole, head = model.overall, Td(ALL, look=TOTAL)
    if whole.suppressed or whole.n is None:
        return [head, withheld(whole.suppressed, 2 + len(names))]
    sizes = {site: cell.n or 0 for site, cell in model.sites.items()}
    shares = []
    for name in names:
        cell = model.subgroups[name]
        told = sum(n for site, n in sizes.items() if site not in cell.excludes)
        shares.append(_share(cell, told))
    return [head, number(whole.n), _counted(whole.positives, whole.n), *shares]


def _share(cell: Cell | None, of: int) -> Td:
    if cell is None:
        return Td("0")
    if cell.suppressed or cell.n is None:
        return Td("withheld", look="withheld")
    return _counted(cell.n, of)


def _counted(count: int | None, of: int) -> Td:
    if count is None or not of:
        return Td("–")
    return Td(f"{count:,}", f"{100 * count / of:.0f}%")
