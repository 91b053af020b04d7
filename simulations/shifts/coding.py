"""Coding practice: a site writes other codes for the same facts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field

from simulations.shifts.kind import Effect, Kind, Scope, ShiftSection
from simulations.shifts.tables import SiteTables


class Coding(ShiftSection):
    """``kind = "coding"``: a part of the codes, drawn by site, is written in another way there."""

    kind: Literal["coding"]
    codes: tuple[str, ...] = Field(default=("",), min_length=1)
    """How the codes begin that may be written in another way; all by default."""
    share: float = Field(default=0.5, gt=0, le=1)
    """The share of a site's codes that is, at strength 1."""
    style: Literal["local", "coarse"] = "local"
    """``local``: a name of the site's own; ``coarse``: the code without its last part."""
    equivalents: Mapping[str, str] = Field(default_factory=dict)
    """Codes to write instead, by code; they go before the style."""


def apply(shift: Coding, tables: SiteTables, scope: Scope) -> Effect:
    """Rename codes, in all events of the site; a stronger shift renames those of a weaker one too.

    ``metadata/codes.parquet`` describes each new code by the old ones it stands for.
    """
    renamed = {}
    for code in tables.codes(shift.codes):
        if scope.random("code", code).random() < scope.strength * shift.share:
            new = shift.equivalents.get(code) or _written(code, shift.style, scope.site)
            if new != code:
                renamed[code] = new
    if not renamed:
        return Effect(tables, {"codes": {}}, {}, "none of its codes was drawn, or can be renamed")
    codes = tables.events["code"]
    touched = {"codes": len(renamed), "events": int(codes.isin(renamed).sum())}
    events = tables.events.assign(code=codes.map(lambda c: renamed.get(c, c)).astype("category"))
    return Effect(
        replace(tables, events=events, recoded=_composed(tables.recoded, renamed)),
        {"codes": renamed},
        touched,
    )


def _written(code: str, style: str, site: str) -> str:
    """Another code for the same fact.

    >>> _written("ICD10CM//I50.9", "coarse", "bayview"), _written("LAB//CRP", "coarse", "bayview")
    ('ICD10CM//I50', 'LAB//CRP')
    >>> _written("LAB//CRP", "local", "bayview")
    'LOCAL-BAYVIEW//DCEFF2'
    """
    if style == "local":
        return f"LOCAL-{site.upper()}//{hashlib.sha256(code.encode()).hexdigest()[:6].upper()}"
    head, separator, last = code.rpartition("//")
    if "." in last:
        return head + separator + last.partition(".")[0]
    return head if "//" in head else code


def _composed(before: Mapping[str, str], renamed: Mapping[str, str]) -> dict[str, str]:
    """Present code by code on disk, after one more renaming.

    >>> _composed({"A//1": "A"}, {"A": "B", "C": "D"})
    {'A': 'B', 'C': 'D', 'A//1': 'B'}
    """
    as_written = {old: new for old, new in renamed.items() if old not in before}
    changed = {old: renamed.get(present, present) for old, present in before.items()}
    return as_written | changed


KIND = Kind(Coding, apply)
