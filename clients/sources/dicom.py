"""DICOM files to square images in [0, 1].

Only pixels and the tags that say how to read them are used; no identifying tag is looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

PIXEL_TAGS = [
    "SOPClassUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "RedPaletteColorLookupTableDescriptor",
    "PixelData",
]


class UnreadableImage(Exception):
    """A file that cannot be used; the reason is a fixed phrase without any value of the file."""


def read_image(path: Path, size: int) -> NDArray[np.float32]:
    """Decode, display-transform and resize one single-frame grey image.

    The order follows DICOM PS3.3 C.11: modality LUT or rescale, then VOI LUT or window (else the
    0.5 and 99.5 percentiles), scaled to [0, 1], MONOCHROME1 inverted.

    Returns:
        (size, size) float32 in [0, 1], bright where X-rays were absorbed.

    Raises:
        UnreadableImage: with the reason.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        try:
            if path.exists() and not path.is_file():  # reading a pipe would wait for ever
                raise UnreadableImage("not a DICOM file")
            dataset = pydicom.dcmread(path, specific_tags=PIXEL_TAGS)
        except FileNotFoundError:
            raise UnreadableImage("the file is missing") from None
        except Exception:
            raise UnreadableImage("not a DICOM file") from None
        try:
            _check_kind(dataset)
            return resize(_display(dataset), size)
        except UnreadableImage:
            raise
        except Exception:
            # Tags and decoders raise anything at all on damaged files, and may quote them.
            raise UnreadableImage("the pixels cannot be decoded") from None


def _check_kind(dataset: Dataset) -> None:
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImage("more than one frame")
    if dataset.get("SamplesPerPixel") != 1:
        raise UnreadableImage("not a grey-scale image")
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage("not a grey-scale image")


def _display(dataset: Dataset) -> NDArray[np.float32]:
    """Return the pixels as they are meant to be seen, in [0, 1]."""
    values = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), np.float64)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        shown = np.asarray(apply_voi_lut(values.astype(np.int64), dataset)) / (2**bits - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        shown = _window(values, dataset)
    else:
        low, high = np.percentile(values, [0.5, 99.5])
        shown = (values - low) / max(high - low, 1e-6)
    clipped = np.clip(shown, 0, 1)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    return np.asarray(1 - clipped if inverted else clipped, np.float32)


def _window(values: NDArray[np.float64], dataset: Dataset) -> NDArray[np.float64]:
    """Apply the first window, to [0, 1].

    Source: DICOM PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).
    """
    center, width = (_first(dataset.get(tag)) for tag in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)


def resize(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Fit an image into a square by averaging areas, padding the shorter side with black."""
    import torch
    from torch.nn.functional import interpolate

    if image.shape == (size, size):
        return image
    height, width = image.shape
    ratio = size / max(height, width)
    inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    fitted = interpolate(tensor, inner, mode="bilinear", antialias=True, align_corners=False)
    square = np.zeros((size, size), np.float32)
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    square[top : top + inner[0], left : left + inner[1]] = fitted[0, 0].clamp(0, 1).numpy()
    return square
