"""The site's image files: which cannot be read, which are the same, what their headers hold."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pydicom
from pydicom.dataset import Dataset

from clients.checks.finding import Finding, named, plural
from clients.checks.patterns import found_in, masked
from clients.checks.volumes import VolumeFacts, VolumeFiles, volume_findings
from clients.images.picture import View
from clients.images.png import SIGNATURE
from clients.images.settings import Format
from federation.randomness import derive_seed

KINDS: Mapping[Format, str] = {"dicom": "DICOM", "png": "PNG", "nifti": "NIfTI"}
MOST_FILES, MOST_BYTES = 20_000, 4_000_000_000
"""Of a folder with more, a part is opened, chosen by a fixed seed."""
IDENTIFYING = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientAddress",
    "PatientTelephoneNumbers", "PatientComments", "IssuerOfPatientID", "AccessionNumber",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "InstitutionName",
    "InstitutionAddress", "StudyDate", "StudyDescription", "SeriesDescription",
)  # fmt: skip
"""Attributes that the Basic Application Level Confidentiality Profile (DICOM PS3.15, E.1) removes,
replaces or empties; the usual ones."""
BURNED_IN = ("US", "SC", "OT", "XA", "ES")
"""Modalities whose pixels often show a name."""


@dataclass
class ImageFiles:
    """What stands in a folder of images.

    Attributes:
        kind: their format, as the site file says.
        files: how many there are.
        opened: how many were opened.
        unreadable: those that are not of that format, by name.
        modalities: files by modality.
        shapes: files by rows and columns.
        identifying: files in which an identifying attribute is filled, by attribute.
        private: files with private attributes.
        burned: files said to show, or likely to show, text in their pixels.
        same: names of files with the very same pixels, one list each.
        telling: names that hold what looks like an identifier, by kind.
        volumes: those that the opened files make; none of a folder of which a part was opened.
    """

    kind: Format
    files: int = 0
    opened: int = 0
    unreadable: list[str] = field(default_factory=list)
    modalities: Counter[str] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    identifying: Counter[str] = field(default_factory=Counter)
    private: int = 0
    burned: int = 0
    same: list[list[str]] = field(default_factory=list)
    telling: Counter[str] = field(default_factory=Counter)
    volumes: tuple[VolumeFacts, ...] = ()


def look_at_images(folder: Path, kind: Format, view: View) -> ImageFiles:
    """Open a folder's files, headers and pixels as stored; nothing is decoded.

    What cannot be decoded is found where a study is rehearsed.

    Args:
        folder: of the images.
        kind: how they are written.
        view: whose rules say which files volumes are made of.
    """
    found = ImageFiles(kind)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found.files = len(files)
    names = [str(path.relative_to(folder)) for path in files]
    for identifier, where in found_in(pa.array(names, pa.string())).items():
        if where.any():
            found.telling[identifier] += int(where.sum())
    pixels: dict[bytes, list[str]] = {}
    volumes = VolumeFiles(view)
    for path in _chosen(files):
        name = str(path.relative_to(folder))
        found.opened += 1
        try:
            if kind == "dicom":
                stored = _stored_dicom(path, found, volumes)
            else:
                stored = _stored(path, kind, volumes)
        except Exception:  # damaged headers raise anything at all, and may quote their values
            found.unreadable.append(name)
            continue
        if stored:
            pixels.setdefault(hashlib.sha256(stored).digest(), []).append(name)
    found.same = [names for names in pixels.values() if len(names) > 1]
    if found.opened == found.files:
        found.volumes = volumes.facts()
    return found


def image_findings(found: ImageFiles, field: str = "data.images.path") -> Iterator[Finding]:
    """Report what training would stumble on, and what the pixels or headers may tell."""
    if not found.files:
        yield Finding("warning", "images", field, "the folder is empty", "Put the images there.")
        return
    of = f"of {plural(found.opened, 'file')}" + (
        "" if found.opened == found.files else f" opened, of {found.files:,} in all"
    )
    if found.unreadable:
        yield Finding(
            "warning",
            "images",
            named(masked(found.unreadable)),
            f"{len(found.unreadable):,} {of} cannot be read as {KINDS[found.kind]}",
            "Export them again, or take them out of the folder.",
        )
    if found.same:
        groups = named(" = ".join(masked(names[:3])) for names in found.same)
        yield Finding(
            "warning",
            "images",
            groups,
            f"{sum(map(len, found.same)):,} {of} share their pixels with another "
            f"({plural(len(found.same), 'group')})",
            "If they are of different patients, one of them has the wrong image.",
        )
    yield from volume_findings(found.volumes)
    if found.burned:
        yield Finding(
            "warning",
            "identifiers",
            "BurnedInAnnotation, Modality",
            f"{found.burned:,} {of} say that text is burned into their pixels, or are of a kind "
            f"where that is usual ({', '.join(BURNED_IN)})",
            "Look at some; `wardround site deidentify` refuses or masks such images.",
        )
    filled = [f"{tag} {count:,}" for tag, count in found.identifying.most_common()]
    if filled or found.private:
        private = [f"private attributes {found.private:,}"] if found.private else []
        yield Finding(
            "note",
            "identifiers",
            "DICOM headers",
            f"identifying attributes are filled, {of}: {named([*filled, *private], 8)}",
            "Training reads the pixels and what says how to show them, nothing else. For copies "
            "that others see: `wardround site deidentify`.",
        )
    if found.telling:
        told = named(f"{kind} {count:,}" for kind, count in found.telling.most_common())
        yield Finding(
            "note",
            "identifiers",
            "names of image files",
            f"names or folders hold what looks like identifiers: {told}",
            "They stay at the site, also in its log. Name the files anew if others see the log.",
        )


def _chosen(files: Sequence[Path]) -> Sequence[Path]:
    total = sum(path.stat().st_size for path in files)
    share = min(1.0, MOST_FILES / max(len(files), 1), MOST_BYTES / max(total, 1))
    if share == 1.0:
        return files
    rng = random.Random(derive_seed(0, "site check", "images"))
    return sorted(rng.sample(list(files), max(int(share * len(files)), 1)))


def _stored_dicom(path: Path, found: ImageFiles, volumes: VolumeFiles) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        header = pydicom.dcmread(path)
        _look_at(header, found)
        volumes.add_dicom(path, header)
        return bytes(header.get("PixelData") or b"")


def _stored(path: Path, kind: Format, volumes: VolumeFiles) -> bytes:
    if kind == "nifti":
        volumes.add_nifti(path)
    content = path.read_bytes()
    if kind == "png" and not content.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    return content


def _look_at(header: Dataset, found: ImageFiles) -> None:
    modality = str(header.get("Modality") or "unknown")
    found.modalities[modality if modality.isalpha() and len(modality) <= 16 else "unknown"] += 1
    rows, columns = header.get("Rows"), header.get("Columns")
    if isinstance(rows, int) and isinstance(columns, int):
        found.shapes[rows, columns] += 1
    for tag in IDENTIFYING:
        if str(header.get(tag) or "").strip():
            found.identifying[tag] += 1
    found.private += any(element.tag.is_private for element in header)
    burned = str(header.get("BurnedInAnnotation") or "").upper()
    found.burned += burned == "YES" or (burned != "NO" and modality in BURNED_IN)
