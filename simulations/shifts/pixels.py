"""Changes the pixels of a DICOM file and keeps everything else of it; of a PNG file too."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from clients.images.settings import Format
from federation.randomness import derive_seed
from simulations.shifts.looks import Image as Pixels
from simulations.shifts.looks import Look, show

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def rewrite(
    source: Path, target: Path, looks: Sequence[Look], name: str, kind: Format = "dicom"
) -> str:
    """Write an image file as other scanners would have made it.

    Grey is taken from the darkest to the brightest stored value of the image and stays between
    them. A compressed DICOM file is decoded first and written uncompressed; any other keeps its
    transfer syntax. Where the size of a pixel changes, so do Rows, Columns and the spacing tags
    that are there. Of a PNG file the bits a pixel stay, and nothing but the pixels is written.

    Args:
        source: the file to read.
        target: the file to write; not written if there is a reason.
        looks: applied in order.
        name: of the image at its site: its noise depends on it.
        kind: how the file is written.

    Returns:
        An empty text, or why the file was left as it is: a fixed phrase without its values.
    """
    if kind == "nifti":
        return "a volume"
    return (_png if kind == "png" else _dicom)(source, target, looks, name)


def _png(source: Path, target: Path, looks: Sequence[Look], name: str) -> str:
    from PIL import Image

    try:
        with Image.open(source, formats=["PNG"]) as image:
            if image.mode not in ("L", "I;16"):
                return "not a single grey frame"
            stored = np.asarray(image)
    except Exception:  # damaged chunks raise anything at all
        return "the pixels cannot be decoded"
    low, high = int(stored.min()), int(stored.max())
    if low == high:
        return "an empty image"
    Image.fromarray(_changed(stored, low, high, False, looks, name)).save(target, "PNG")
    return ""


def _dicom(source: Path, target: Path, looks: Sequence[Look], name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        try:
            dataset = pydicom.dcmread(source)
            reason = _unfit(dataset)
            if reason:
                return reason
            if dataset.file_meta.TransferSyntaxUID.is_compressed:
                dataset.decompress(generate_instance_uid=False)
            stored = dataset.pixel_array
        except Exception:  # tags and decoders raise anything at all on damaged files
            return "the pixels cannot be decoded"
        low, high = int(stored.min()), int(stored.max())
        if low == high:
            return "an empty image"
        inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
        _store(dataset, _changed(stored, low, high, inverted, looks, name), looks)
        dataset.save_as(target)
    return ""


def _unfit(dataset: Dataset) -> str:
    frames = int(dataset.get("NumberOfFrames") or 1)
    grey = dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    if frames != 1 or not grey or dataset.get("SamplesPerPixel") != 1:
        return "not a single grey frame"
    return ""


def _changed(
    stored: NDArray[Any],
    low: int,
    high: int,
    inverted: bool,
    looks: Sequence[Look],
    name: str,
) -> NDArray[Any]:
    """Stored values of the changed image, in the type of the old ones."""
    image: Pixels = (stored.astype(np.float64) - low) / (high - low)
    image = 1 - image if inverted else image
    for number, look in enumerate(looks):
        rng = np.random.default_rng(derive_seed(look.seed, "noise", number, name))
        image = show(image, look, rng)
    image = 1 - image if inverted else image
    return np.rint(low + image * (high - low)).astype(stored.dtype)


def _store(dataset: Dataset, pixels: NDArray[Any], looks: Sequence[Look]) -> None:
    ratios = [dataset.Rows / pixels.shape[0], dataset.Columns / pixels.shape[1]]
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    data = pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes()
    dataset["PixelData"].value = data + b"\0" * (len(data) % 2)
    dataset.Rows, dataset.Columns = pixels.shape
    for tag in SPACINGS:
        if ratios != [1.0, 1.0] and dataset.get(tag):
            dataset[tag].value = [
                f"{float(side) * ratio:.10g}"
                for side, ratio in zip(dataset[tag].value, ratios, strict=True)
            ]
    for tag, extreme in (
        ("SmallestImagePixelValue", pixels.min()),
        ("LargestImagePixelValue", pixels.max()),
    ):
        if tag in dataset:
            dataset[tag].value = int(extreme)
    if any(look.artefact == "marker" for look in looks):
        dataset.BurnedInAnnotation = "YES"
