"""Whose a file is, and of when: by a DICOM tag, by the file's name, or by a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from clients.images.settings import LinkSection
from federation.errors import UserError

Unlinked = Literal[
    "the tag is empty",
    "the pattern does not fit the name",
    "not in the table",
    "the identifier is not in the table of identifiers",
    "no time, and link.undated is not set",
    "the time is not as link.time_format says",
    "not a text of the encoding",
    "too long for a note",
]
"""Why a file is nobody's; told at the site alone."""


class NotLinked(Exception):
    """A file that cannot be tied to a patient."""

    def __init__(self, reason: Unlinked):
        self.reason: Unlinked = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Rule:
    """A link section with its tables read.

    Attributes:
        section: of the site file.
        table: by file, relative to the folder with ``/``: patient and time as text.
        identifiers: identifier to the name that the events have for the patient; None if they
            have the same.
    """

    section: LinkSection
    table: Mapping[str, tuple[str, str]]
    identifiers: Mapping[str, str] | None

    def patient(
        self, file: str, tag: str | None, own_time: datetime | None
    ) -> tuple[str, datetime | None]:
        """Return the events' name for a file's patient, and the file's time.

        Args:
            file: relative to the folder, with ``/``.
            tag: what the DICOM tag holds, where the rule asks for one.
            own_time: what the file itself says of its time.

        Raises:
            NotLinked: with the reason.
        """
        name, time = self._found(file, tag)
        if not name:
            raise NotLinked("the tag is empty" if self.section.by == "tag" else "not in the table")
        if self.identifiers is not None:
            if name not in self.identifiers:
                raise NotLinked("the identifier is not in the table of identifiers")
            name = self.identifiers[name]
        when = self._parsed(time) if time else own_time
        if when is None and not self.section.undated:
            raise NotLinked("no time, and link.undated is not set")
        return name, when

    def _found(self, file: str, tag: str | None) -> tuple[str, str]:
        if self.section.by == "tag":
            return (tag or "").strip(), ""
        if self.section.by == "table":
            if file not in self.table:
                raise NotLinked("not in the table")
            return self.table[file]
        fit = re.search(self.section.pattern or "", file)
        if fit is None:
            raise NotLinked("the pattern does not fit the name")
        groups = fit.groupdict()
        return (groups["patient"] or "").strip(), groups.get("time") or ""

    def _parsed(self, text: str) -> datetime:
        try:
            form = self.section.time_format
            time = datetime.strptime(text, form) if form else datetime.fromisoformat(text)
        except ValueError:
            raise NotLinked("the time is not as link.time_format says") from None
        return time.replace(tzinfo=None)


def load_rule(section: LinkSection, folder: Path) -> Rule:
    """Read the tables that a link section names, relative to the site file's folder.

    Raises:
        UserError: if one is missing, or not as expected.
    """
    table: dict[str, tuple[str, str]] = {}
    if section.table is not None:
        for file, patient, time in _rows(folder / section.table, ("file", "patient"), ("time",)):
            table[file.replace("\\", "/")] = (patient, time)
    identifiers = None
    if section.identifiers is not None:
        names = _rows(folder / section.identifiers, ("identifier", "subject_id"), ())
        identifiers = {identifier: subject for identifier, subject in names}
    return Rule(section, table, identifiers)


def _rows(file: Path, wanted: tuple[str, ...], optional: tuple[str, ...]) -> list[list[str]]:
    """Read columns of a CSV with a header; the first column tells the rows apart."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            have = list(reader.fieldnames or [])
            missing = [name for name in wanted if name not in have]
            if missing or len(set(have)) < len(have):
                problem = (
                    f"the column is missing: {', '.join(missing)}"
                    if missing
                    else ("two columns have the same name")
                )
                raise UserError(file, problem, remedy=f"The file has: {', '.join(have)}.")
            rows = [[(row.get(n) or "").strip() for n in (*wanted, *optional)] for row in reader]
    except FileNotFoundError:
        raise UserError(file, "there is no such file", field="link") from None
    except (OSError, UnicodeError, csv.Error):
        raise UserError(file, "not a readable CSV file in UTF-8") from None
    seen = set[str]()
    for number, row in enumerate(rows, start=2):
        if row[0] in seen:
            raise UserError(file, f"row {number}: {wanted[0]} stands in an earlier row too")
        seen.add(row[0])
    return rows
