"""What every image format shares: how it is refused, which view is wanted, how it is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Refusal = Literal[
    "the file is missing",
    "not a DICOM file",
    "not a PNG file",
    "not a NIfTI file",
    "no pixels",
    "too large to be decoded",
    "a transfer syntax that is not read",
    "the pixels cannot be decoded",
    "the compressed pixels contradict the header",
    "the number of frames contradicts the pixels",
    "the decoder crashed",
    "the slices do not make one volume",
    "a single picture, not a volume",
    "slices are missing or unevenly spaced",
    "the slices do not say where they lie",
    "not selected by the site's rules",
    "the path leads out of the data folder",
    "not a file name",
]
"""Why an image cannot be used; each is a ``Reason`` of federation/bodies.py after ``image: ``."""

MOST_PIXELS = 2**26
"""Of one frame, over its samples: 8192 x 8192. The largest detectors in use have half of it."""


class UnreadableImage(Exception):
    """A file that cannot be used; the reason is a fixed phrase without any value of the file."""

    def __init__(self, reason: Refusal):
        self.reason: Refusal = reason
        super().__init__(reason)


@dataclass(frozen=True)
class View:
    """Which picture of a file is wanted: the part of a site file's ``[data.images]`` on that.

    Attributes:
        slice: of a volume or of several frames: 0 the first, 1 the last, along the patient.
        ct_window: centre and width in Hounsfield units, for CT; None takes the file's own.
        select: header keyword to the patterns of which one must fit.
        exclude: header keyword to the patterns of which none may fit.
    """

    slice: float = 0.5
    ct_window: tuple[float, float] | None = None
    select: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclude: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def place(self, number: int) -> int:
        """Return which of a number of slices is wanted.

        >>> View().place(1), View().place(10), View(slice=1.0).place(10)
        (0, 5, 9)
        """
        return min(int(self.slice * number), number - 1)


def check_size(*sides: int) -> None:
    """Refuse what would take too much memory, before any is taken.

    Raises:
        UnreadableImage: also for a side that is not positive.
    """
    if any(side < 1 for side in sides):
        raise UnreadableImage("the pixels cannot be decoded")
    if np.prod([float(side) for side in sides]) > MOST_PIXELS:
        raise UnreadableImage("too large to be decoded")


def between_percentiles(
    values: NDArray[np.float64], shown: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Scale to [0, 1] from the 0.5 to the 99.5 percentile: few pixels do not set the contrast.

    Args:
        values: (rows, columns).
        shown: (rows, columns); the percentiles are of these pixels.
    """
    among = values if shown is None or not shown.any() else values[shown]
    low, high = np.percentile(among, [0.5, 99.5])
    return np.asarray((values - low) / max(high - low, 1e-6), np.float64)


def in_channels(picture: NDArray[np.float32], channels: int) -> list[NDArray[np.float32]]:
    """Return the channels that are wanted of a picture, (rows, columns) each.

    One is the brightness, three are red, green and blue, alike where the picture is grey.

    Args:
        picture: (rows, columns) or (rows, columns, 3) red, green, blue.
        channels: 1 or 3.

    Source: ITU-R BT.601 (brightness).
    """
    if picture.ndim == 2:
        return [picture] * channels
    if channels == 1:
        weights = np.array([0.299, 0.587, 0.114], np.float32)
        return [np.asarray(picture @ weights, np.float32)]
    return list(np.moveaxis(picture, -1, 0))


def resize(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Fit an image into a square by averaging areas, padding the shorter side with black."""
    from PIL import Image

    if image.shape == (size, size):
        return image
    height, width = image.shape
    ratio = size / max(height, width)
    rows, columns = max(1, round(height * ratio)), max(1, round(width * ratio))
    whole = Image.fromarray(np.ascontiguousarray(image))  # float32 stays float32
    fitted = np.asarray(whole.resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
    square = np.zeros((size, size), np.float32)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = np.clip(fitted, 0, 1)
    return square
