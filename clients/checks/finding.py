"""What a check of a site found, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["blocker", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("blocker", "warning", "note")
Topic = Literal[
    "site",
    "events",
    "labels",
    "codes",
    "values",
    "patients",
    "modalities",
    "images",
    "leakage",
    "identifiers",
    "privacy",
    "study",
]
MOST_NAMES = 6


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know before the site joins.

    Attributes:
        severity: ``blocker``: with it the site takes no part, or its part is worthless;
            ``warning``: look at it first; ``note``: good to know.
        topic: what it is about.
        where: the file, column, code or key.
        what: what was found: counts, and names of files, codes and columns; never the value of a
            patient's field.
        remedy: what to do.
    """

    severity: Severity
    topic: Topic
    where: str
    what: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return dict(vars(self))


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put blockers first, and otherwise keep the order."""
    return tuple(sorted(findings, key=lambda one: SEVERITIES.index(one.severity)))


def verdict(findings: Iterable[Finding]) -> str:
    """Return READY, or BLOCKED with what to fix, in one line.

    >>> verdict([Finding("blocker", "labels", "labels.parquet", "nobody has a label", "Add some.")])
    'BLOCKED: 1 thing to fix: labels.parquet: nobody has a label'
    """
    blockers = [one for one in findings if one.severity == "blocker"]
    if not blockers:
        return "READY"
    things = "1 thing" if len(blockers) == 1 else f"{len(blockers)} things"
    told = "; ".join(f"{one.where}: {one.what}" for one in blockers)
    return f"BLOCKED: {things} to fix: {' '.join(told.split())}"


def plural(count: int, noun: str, many: str = "") -> str:
    """Return a count with its noun.

    >>> plural(1, "patient"), plural(1200, "patient"), plural(2, "copy", "copies")
    ('1 patient', '1,200 patients', '2 copies')
    """
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def named(names: Iterable[Any], most: int = MOST_NAMES) -> str:
    """Return the first few names, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
