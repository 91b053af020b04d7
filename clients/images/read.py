"""One image of a site to what a study takes of a patient, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.images.dicom import read_dicom
from clients.images.dicom_volume import read_dicom_volume
from clients.images.nifti import read_nifti, read_nifti_volume
from clients.images.paths import inside
from clients.images.picture import Refusal, UnreadableImage, View, in_channels, resize
from clients.images.png import read_png
from clients.images.settings import Format


def read_image(
    path: Path,
    shape: tuple[int, ...],
    view: View | None = None,
    kind: Format = "dicom",
    spacing_mm: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Read one image and fit it into a square, or a volume into a box.

    Args:
        path: of the image.
        shape: (channels, size, size) or (channels, planes, size, size), as ``ImageSection.shape``.
        view: which picture of a file is wanted.
        kind: how the file is written.
        spacing_mm: of a volume's planes and pixels; None fits the whole of it in.

    Returns:
        float32 of that shape, in [0, 1].

    Raises:
        UnreadableImage: with the reason.
    """
    view = view or View()
    if len(shape) > 3:
        if kind == "png":
            raise UnreadableImage("a single picture, not a volume")
        if kind == "nifti":
            return read_nifti_volume(path, shape, spacing_mm)
        return read_dicom_volume(path, shape, view, spacing_mm)
    if kind == "png":
        picture = read_png(path)
    else:
        picture = read_nifti(path, view) if kind == "nifti" else read_dicom(path, view)
    channels, size = shape[0], shape[-1]
    return np.stack([resize(channel, size) for channel in in_channels(picture, channels)])


def picture_or_reason(
    file: str,
    folder: Path,
    shape: tuple[int, ...],
    view: View,
    kind: Format,
    spacing_mm: tuple[float, float] | None = None,
) -> NDArray[np.float32] | Refusal:
    """Read the image that an event names, or return why it cannot be used."""
    try:
        return read_image(inside(folder, file), shape, view, kind, spacing_mm)
    except UnreadableImage as error:
        return error.reason
