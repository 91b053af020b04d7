"""Frames and slices in the order in which they lie in the patient, with their spacing.

Sources: DICOM PS3.3 C.7.6.2.1.1 (image plane), C.7.6.16.2.3 (plane position of a frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from clients.images.box import Grid
from clients.images.dicom_frame import opened
from clients.images.paths import inside
from clients.images.picture import UnreadableImage, View
from clients.images.selection import check_selected

SLICE_TAGS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "InstanceNumber",
    "SeriesInstanceUID",
)
FRAME_TAGS = (
    *SLICE_TAGS,
    "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
MOST_SLICES = 2**14
PARALLEL = 1e-3
"""How much the directions of two slices of one volume may differ."""


@dataclass(frozen=True)
class Slice:
    """One slice of a series.

    Attributes:
        file: that holds it.
        series: its SeriesInstanceUID.
        shape: rows, columns.
        position: in millimetres, (3,); None if the header has none.
        orientation: direction of the rows and of the columns, (6,); None likewise.
        spacing: between rows and between columns in millimetres; None likewise.
        number: the InstanceNumber; of a file of several, the frame, from 0.
    """

    file: Path
    series: str
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    number: int


@dataclass(frozen=True)
class Volume:
    """The slices of one series, from the patient's feet to the head where they are axial.

    Attributes:
        slices: in order along the normal of the planes; by InstanceNumber without positions.
        spacing: between slices (the median gap), rows and columns in millimetres; 0 is unknown.
        even: whether no gap between slices is off the median by over a tenth of it.
        placed: whether the slices say where they lie.
        upright: whether they lie over one another, as not those of a tilted gantry.
    """

    slices: tuple[Slice, ...]
    spacing: tuple[float, float, float]
    even: bool
    placed: bool = True
    upright: bool = True

    @property
    def grid(self) -> Grid:
        """Where the voxels lie; an oblique volume is taken along the nearest axes.

        Source: DICOM PS3.3 C.7.6.2.1.1 (x runs to the patient's left, y to the back, z to the
        head).
        """
        first = self.slices[0]
        shape = len(self.slices), *first.shape
        if not self.placed:
            return Grid(shape, self.spacing)
        from nibabel.orientations import io_orientation

        across, down = np.array(first.orientation, float).reshape(2, 3)
        directions = np.eye(4)
        directions[:3, :3] = np.stack([np.cross(across, down), down, across], axis=1)
        planes, rows, columns = io_orientation(directions).tolist()
        return Grid(
            shape,
            self.spacing,
            (2 - int(planes[0]), 2 - int(rows[0]), 2 - int(columns[0])),
            (planes[1] < 0, rows[1] < 0, columns[1] < 0),
        )


def middle_file(folder: Path, view: View) -> Path:
    """Return the file of a series folder that holds the wanted slice.

    Raises:
        UnreadableImage: if no file is selected, or those that are do not make one volume.
    """
    slices, refused = [], [UnreadableImage("no pixels")]
    for file in sorted(folder.iterdir())[:MOST_SLICES]:
        try:
            slices.append(read_slice(inside(folder, file.name), view))
        except UnreadableImage as error:
            refused.append(error)
    if not slices:
        raise refused[-1]
    volume = assemble(slices)
    return volume.slices[view.place(len(volume.slices))].file


def read_slice(file: Path, view: View) -> Slice:
    """Read where a file's slice lies; its pixels are not read.

    Raises:
        UnreadableImage: also if the site's rules do not mean the file.
    """
    with opened(file, [*SLICE_TAGS, *view.select, *view.exclude]) as source:
        return slice_of(file, source.header, view)


def slice_of(file: Path, header: Dataset, view: View) -> Slice:
    """Return where a slice lies by its header, of which ``SLICE_TAGS`` were read.

    Raises:
        UnreadableImage: if the site's rules do not mean the file.
    """
    check_selected(header, view)
    return Slice(
        file=file,
        series=str(header.get("SeriesInstanceUID") or ""),
        shape=(int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
        position=_numbers(header, "ImagePositionPatient", 3),
        orientation=_numbers(header, "ImageOrientationPatient", 6),
        spacing=_numbers(header, "PixelSpacing", 2),
        number=int(header.get("InstanceNumber") or 0),
    )


def assemble(slices: Sequence[Slice]) -> Volume:
    """Put the slices of one series into order.

    Raises:
        UnreadableImage: if they are of several series, shapes or directions.
    """
    first = slices[0]
    unknown = len(slices) > 1 and not first.series
    if unknown or any((s.series, s.shape) != (first.series, first.shape) for s in slices):
        raise UnreadableImage("the slices do not make one volume")
    within = first.spacing or (0.0, 0.0)
    if any(s.position is None or s.orientation is None for s in slices):
        ordered = sorted(slices, key=lambda s: (s.number, s.file.name))
        return Volume(tuple(ordered), (0.0, within[0], within[1]), False, placed=False)
    directions = np.array([s.orientation for s in slices], float)
    if np.abs(directions - directions[0]).max() > PARALLEL:
        raise UnreadableImage("the slices do not make one volume")
    places = along_normal([s.position for s in slices], first.orientation)
    order = np.argsort(places, kind="stable")
    gaps = np.diff(places[order])
    gap = float(np.median(gaps)) if len(gaps) else 0.0
    even = not len(gaps) or (gap > 0 and bool((np.abs(gaps - gap) <= 0.1 * gap).all()))
    normal = np.cross(*directions[0].reshape(2, 3))
    beside = np.array([s.position for s in slices], float) - places[:, None] * normal
    drift = np.linalg.norm(np.diff(beside[order], axis=0), axis=1)
    upright = bool((drift <= 0.1 * gap + 1e-3).all())
    spacing = gap, within[0], within[1]
    return Volume(tuple(slices[i] for i in order), spacing, even, upright=upright)


def of_frames(file: Path, header: Dataset, frames: int) -> Volume:
    """Put the frames of one file into order; those without positions keep theirs.

    Args:
        file: that holds them.
        header: of which ``FRAME_TAGS`` were read.
        frames: how many there are.

    Raises:
        UnreadableImage: if they are of several directions.
    """
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    groups = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    shape = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    slices = []
    for number in range(frames):
        own = [*groups[number : number + 1], *shared]
        slices.append(
            Slice(
                file=file,
                series="of one file",
                shape=shape,
                position=_of_groups(own, "PlanePositionSequence", "ImagePositionPatient", 3),
                orientation=_of_groups(
                    own, "PlaneOrientationSequence", "ImageOrientationPatient", 6
                ),
                spacing=_of_groups(own, "PixelMeasuresSequence", "PixelSpacing", 2)
                or _numbers(header, "PixelSpacing", 2),
                number=number,
            )
        )
    if all(one.position and one.orientation for one in slices):
        return assemble(slices)
    gap, within = header.get("SpacingBetweenSlices"), slices[0].spacing or (0.0, 0.0)
    spacing = abs(float(gap or 0)), within[0], within[1]
    return Volume(tuple(slices), spacing, even=True, placed=False)


def frame_order(header: Dataset, frames: int) -> list[int]:
    """Return the frames of one file along the patient; in the file's order without positions."""
    groups = list(header.get("PerFrameFunctionalGroupsSequence") or [])[:frames]
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    positions = [_nested(g, "PlanePositionSequence", "ImagePositionPatient") for g in groups]
    facing = [
        direction
        for group in [*shared, *groups]
        if (direction := _nested(group, "PlaneOrientationSequence", "ImageOrientationPatient"))
    ]
    if len(positions) != frames or not all(positions) or not facing:
        return list(range(frames))
    if np.abs(np.array(facing) - facing[0]).max() > PARALLEL:
        return list(range(frames))
    return [int(i) for i in np.argsort(along_normal(positions, facing[0]), kind="stable")]


def along_normal(
    positions: Sequence[Sequence[float] | None], orientation: Sequence[float] | None
) -> NDArray[np.float64]:
    """Return how far along the normal of their planes positions lie, in millimetres."""
    directions = np.array(orientation, float).reshape(2, 3)
    return np.asarray(np.array(positions, float) @ np.cross(*directions), np.float64)


def _of_groups(
    groups: Sequence[Dataset], sequence: str, tag: str, count: int
) -> tuple[float, ...] | None:
    """Return what the first of some functional groups that has a tag says."""
    found = [numbers for group in groups if (numbers := _nested(group, sequence, tag))]
    return found[0] if found and len(found[0]) == count else None


def _nested(group: Dataset, sequence: str, tag: str) -> tuple[float, ...] | None:
    items = group.get(sequence) or []
    return _numbers(items[0], tag, None) if items else None


def _numbers(header: Dataset, tag: str, count: int | None) -> tuple[float, ...] | None:
    value = header.get(tag)
    if value is None or (count is not None and len(value) != count):
        return None
    return tuple(float(part) for part in value)
