"""The text files of a site to note events."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from clients.images.paths import files_below, inside
from clients.images.picture import UnreadableImage
from clients.images.settings import NotesSection
from clients.linking.rules import NotLinked, Rule

MOST_BYTES = 2**20
"""Of one note; a longer file is none."""


@dataclass(frozen=True)
class NoteEvent:
    """A note that was tied to a patient; the attributes are those of an ``ImageEvent``."""

    patient: str
    time: datetime | None
    code: str
    file: str
    text: str


def link_notes(
    settings: NotesSection, folder: Path, rule: Rule
) -> tuple[list[NoteEvent], dict[str, str]]:
    """Tie the text files below a folder to patients.

    Returns:
        Events; and the files that are nobody's or no text, each with its reason.
    """
    events, unlinked = [], {}
    for file in sorted(files_below(folder)):
        try:
            path = inside(folder, file)
            patient, time = rule.patient(file.replace(os.sep, "/"), None, None)
            code = rule.section.code or "NOTE//FILE"
            events.append(NoteEvent(patient, time, code, file, _text(path, settings.encoding)))
        except (NotLinked, UnreadableImage) as error:
            unlinked[file] = str(error)
    return events, unlinked


def _text(path: Path, encoding: str) -> str:
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise NotLinked("too long for a note")
        return path.read_text(encoding=encoding)
    except (OSError, UnicodeError):
        raise NotLinked("not a text of the encoding") from None
