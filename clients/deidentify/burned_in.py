"""Text in the pixels: which files are refused for it, and what is blanked in the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from clients.images.picture import UnreadableImage, View
from clients.images.selection import check_selected
from clients.images.settings import Region

BurnedIn = Literal[
    "says that text is burned in",
    "ultrasound without regions",
    "secondary capture or screen shot",
]
Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom; the latter two excluded."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PHOTOGRAPHED = ("OT", "SC", "DOC", "XC", "ES", "GM", "HC", "PLAN")
ULTRASOUND = ("US", "IVUS", "BDUS", "OPTENF")


class HoldsText(Exception):
    """A file that may show who it is of, and of which nobody has said where."""

    def __init__(self, reason: BurnedIn):
        self.reason: BurnedIn = reason
        super().__init__(reason)


def text_in_pixels(header: Dataset, regions: Sequence[Region]) -> tuple[list[Rectangle], bool]:
    """Return what is to be blanked, and whether it is the rest that is kept instead.

    A rule of the site file goes first: somebody has looked at files of that kind. Ultrasound
    keeps what its own header declares to be picture. Flags of the header are believed only when
    they say that there is text.

    Returns:
        Rectangles; whether these are kept and all else is blanked.

    Raises:
        HoldsText: if the file cannot be cleaned.
    """
    for rule in regions:
        try:
            check_selected(header, View(select=rule.select))
        except UnreadableImage:
            continue
        return list(rule.blank), False
    modality = str(header.get("Modality", "")).upper()
    if modality in ULTRASOUND:
        shown = [_rectangle(item) for item in header.get("SequenceOfUltrasoundRegions") or []]
        if not shown:
            raise HoldsText("ultrasound without regions")
        return shown, True
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        raise HoldsText("says that text is burned in")
    captured = str(header.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURE)
    if captured or modality in PHOTOGRAPHED or "ConversionType" in header:
        raise HoldsText("secondary capture or screen shot")
    kinds = {str(kind).upper() for kind in header.get("ImageType") or []}
    if any("SCREEN" in kind for kind in kinds):
        raise HoldsText("secondary capture or screen shot")
    return [], False


def _rectangle(item: Dataset) -> Rectangle:
    """Return a region of an ultrasound picture. Source: DICOM PS3.3 C.8.5.5.1.3."""
    left, top = int(item.RegionLocationMinX0), int(item.RegionLocationMinY0)
    return left, top, int(item.RegionLocationMaxX1) + 1, int(item.RegionLocationMaxY1) + 1


def blanked(
    frame: NDArray[Any], rectangles: Sequence[Rectangle], kept: bool, white_is_low: bool
) -> NDArray[Any]:
    """Return a frame with rectangles in black, or with all black but these.

    Args:
        frame: (rows, columns) or (rows, columns, 3).
        rectangles: in pixels; what lies outside the frame is ignored.
        kept: whether the rectangles are what stays.
        white_is_low: whether black is the frame's highest value.
    """
    chosen = np.zeros(frame.shape[:2], bool)
    for left, top, right, bottom in rectangles:
        chosen[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    black = frame.max() if white_is_low else frame.min() if frame.ndim == 2 else 0
    result = frame.copy()
    result[~chosen if kept else chosen] = black
    return result
