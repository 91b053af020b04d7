"""What the site file ties to patients, as events beside those of the export."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clients.linking.images import link_images
from clients.linking.notes import link_notes
from clients.linking.rules import load_rule
from clients.site import Site
from clients.sources.schema import EVENT_COLUMNS

logger = logging.getLogger("wardround.site")

NOBODY = "not a patient of this site's labels"
Found = tuple[str, str, datetime | None, str, str]
"""File, patient, time, code and text of one event."""


def linked_events(
    site: Site, subject_of: Callable[[str], int | None], among: NDArray[np.int64]
) -> pa.Table:
    """Return the events of image and note files that no event of the export names.

    What is nobody's is counted in the site's log and listed, with its reason, in
    ``unlinked-images.csv`` and ``unlinked-notes.csv`` in the site's state folder.

    Args:
        site: its ``[data.images.link]`` and ``[data.notes.link]``, where it has them.
        subject_of: from the name of a patient to the subject id of the events; None for no name.
        among: subject ids of the patients who have a label.

    Returns:
        Rows of ``EVENT_COLUMNS``.

    Raises:
        UserError: if a table that a link names cannot be read.
    """
    data, folder = site.settings.data, site.file.parent
    kept: list[Found] = []
    if data.images is not None and data.images.link is not None and site.images is not None:
        rule = load_rule(data.images.link, folder)
        images, unlinked = link_images(data.images, site.images, rule)
        found = [(e.file, e.patient, e.time, e.code, e.file) for e in images]
        kept += _known(site, "images", found, unlinked, subject_of, among)
    if data.notes is not None and data.notes.link is not None and site.notes is not None:
        rule = load_rule(data.notes.link, folder)
        notes, unlinked = link_notes(data.notes, site.notes, rule)
        found = [(e.file, e.patient, e.time, e.code, e.text) for e in notes]
        kept += _known(site, "notes", found, unlinked, subject_of, among)
    columns = {
        "subject_id": [subject_of(patient) for _, patient, *_ in kept],
        "time": [time for _, _, time, *_ in kept],
        "code": [code for *_, code, _ in kept],
        "numeric_value": [None] * len(kept),
        "text_value": [text for *_, text in kept],
    }
    return pa.table({name: pa.array(columns[name], kind) for name, kind in EVENT_COLUMNS.items()})


def _known(
    site: Site,
    what: str,
    found: list[Found],
    unlinked: Mapping[str, str],
    subject_of: Callable[[str], int | None],
    among: NDArray[np.int64],
) -> list[Found]:
    """Return the events of patients who have a label, and list the others' files."""
    known = set(among.tolist())
    kept = [event for event in found if subject_of(event[1]) in known]
    strangers = {event[0]: NOBODY for event in found if subject_of(event[1]) not in known}
    _list(site.state / f"unlinked-{what}.csv", {**unlinked, **strangers})
    if unlinked or strangers:
        count = len(unlinked) + len(strangers)
        logger.warning("%d files of %s are not linked to a patient; see the list", count, what)
    return kept


def _list(target: Path, unlinked: Mapping[str, str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "reason"])
        writer.writerows(sorted(unlinked.items()))
    draft.replace(target)
