"""A volume fitted into a box of another size, plane by plane, in the patient's order.

Whatever way the planes were taken, the box has the axial ones: from the feet to the head, in each
the front on top and the patient's right on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clients.images.picture import UnreadableImage

Floats = NDArray[np.float32]
MOST_VOXELS = 2**31
"""Of one volume as it is stored: 1,300 slices of 1280 x 1280. It is read plane by plane."""
MOST_COUNTED = 2**21
"""Values that a volume's percentiles rest on."""


@dataclass(frozen=True)
class Grid:
    """Where the stored voxels of a volume lie in the patient.

    Attributes:
        shape: planes, and rows and columns of each, as they are stored.
        spacing: between planes, rows and columns in millimetres; 0 is unknown.
        axes: of planes, rows and columns: which axis of the box each runs along.
        reversed: of each, whether it runs from the head, the back or the patient's left.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    axes: tuple[int, int, int] = (0, 1, 2)
    reversed: tuple[bool, bool, bool] = (False, False, False)


class Box:
    """Gathers a volume's planes into (planes, size, size).

    Every value is a mean of the stored ones around it, those nearer weighing more; what lies
    beyond the volume is 0. Only one stored plane need be in memory.

    Args:
        grid: of the stored volume.
        shape: (channels, planes, size, size).
        spacing_mm: of the box, between planes and within one, the middles of both together; None
            fits the whole volume in: within a plane with its proportions, and in as many planes as
            there are.

    Raises:
        UnreadableImage: if the volume is too large, or its spacing is needed and not known.
    """

    def __init__(
        self, grid: Grid, shape: Sequence[int], spacing_mm: tuple[float, float] | None = None
    ):
        check_voxels(*grid.shape)
        if spacing_mm is not None and not all(grid.spacing):
            raise UnreadableImage("the slices do not say where they lie")
        wanted = shape[1:]
        steps = [spacing or 1.0 for spacing in grid.spacing]
        extents = dict(
            zip(grid.axes, [n * s for n, s in zip(grid.shape, steps, strict=True)], strict=True)
        )
        within = max(extents[1], extents[2]) / wanted[1]
        pitches = spacing_mm or (extents[0] / wanted[0], within)
        self._means = [
            _means(count, step, wanted[axis], pitches[min(axis, 1)], turned)
            for count, step, axis, turned in zip(
                grid.shape, steps, grid.axes, grid.reversed, strict=True
            )
        ]
        self._axes = grid.axes
        self._found = np.zeros([shape[0], *(wanted[axis] for axis in grid.axes)], np.float32)

    def add(self, place: int, channels: Sequence[Floats]) -> None:
        """Add one stored plane, (rows, columns) for each channel."""
        along, down, across = self._means
        for into, channel in zip(self._found, channels, strict=True):
            fitted = (across @ (down @ channel).T).T
            column = along[:, [place]].tocoo()
            for at, weight in zip(column.row.tolist(), column.data.tolist(), strict=True):
                into[at] += np.float32(weight) * fitted

    @property
    def values(self) -> Floats:
        """What was gathered, (channels, planes, size, size)."""
        order = [self._axes.index(axis) + 1 for axis in range(3)]
        return np.ascontiguousarray(self._found.transpose(0, *order))


def check_voxels(*sides: int) -> None:
    """Refuse a volume that would take too long, before anything of it is read.

    Raises:
        UnreadableImage: if it has more than ``MOST_VOXELS``.
    """
    if np.prod([float(side) for side in sides]) > MOST_VOXELS:
        raise UnreadableImage("too large to be decoded")


def _means(count: int, step: float, wanted: int, pitch: float, turned: bool) -> csr_array:
    """Return what each stored value weighs in each wanted one, (wanted, count) float32.

    The middles of both rows of values lie together.
    """
    wide = max(1.0, pitch / step)
    centres = (np.arange(wanted) - (wanted - 1) / 2) * pitch / step + (count - 1) / 2
    inside = (centres >= -0.5) & (centres <= count - 0.5)
    places = np.arange(count)
    rows, columns, weights = [], [], []
    for row in np.flatnonzero(inside):
        near = places[max(int(centres[row] - wide), 0) : int(centres[row] + wide) + 2]
        weight = np.maximum(1 - np.abs(near - centres[row]) / wide, 0)
        if not weight.any():  # beyond the middle of the outermost value
            near, weight = near[:1] if centres[row] < 0 else near[-1:], np.ones(1)
        rows.append(np.full(len(near), row))
        columns.append(near)
        weights.append(weight / weight.sum())
    found = np.concatenate(weights) if weights else np.zeros(0)
    at = np.concatenate(rows) if rows else np.zeros(0, int)
    of = np.concatenate(columns) if columns else np.zeros(0, int)
    of = count - 1 - of if turned else of
    return csr_array((found.astype(np.float32), (at, of)), shape=(wanted, count))


class Levels:
    """The 0.5 and 99.5 percentiles of a volume's values, from an even part of a large one.

    Args:
        grid: of the volume.
    """

    def __init__(self, grid: Grid):
        self._every = max(1, int(np.ceil(np.sqrt(np.prod(grid.shape) / MOST_COUNTED))))
        self._seen: list[Floats] = []

    def add(self, values: NDArray[np.floating], shown: NDArray[np.bool_]) -> None:
        """Count the values of one plane that are shown."""
        part = slice(None, None, self._every)
        self._seen.append(np.asarray(values[part, part][shown[part, part]], np.float32))

    def low_and_high(self) -> tuple[float, float]:
        """Return the two percentiles; 0 and 1 if nothing is shown."""
        seen = np.concatenate(self._seen) if self._seen else np.zeros(0)
        if not len(seen):
            return 0.0, 1.0
        low, high = np.percentile(seen, [0.5, 99.5])
        return float(low), float(high)


class MeasuredBox:
    """A box of planes that tell what they measure: the contrast is set by the volume as a whole.

    Args:
        grid: as `Box`.
        shape: likewise; all channels come out alike.
        spacing_mm: likewise.
    """

    def __init__(
        self, grid: Grid, shape: Sequence[int], spacing_mm: tuple[float, float] | None = None
    ):
        self._channels = shape[0]
        self._box = Box(grid, (2, *shape[1:]), spacing_mm)
        self._levels = Levels(grid)

    def add(
        self, place: int, values: NDArray[np.float64], shown: NDArray[np.bool_] | None = None
    ) -> None:
        """Add one stored plane, (rows, columns); what is not shown stays black."""
        seen = np.ones(values.shape, bool) if shown is None else shown
        self._levels.add(values, seen)
        kept = np.where(seen, values, 0).astype(np.float32)
        self._box.add(place, [kept, seen.astype(np.float32)])

    def values(self, inverted: bool = False) -> Floats:
        """Return the volume, (channels, planes, size, size) in [0, 1]."""
        low, high = self._levels.low_and_high()
        total, weight = self._box.values
        bright = (total - low * weight) / max(high - low, 1e-6)
        bright = np.clip(weight - bright if inverted else bright, 0, 1)
        return np.repeat(bright[None].astype(np.float32), self._channels, axis=0)
