"""A site's images and notes to a folder of copies, and a report that stays at the site."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clients.deidentify.image import Copied, deidentify_image
from clients.deidentify.notes import without_identifiers
from clients.deidentify.secret import Secret
from clients.images.paths import files_below
from clients.images.pool import all_cores, spread
from clients.linking.notes import link_notes
from clients.linking.rules import load_rule
from clients.outbound import CODE
from clients.site import Site
from clients.sources.registry import site_events
from clients.sources.subjects import SubjectIds
from federation.errors import UserError

REPORT = "deidentified.json"
NOTES = pa.schema(
    {
        "subject_id": pa.int64(),
        "time": pa.timestamp("us"),
        "code": pa.string(),
        "text_value": pa.string(),
    }
)
Note = tuple[str, datetime | None, str, str]
"""Patient, time, code and text."""


@dataclass
class Report:
    """What was done, for the site alone.

    Attributes:
        copied: image files.
        blanked: of these, how many had pixels blanked.
        attributes: what was done in their headers, counted by attribute.
        refused: image files without a copy, by reason.
        notes: copied, and what was replaced in them by kind.
        files: each refused file, relative to the image folder, with its reason.
    """

    copied: int = 0
    blanked: int = 0
    attributes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    files: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        """Return everything but the names of files."""
        return {
            "images": self.copied,
            "images with pixels blanked": self.blanked,
            "attributes": dict(self.attributes),
            "images refused": dict(self.refused),
            "notes": dict(self.notes),
        }


def deidentify_site(site: Site, out: Path, progress: Callable[[str], None]) -> Report:
    """Copy a site's DICOM files and notes without identifiers.

    The report, with the names of the files that were refused, is written to the site's state
    folder: file names may tell of patients.

    Args:
        site: its ``[data.images]`` of format ``dicom`` and its ``NOTE//`` events are copied.
        out: a folder that is not there yet, or is empty.
        progress: is told what is being done.

    Raises:
        UserError: if there is nothing to copy, or nowhere to write.
    """
    images = site.settings.data.images
    if site.settings.data.notes is None and (images is None or images.format != "dicom"):
        raise UserError(
            site.file,
            "there is nothing to de-identify: neither DICOM images nor notes",
            field="data",
            remedy='Give [data.images] with format = "dicom", or [data.notes].',
        )
    _make_empty(out, site)
    secret, report = Secret(site.patient_key()), Report()
    known: dict[str, set[str]] = {}
    if site.images is not None and images is not None and images.format == "dicom":
        files = sorted(files_below(site.images))
        progress(f"{len(files)} files in {site.images}")
        work = partial(
            deidentify_image,
            folder=site.images,
            out=out / "dicom",
            secret=secret,
            regions=images.regions,
        )
        for place, copied in spread(work, files, all_cores()):
            _count(files[place], copied, report, known)
    if site.settings.data.notes is not None:
        _copy_notes(site, out / "notes.parquet", secret, known, report)
    _write_report(site, report)
    return report


def _count(file: str, copied: Copied | None, report: Report, known: dict[str, set[str]]) -> None:
    reason = "the decoder crashed" if copied is None else copied.refused
    if copied is None or reason is not None:
        report.refused[str(reason)] += 1
        report.files[file] = str(reason)
        return
    report.copied += 1
    report.blanked += copied.blanked
    report.attributes.update({str(name): count for name, count in copied.done.items()})
    known.setdefault(copied.patient, set()).update(copied.names)


def _copy_notes(
    site: Site, target: Path, secret: Secret, known: Mapping[str, set[str]], report: Report
) -> None:
    """Copy the notes; a patient's names are known where an image has the same patient."""
    with pq.ParquetWriter(target, NOTES) as writer:
        for notes in _notes(site, report):
            rows = []
            for patient, time, code, text in notes:
                cleaned, done = without_identifiers(text, known.get(patient, set()) | {patient})
                report.notes.update({str(kind): count for kind, count in done.items()})
                report.notes["copied"] += 1
                moved = time and time - secret.shift(patient)
                told = code if CODE.fullmatch(code) else "NOTE//OTHER"
                values = (secret.subject(patient), moved, told, cleaned)
                rows.append(dict(zip(NOTES.names, values, strict=True)))
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=NOTES))


def _notes(site: Site, report: Report) -> Iterator[list[Note]]:
    """Yield the notes of the site, in batches."""
    settings = site.settings.data.notes
    if settings is not None and settings.link is not None and site.notes is not None:
        rule = load_rule(settings.link, site.file.parent)
        linked, unlinked = link_notes(settings, site.notes, rule)
        report.refused.update(f"note: {reason}" for reason in unlinked.values())
        report.files.update({f"note: {file}": reason for file, reason in unlinked.items()})
        yield [(note.patient, note.time, note.code, note.text) for note in linked]
    subjects = SubjectIds(site.patient_key)
    for batch in site_events(site, subjects):
        codes = batch.column("code").cast(pa.string())
        chosen = pc.and_(pc.starts_with(codes, "NOTE//"), batch["text_value"].is_valid())
        if (rows := batch.filter(chosen)).num_rows:
            ids, *others = (rows.column(name).to_pylist() for name in NOTES.names)
            yield list(zip(map(subjects.name_of, ids), *others, strict=True))


def _make_empty(out: Path, site: Site) -> None:
    sources = [p.resolve() for p in (site.images, site.events, site.state) if p is not None]
    if any(out.resolve().is_relative_to(source) for source in sources):
        raise UserError(out, "lies in the site's own data", remedy="Give --out another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = any(out.iterdir())
    except OSError as error:
        raise UserError(out, f"cannot be made: {error.strerror}") from None
    if held:
        raise UserError(out, "holds files already", remedy="Give --out a new folder.")


def _write_report(site: Site, report: Report) -> None:
    target = site.state / REPORT
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump({**report.counts(), "files": report.files}, file, indent=1)
