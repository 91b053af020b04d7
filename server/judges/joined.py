"""Entries of metrics.json of several outcomes of the same patients, joined into one; and apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.cells import Cell

Join = Callable[[Mapping[str, Cell]], Cell]

TABLES = ("overall", "sites", "subgroups", "site_subgroups")
"""Of a model's entry: what holds cells."""


def joined_tables(each: Mapping[str, Mapping[str, Any]], join: Join) -> dict[str, Any]:
    """Join the cells of one model's entries, by outcome."""
    return {
        table: joined_cells({name: model[table] for name, model in each.items()}, join)
        for table in TABLES
    }


def joined_cells(each: Mapping[str, Any], join: Join) -> Any:
    """Join tables of cells of the same shape, by outcome, into one table of joined cells."""
    if is_cell(next(iter(each.values()))):
        return join(each)
    places = list(dict.fromkeys(place for one in each.values() for place in one))
    return {
        place: joined_cells({name: one[place] for name, one in each.items() if place in one}, join)
        for place in places
    }


def cells_apart(found: Mapping[str, Any], take: Callable[[Cell], Cell | None]) -> dict[str, Any]:
    """Take one outcome's cell from each joined cell of a table; those that have none are left out.

    The inverse of ``joined_cells``.
    """
    taken: dict[str, Any] = {}
    for place, one in found.items():
        if not is_cell(one):
            taken[place] = cells_apart(one, take)
        elif (cell := take(one)) is not None:
            taken[place] = cell
    return taken


def is_cell(found: Mapping[str, Any]) -> bool:
    """Cells have their own words; tables of cells have names of sites and subgroups."""
    return isinstance(found.get("suppressed"), str) or isinstance(found.get("n"), int)


def joined_marks(each: Mapping[str, Cell]) -> Cell:
    """What the cells of all outcomes have in common; that they are withheld, if for one reason."""
    reasons = {str(cell.get("suppressed", "")) for cell in each.values()}
    first = next(iter(each.values()))
    marks = {key: first[key] for key in ("averaged_over_sites",) if key in first}
    if any("excludes" in cell for cell in each.values()):
        marks["excludes"] = sorted(
            set.intersection(*(set(cell.get("excludes", ())) for cell in each.values()))
        )
    if len(reasons) == 1 and (reason := reasons.pop()):
        return {"suppressed": reason, **marks}
    return marks


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those values that there are."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
