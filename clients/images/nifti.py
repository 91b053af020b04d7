"""NIfTI volumes: a picture of one axial slice, or the whole of them, in [0, 1].

A volume is turned to the patient's axes by its affine. Contrast runs from the 0.5 to the 99.5
percentile: NIfTI holds no window. Of further dimensions (time) the first is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.images.box import Grid, MeasuredBox
from clients.images.picture import UnreadableImage, View, between_percentiles, check_size


def read_nifti(path: Path, view: View) -> NDArray[np.float32]:
    """Read one axial slice of a NIfTI-1 or -2 volume, as a radiologist looks at it.

    The picture has the patient's right on its left and the front on top. ``view.slice`` runs from
    the feet to the head. Only that slice is read.

    Returns:
        (rows, columns) float32 in [0, 1].

    Raises:
        UnreadableImage: with the reason.
    """
    from nibabel.orientations import apply_orientation

    with _opened(path) as (image, shape):
        turn = _turn(image)
        depth_axis = int(np.flatnonzero(turn[:, 0] == 2)[0])
        depth = shape[depth_axis]
        check_size(*(side for axis, side in enumerate(shape) if axis != depth_axis))
        place = view.place(depth)
        wanted = place if turn[depth_axis, 1] > 0 else depth - 1 - place
        index: list[slice | int] = [slice(None)] * len(image.shape)
        if depth_axis < len(index):
            index[depth_axis] = slice(wanted, wanted + 1)
        index[3:] = [0] * len(index[3:])
        values = np.asarray(image.dataobj[tuple(index)], np.float64).reshape(
            [1 if axis == depth_axis else side for axis, side in enumerate(shape)]
        )
        turned = apply_orientation(values, turn)[:, :, 0].T
        _check_finite(turned)
        return np.asarray(np.clip(between_percentiles(turned), 0, 1), np.float32)


def read_nifti_volume(
    path: Path, shape: Sequence[int], spacing_mm: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Read a whole NIfTI-1 or -2 volume, plane by plane, and fit it into a box.

    Args:
        path: of the file.
        shape: (channels, planes, size, size).
        spacing_mm: as `clients.images.box.Box`.

    Returns:
        float32 of that shape, in [0, 1].

    Raises:
        UnreadableImage: with the reason.
    """
    from nibabel.affines import voxel_sizes

    with _opened(path) as (image, (rows, columns, depth)):
        if depth == 1:
            raise UnreadableImage("a single picture, not a volume")
        check_size(rows, columns)
        # The last axis is the one along which a file is read without going back.
        stored = 2, 0, 1
        turn, sizes = _turn(image), voxel_sizes(image.affine)
        grid = Grid(
            (depth, rows, columns),
            tuple(float(sizes[axis]) for axis in stored),  # type: ignore[arg-type]
            tuple(2 - int(turn[axis, 0]) for axis in stored),  # type: ignore[arg-type]
            tuple(bool(turn[axis, 1] < 0) for axis in stored),  # type: ignore[arg-type]
        )
        box = MeasuredBox(grid, shape, spacing_mm)
        others = (0,) * (len(image.shape) - 3)
        for place in range(depth):
            values = np.asarray(image.dataobj[(slice(None), slice(None), place, *others)], float)
            _check_finite(values)
            box.add(place, values)
        return box.values()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, tuple[int, int, int]]]:
    """Open a file; yield the image and its first three sides. Any error becomes a refusal."""
    import nibabel

    try:
        if path.exists() and not path.is_file():
            raise UnreadableImage("not a NIfTI file")
        # Kept open: a compressed file that is opened for each plane is read from its start.
        image = nibabel.load(path, keep_file_open=True)
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
    first, second, *deeper = shape
    try:
        yield image, (first, second, (deeper or [1])[0])
    except UnreadableImage:
        raise
    except Exception:  # cut off, or an affine that is none
        raise UnreadableImage("the pixels cannot be decoded") from None


def _turn(image: Any) -> NDArray[np.float64]:
    """Return how the stored axes turn to left, posterior, superior, (axes, 2)."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS"))
    return np.asarray(turn, np.float64)


def _check_finite(values: NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        raise UnreadableImage("the pixels cannot be decoded")
