"""The volumes among a site's image files: how many, of how many planes, how far apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from clients.checks.finding import Finding, plural
from clients.images.picture import Refusal, UnreadableImage, View
from clients.images.volume import Slice, Volume, assemble, of_frames, slice_of

MODALITIES = ("CT", "MR", "PT", "NM")
"""Whose series are volumes."""


@dataclass(frozen=True)
class VolumeFacts:
    """One volume.

    Attributes:
        planes: how many slices it has.
        spacing: between slices, rows and columns in millimetres; 0 is unknown.
        fault: why a study that takes volumes leaves it out, if it does.
    """

    planes: int
    spacing: tuple[float, float, float]
    fault: Refusal | None = None


class VolumeFiles:
    """Gathers the files of volumes, one after another.

    Args:
        view: whose rules say which files are meant.
    """

    def __init__(self, view: View):
        self._view = view
        self._series: dict[str, list[Slice]] = {}
        self._alone: list[VolumeFacts] = []

    def add_dicom(self, path: Path, header: Dataset) -> None:
        """Look at a file whose header was read; errors in it are passed over."""
        if str(header.get("Modality") or "") not in MODALITIES:
            return
        try:
            frames = int(header.get("NumberOfFrames") or 1)
            one = slice_of(path, header, self._view)
            if frames > 1:
                self._alone.append(_facts(of_frames(path, header, frames)))
            elif one.series:
                self._series.setdefault(one.series, []).append(one)
        except Exception:  # damaged headers raise anything at all; also what no rule selects
            return

    def add_nifti(self, path: Path) -> None:
        """Look at a file's header.

        Raises:
            Exception: anything at all, of what is no NIfTI file.
        """
        import nibabel
        from nibabel.affines import voxel_sizes

        image: Any = nibabel.load(path)
        planes, rows, columns = (*image.shape, 1)[2], image.shape[0], image.shape[1]
        across, down, apart = (float(size) for size in voxel_sizes(image.affine))
        if planes > 1 and rows and columns:
            self._alone.append(VolumeFacts(int(planes), (apart, across, down)))

    def facts(self) -> tuple[VolumeFacts, ...]:
        """Return each volume; a series of one slice is none."""
        return (*self._alone, *(_of_series(s) for s in self._series.values() if len(s) > 1))


def _of_series(slices: Sequence[Slice]) -> VolumeFacts:
    try:
        volume = assemble(slices)
    except UnreadableImage as error:
        return VolumeFacts(len(slices), (0.0, 0.0, 0.0), error.reason)
    if not volume.placed:
        return VolumeFacts(len(slices), volume.spacing, "the slices do not say where they lie")
    return _facts(volume)


def _facts(volume: Volume) -> VolumeFacts:
    fault: Refusal | None = None
    if not volume.upright:
        fault = "the slices do not make one volume"
    elif not volume.even:
        fault = "slices are missing or unevenly spaced"
    return VolumeFacts(len(volume.slices), volume.spacing, fault)


def volume_findings(volumes: Sequence[VolumeFacts]) -> Iterator[Finding]:
    """Report how many volumes there are and what a study would leave out."""
    if not volumes:
        return
    told = volume_counts(volumes)
    planes, apart, pixels = (_range(told[k]) for k in ("planes", "apart_mm", "pixels_mm"))
    yield Finding(
        "note",
        "images",
        "volumes",
        f"{plural(len(volumes), 'volume')}: {planes} planes, {apart} mm apart, pixels of "
        f"{pixels} mm",
        "A study takes one slice of each, or the whole where it gives planes.",
    )
    for fault, count in Counter(one.fault for one in volumes if one.fault).items():
        yield Finding(
            "warning",
            "images",
            "volumes",
            f"{count:,} of {plural(len(volumes), 'volume')}: {fault}",
            "Export these series whole; a study that takes volumes leaves them out as they are.",
        )


def volume_counts(volumes: Sequence[VolumeFacts]) -> dict[str, Any]:
    """Return number, and smallest and largest planes and spacings, as plain values."""

    def ends(values: list[float]) -> list[float]:
        known = [value for value in values if value > 0]
        return [min(known), max(known)] if known else []

    return {
        "number": len(volumes),
        "left out": sum(one.fault is not None for one in volumes),
        "planes": ends([one.planes for one in volumes]),
        "apart_mm": ends([round(one.spacing[0], 3) for one in volumes]),
        "pixels_mm": ends([round(side, 3) for one in volumes for side in one.spacing[1:]]),
    }


def _range(ends: list[float]) -> str:
    """Return the smallest and the largest.

    >>> _range([2.5, 5]), _range([4, 4]), _range([])
    ('2.5 to 5', '4', 'unknown')
    """
    if not ends:
        return "unknown"
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
