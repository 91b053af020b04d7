"""One image of a site to what a study takes of a patient, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.images.dicom import read_dicom
from clients.images.nifti import read_nifti
from clients.images.paths import inside
from clients.images.picture import Refusal, UnreadableImage, View, in_channels, resize
from clients.images.png import read_png
from clients.images.settings import Format


def read_image(
    path: Path, shape: tuple[int, ...], view: View | None = None, kind: Format = "dicom"
) -> NDArray[np.float32]:
    """Read one image and fit it into a square.

    Args:
        path: of the image.
        shape: (channels, size, size), as ``ImageSection.shape``.
        view: which picture of a file is wanted.
        kind: how the file is written.

    Returns:
        float32 of that shape, in [0, 1].

    Raises:
        UnreadableImage: with the reason.
    """
    view = view or View()
    if kind == "png":
        picture = read_png(path)
    else:
        picture = read_nifti(path, view) if kind == "nifti" else read_dicom(path, view)
    channels, size = shape[0], shape[-1]
    return np.stack([resize(channel, size) for channel in in_channels(picture, channels)])


def picture_or_reason(
    file: str, folder: Path, shape: tuple[int, ...], view: View, kind: Format
) -> NDArray[np.float32] | Refusal:
    """Read the image that an event names, or return why it cannot be used."""
    try:
        return read_image(inside(folder, file), shape, view, kind)
    except UnreadableImage as error:
        return error.reason
