"""NIfTI volumes to a picture of one axial slice in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.images.picture import UnreadableImage, View, between_percentiles, check_size


def read_nifti(path: Path, view: View) -> NDArray[np.float32]:
    """Read one axial slice of a NIfTI-1 or -2 volume, as a radiologist looks at it.

    The volume is turned to the patient's axes by its affine: the picture has the patient's right
    on its left and the front on top. ``view.slice`` runs from the feet to the head; of further
    dimensions (time) the first is taken. Only that slice is read. Contrast runs from the 0.5 to
    the 99.5 percentile: NIfTI holds no window.

    Returns:
        (rows, columns) float32 in [0, 1].

    Raises:
        UnreadableImage: with the reason.
    """
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    try:
        if path.exists() and not path.is_file():
            raise UnreadableImage("not a NIfTI file")
        image = nibabel.load(path)
    except FileNotFoundError:
        raise UnreadableImage("the file is missing") from None
    except UnreadableImage:
        raise
    except Exception:
        raise UnreadableImage("not a NIfTI file") from None
    if not isinstance(image, nibabel.Nifti1Image):  # a NIfTI-2 image is one too
        raise UnreadableImage("not a NIfTI file")
    shape = image.shape
    if len(shape) < 2 or any(side < 1 for side in shape) or image.header.get_data_dtype().names:
        raise UnreadableImage("the pixels cannot be decoded")
    shape = (*shape, 1)[: max(3, len(shape))]
    try:
        # To left, posterior, superior: what comes after is the rows and columns of a picture.
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS"))
        depth_axis = int(np.flatnonzero(turn[:, 0] == 2)[0])
        depth = shape[depth_axis]
        check_size(*(side for axis, side in enumerate(shape[:3]) if axis != depth_axis))
        place = view.place(depth)
        wanted = place if turn[depth_axis, 1] > 0 else depth - 1 - place
        index: list[slice | int] = [slice(None)] * len(image.shape)
        if depth_axis < len(index):
            index[depth_axis] = slice(wanted, wanted + 1)
        index[3:] = [0] * len(index[3:])
        values = np.asarray(image.dataobj[tuple(index)], np.float64).reshape(
            [1 if axis == depth_axis else side for axis, side in enumerate(shape[:3])]
        )
        turned = nibabel.orientations.apply_orientation(values, turn)[:, :, 0].T
    except UnreadableImage:
        raise
    except Exception:  # cut off, or an affine that is none
        raise UnreadableImage("the pixels cannot be decoded") from None
    if not np.isfinite(turned).all():
        raise UnreadableImage("the pixels cannot be decoded")
    return np.asarray(np.clip(between_percentiles(turned), 0, 1), np.float32)
