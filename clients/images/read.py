"""One image of a site to a square picture, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.images.dicom import read_dicom
from clients.images.nifti import read_nifti
from clients.images.paths import inside
from clients.images.picture import Refusal, UnreadableImage, View, resize
from clients.images.png import read_png
from clients.images.settings import Format


def read_image(
    path: Path, size: int, view: View | None = None, kind: Format = "dicom"
) -> NDArray[np.float32]:
    """Read one image and fit it into a square.

    Returns:
        (size, size) float32 in [0, 1].

    Raises:
        UnreadableImage: with the reason.
    """
    view = view or View()
    if kind == "png":
        return resize(read_png(path), size)
    return resize(read_nifti(path, view) if kind == "nifti" else read_dicom(path, view), size)


def picture_or_reason(
    file: str, folder: Path, size: int, view: View, kind: Format
) -> NDArray[np.float32] | Refusal:
    """Read the image that an event names, or return why it cannot be used."""
    try:
        return read_image(inside(folder, file), size, view, kind)
    except UnreadableImage as error:
        return error.reason
