"""DICOM volumes: a series of files, or the frames of one file, plane by plane into a box."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from clients.images.box import Box, MeasuredBox, check_voxels
from clients.images.dicom_frame import OpenFile, decode_frame, opened
from clients.images.display import DISPLAY_TAGS, contrast_of, measured, of_frame, shown
from clients.images.paths import inside
from clients.images.picture import UnreadableImage, View, in_channels
from clients.images.selection import check_selected
from clients.images.volume import (
    FRAME_TAGS,
    MOST_SLICES,
    SLICE_TAGS,
    Slice,
    Volume,
    assemble,
    of_frames,
    slice_of,
)

Rules = tuple[tuple[str, tuple[str, ...]], ...]
"""``View.select`` or ``View.exclude``, to keep what was read by them."""


@dataclass(frozen=True)
class _Member:
    """A file of a folder, as its header says.

    Attributes:
        slice: where it lies.
        frames: how many it holds.
        contrast: what sets it, as ``contrast_of``.
    """

    slice: Slice
    frames: int
    contrast: Hashable


@dataclass(frozen=True)
class _Stack:
    """A volume whose planes are known and not decoded yet.

    Attributes:
        volume: its slices in order; ``number`` is a frame's place in its file, from 0.
        contrasts: of each slice.
    """

    volume: Volume
    contrasts: Sequence[Hashable]


def read_dicom_volume(
    path: Path,
    shape: Sequence[int],
    view: View,
    spacing_mm: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Decode a volume and fit it into a box.

    A folder holds one series. A file with several frames is a volume; of another the files beside
    it that are of its series make one.

    Where all planes have the same window or table, or ``view.ct_window`` is given for CT, each is
    displayed by it as `read_dicom` does. Otherwise the percentiles of the whole volume set the
    contrast: windows that differ from plane to plane would make equal tissue unequal.

    Args:
        path: of the file or folder.
        shape: (channels, planes, size, size).
        view: the site's rules; ``slice`` has no meaning here.
        spacing_mm: as `Box`.

    Returns:
        float32 of that shape, in [0, 1].

    Raises:
        UnreadableImage: with the reason.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        try:
            stack = _series(path, "", view) if path.is_dir() else _of_file(path, view)
            if not stack.volume.upright:
                raise UnreadableImage("the slices do not make one volume")
            if not stack.volume.even:
                raise UnreadableImage("slices are missing or unevenly spaced")
            if None not in stack.contrasts and len({*stack.contrasts}) == 1:
                return _displayed(stack, shape, view, spacing_mm)
            return _measured(stack, shape, view, spacing_mm)
        except UnreadableImage:
            raise
        except Exception:
            # Tags and decoders raise anything at all on damaged files, and may quote them.
            raise UnreadableImage("the pixels cannot be decoded") from None


def _displayed(
    stack: _Stack, shape: Sequence[int], view: View, spacing_mm: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Return a volume each of whose planes sets its contrast in the same way."""
    colour = "colour" in stack.contrasts
    box = Box(stack.volume.grid, (shape[0] if colour else 1, *shape[1:]), spacing_mm)
    for place, pixels, photometric, header in _planes(stack.volume, view):
        picture = shown(pixels, photometric, header, view)
        box.add(place, in_channels(picture, shape[0] if colour else 1))
    found = np.clip(box.values, 0, 1)
    return found if colour else np.repeat(found, shape[0], axis=0)


