"""The image files of a site to events: one for each image, one for each volume."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset

from clients.images.dicom_frame import opened
from clients.images.paths import files_below, inside
from clients.images.picture import Refusal, UnreadableImage, View
from clients.images.pool import all_cores, spread
from clients.images.settings import ImagesSection
from clients.images.volume import SLICE_TAGS, Slice, Volume, assemble, slice_of
from clients.linking.rules import NotLinked, Rule

logger = logging.getLogger("wardround.site")

VOLUMES = ("CT", "MR", "PT")
"""Modalities whose series are volumes; in a series of another, each file is an image."""
TIMES = (
    ("AcquisitionDateTime", None),
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
FEW = 1000
"""Files whose headers are read without starting other processes."""


@dataclass(frozen=True)
class ImageEvent:
    """An image that was tied to a patient.

    Attributes:
        patient: as the events call them.
        time: None if it is always known.
        code: of the event.
        file: relative to the image folder.
    """

    patient: str
    time: datetime | None
    code: str
    file: str


@dataclass(frozen=True)
class _Scanned:
    """What a DICOM header tells of a file's place, time and kind."""

    tag: str
    time: datetime | None
    modality: str
    slice: Slice


def link_images(
    settings: ImagesSection, folder: Path, rule: Rule
) -> tuple[list[ImageEvent], dict[str, str]]:
    """Tie the files below a folder to patients.

    Returns:
        Events; and the files that are nobody's, each with its reason, also those that cannot be
        read or that the site's rules do not select.
    """
    files = sorted(files_below(folder))
    if settings.format == "dicom":
        return _linked_dicom(settings, folder, rule, files)
    suffixes = (".png",) if settings.format == "png" else (".nii", ".nii.gz")
    events, unlinked = [], {}
    for file in files:
        if not file.lower().endswith(suffixes):
            continue
        try:
            inside(folder, file)
            patient, time = rule.patient(file.replace(os.sep, "/"), None, None)
            code = rule.section.code or f"IMAGE//{settings.format.upper()}"
            events.append(ImageEvent(patient, time, code, file))
        except (NotLinked, UnreadableImage) as error:
            unlinked[file] = str(error)
    return events, unlinked


def _linked_dicom(
    settings: ImagesSection, folder: Path, rule: Rule, files: Sequence[str]
) -> tuple[list[ImageEvent], dict[str, str]]:
    tag = rule.section.tag if rule.section.by == "tag" else None
    work = partial(_scan, folder=folder, view=settings.view, tag=tag)
    events: list[ImageEvent] = []
    unlinked: dict[str, str] = {}
    series: dict[tuple[str, str], list[tuple[ImageEvent, Slice]]] = {}
    scans = spread(work, files, all_cores() if len(files) > FEW else 0)
    for place, found in sorted(scans, key=lambda scan: scan[0]):
        file = files[place]
        if not isinstance(found, _Scanned):
            unlinked[file] = found or "the decoder crashed"
            continue
        try:
            patient, time = rule.patient(file.replace(os.sep, "/"), found.tag, found.time)
        except NotLinked as error:
            unlinked[file] = error.reason
            continue
        event = ImageEvent(patient, time, rule.section.code or f"IMAGE//{found.modality}", file)
        if found.modality in VOLUMES and found.slice.series:
            series.setdefault((patient, found.slice.series), []).append((event, found.slice))
        else:
            events.append(event)
    uneven = 0
    for members in series.values():
        try:
            volume = assemble([part for _, part in members])
        except UnreadableImage as error:
            unlinked |= {event.file: error.reason for event, _ in members}
            continue
        uneven += not volume.even
        events.append(_of_volume(volume, members, settings.view))
    if uneven:
        logger.warning("%d volumes lack slices, or do not say where their slices lie", uneven)
    return events, unlinked


def _of_volume(
    volume: Volume, members: Sequence[tuple[ImageEvent, Slice]], view: View
) -> ImageEvent:
    """Return the event of the wanted slice of a series, as of the series' last slice."""
    wanted = volume.slices[view.place(len(volume.slices))].file
    times = [event.time for event, _ in members if event.time is not None]
    (chosen,) = (event for event, part in members if part.file == wanted)
    return ImageEvent(chosen.patient, max(times) if times else None, chosen.code, chosen.file)


def _scan(file: str, folder: Path, view: View, tag: str | None) -> _Scanned | Refusal:
    """Read where, when and of whom a file is; its pixels are not read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        try:
            path = inside(folder, file)
            asked = [*SLICE_TAGS, *view.select, *view.exclude, "Modality"]
            dated = [name for names in TIMES for name in names if name]
            with opened(path, [*asked, *dated, *([tag] if tag else [])]) as source:
                if not source.header.get("Rows"):
                    return "no pixels"
                modality = str(source.header.get("Modality", "")).upper()
                return _Scanned(
                    tag=str(source.header.get(tag) or "") if tag else "",
                    time=_time(source.header),
                    modality=modality if re.fullmatch(r"[A-Z0-9]{1,16}", modality) else "OT",
                    slice=slice_of(path, source.header, view),
                )
        except UnreadableImage as error:
            return error.reason
        except Exception:  # damaged headers raise anything at all
            return "not a DICOM file"


def _time(header: Dataset) -> datetime | None:
    """Return when an image was taken, as closely as the header says; None if it does not.

    Where only the day is known it is the day's end: an image is never known too early.
    """
    for day, time in TIMES:
        text = str(header.get(day) or "") + (str(header.get(time) or "") if time else "")
        if (fit := re.match(r"(\d{8})(\d{6}|\d{4}|\d{2})?", text)) is None:
            continue
        clock = fit[2] or "235959"
        try:
            return datetime.strptime(fit[1] + clock, "%Y%m%d%H%M%S"[: 6 + len(clock)])
        except ValueError:
            continue
    return None
