"""Whether a written copy is what the profile promises: read back, and looked at tag by tag.

Nothing here is shared with the code that makes the copy but the table of attributes, so that a
mistake there is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from clients.deidentify.profile import TEXTS, action_of

PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
KEPT_TIMES = ("TM",)
WRITTEN = {0x00100010, 0x00100020, 0x00120063, 0x00120064}
"""Pseudonyms and what was done: written by us, whatever the table says."""
TEXT = ("AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
IMAGE_TYPES = {0x00080008, 0x00089007}
PREAMBLE = 128


class LeftBehind(Exception):
    """The copy still holds something that it must not."""


def check_copy(copy: Path, original: Dataset, words: frozenset[str]) -> None:
    """Read a copy back and compare it with the original.

    Args:
        copy: the written file.
        original: as it was read.
        words: identifying words of the original, in lower case.

    Raises:
        LeftBehind: naming the attribute; the text is for developers and never leaves the site.
    """
    if copy.open("rb").read(PREAMBLE).strip(b"\0"):
        raise LeftBehind("the preamble")
    written = pydicom.dcmread(copy)
    if written.get("PatientIdentityRemoved") != "YES":
        raise LeftBehind("not declared")
    before = _values(original)
    for element in _elements(written):
        _check(element, before)
        if element.tag not in WRITTEN and _words(element) & words:
            raise LeftBehind(f"{element.keyword}: an identifying word")
    uids = {str(element.value) for element in written.file_meta if element.VR == "UI"}
    if str(original.get("SOPInstanceUID")) in uids:
        raise LeftBehind("the file's own UID")


def _check(element: DataElement, before: dict[int, set[str]]) -> None:
    tag, action = element.tag, action_of(element.tag)
    if tag.is_private:
        raise LeftBehind(f"{tag}: private")
    if action is None or tag in WRITTEN or element.VR == "SQ":
        return
    now = "" if element.value is None else str(element.value)
    dated = element.VR in ("DA", "DT")
    if dated and tag not in (0x00100030, 0x00100032):
        if now and now in before.get(tag, ()):
            raise LeftBehind(f"{element.keyword}: the same date")
        return
    if element.VR in KEPT_TIMES and tag != 0x00100032:
        return
    fine = {
        "remove": False,
        "empty": not now,
        "dummy": element.value == TEXTS.get(element.VR) or element.VR == "UI",
        "uid": now not in before.get(tag, ()) or now.startswith("1.2.840.10008."),
        "references": True,
    }
    if not fine[action]:
        raise LeftBehind(f"{element.keyword}: {action}")


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    return (element for element in dataset.iterall() if element.tag not in PIXELS)


def _values(dataset: Dataset) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for element in _elements(dataset):
        if element.VR != "SQ" and element.value:
            found.setdefault(element.tag, set()).add(str(element.value))
    return found


def _words(element: DataElement) -> set[str]:
    if element.tag.group == 0x0028 or element.tag in IMAGE_TYPES or element.VR not in TEXT:
        return set()
    return set(re.findall(r"\w+", str(element.value).lower()))