def _measured(
    stack: _Stack, shape: Sequence[int], view: View, spacing_mm: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Return a volume whose contrast is set by all of its planes together."""
    box, photometric = MeasuredBox(stack.volume.grid, shape, spacing_mm), ""
    for place, pixels, photometric, header in _planes(stack.volume, view):
        values, padding = measured(pixels, photometric, header)
        box.add(place, values, ~padding)
    return box.values(inverted=photometric == "MONOCHROME1")


def _planes(volume: Volume, view: View) -> Iterator[tuple[int, NDArray[Any], str, Dataset]]:
    """Yield each plane's place, its stored pixels, their kind, and what the header says of it."""
    numbered = enumerate(volume.slices)
    for path, group in itertools.groupby(numbered, key=lambda pair: pair[1].file):
        with opened(path, [*DISPLAY_TAGS, *view.select, *view.exclude]) as file:
            for place, one in group:
                frame = one.number if file.frames > 1 else 0
                pixels, photometric = decode_frame(file, frame)
                yield place, pixels, photometric, of_frame(file.header, frame)


def _of_file(path: Path, view: View) -> _Stack:
    """Return the volume that a file holds or belongs to."""
    tags = [*FRAME_TAGS, *DISPLAY_TAGS, *view.select, *view.exclude]
    with opened(path, tags) as file:
        check_selected(file.header, view)
        if file.frames > 1:
            return _frames_of(path, file, view)
        series = str(file.header.get("SeriesInstanceUID") or "")
    if not series:
        raise UnreadableImage("a single picture, not a volume")
    return _series(path.parent, series, view)


def _frames_of(path: Path, file: OpenFile, view: View) -> _Stack:
    rows, columns = (int(file.header.get(side) or 0) for side in ("Rows", "Columns"))
    check_voxels(file.frames, rows, columns)
    volume = of_frames(path, file.header, file.frames)
    headers = (of_frame(file.header, one.number) for one in volume.slices)
    return _Stack(volume, [contrast_of(header, view) for header in headers])


def _series(folder: Path, series: str, view: View) -> _Stack:
    """Return the volume of a series among the files of a folder; of the only one if not named."""
    rules = tuple(view.select.items()), tuple(view.exclude.items())
    members, refused = _read(folder, folder.stat().st_mtime_ns, *rules, view.ct_window)
    chosen = members.get(series, ()) if series else tuple(itertools.chain(*members.values()))
    if not chosen:
        raise UnreadableImage("no pixels") if refused is None else refused
    if len(chosen) == 1:
        (only,) = chosen
        if only.frames == 1:
            raise UnreadableImage("a single picture, not a volume")
        return _of_file(only.slice.file, view)
    if len(chosen) > MOST_SLICES:
        raise UnreadableImage("too large to be decoded")
    if any(member.frames > 1 for member in chosen):
        raise UnreadableImage("the slices do not make one volume")
    contrasts = {member.slice.file: member.contrast for member in chosen}
    volume = assemble([member.slice for member in chosen])
    if not volume.placed:
        raise UnreadableImage("the slices do not say where they lie")
    return _Stack(volume, [contrasts[one.file] for one in volume.slices])


@functools.lru_cache(maxsize=4)
def _read(
    folder: Path,
    _changed: int,
    select: Rules,
    exclude: Rules,
    ct_window: tuple[float, float] | None,
) -> tuple[Mapping[str, tuple[_Member, ...]], UnreadableImage | None]:
    """Return the files of a folder by series, and why one that is left out is; pixels are not read.

    Kept for the next volume: an export often has the slices of many patients in one folder.
    """
    view = View(select=dict(select), exclude=dict(exclude), ct_window=ct_window)
    found: dict[str, list[_Member]] = {}
    refused = None
    for file in sorted(folder.iterdir()):
        try:
            path = inside(folder, file.name)
            if path.is_dir():
                continue
            tags = [*SLICE_TAGS, *DISPLAY_TAGS, *view.select, *view.exclude]
            with opened(path, tags) as source:
                one = slice_of(path, source.header, view)
                frame = of_frame(source.header, 0)
                member = _Member(one, source.frames, contrast_of(frame, view))
        except UnreadableImage as error:
            refused = error
            continue
        except Exception:  # a damaged header; its file is no part of any volume
            refused = UnreadableImage("not a DICOM file")
            continue
        found.setdefault(one.series, []).append(member)
    return {name: tuple(members) for name, members in found.items()}, refused
