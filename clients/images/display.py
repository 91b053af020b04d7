"""The stored values of a DICOM frame as they are meant to be seen.

Source: DICOM PS3.3 C.11 (modality and VOI transformations), C.7.6.16.2 (their values by frame).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from clients.images.picture import UnreadableImage, View, between_percentiles

DISPLAY_TAGS = (
    "Modality",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)
GREY = ("MONOCHROME1", "MONOCHROME2")


def of_frame(header: Dataset, index: int) -> Dataset:
    """Return the header with what its functional groups say of one frame, the frame's own last.

    Source: DICOM PS3.3 C.7.6.16.2.9 (rescale), C.7.6.16.2.10 (window).
    """
    frame = Dataset()
    frame.update(header)
    groups = [
        *(header.get("SharedFunctionalGroupsSequence") or [])[:1],
        *(header.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1],
    ]
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name) or []:
                frame.update(item)
    return frame


def shown(
    stored: NDArray[Any], photometric: str, header: Dataset, view: View
) -> NDArray[np.float32]:
    """Return the pixels of a frame in [0, 1]: contrast set, MONOCHROME1 inverted, padding black.

    Returns:
        (rows, columns) float32, or (rows, columns, 3) of a colour frame.
    """
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, header)
        photometric = "RGB"
        header.BitsStored = 8 * stored.dtype.itemsize
    if photometric in ("RGB", "YBR_ICT", "YBR_RCT"):  # decoders turn the latter two into RGB
        colours = stored[..., :3].astype(np.float64) / (2**header.BitsStored - 1)
        return np.asarray(np.clip(colours, 0, 1), np.float32)
    values, padding = measured(stored, photometric, header)
    if view.ct_window is not None and header.get("Modality") == "CT":
        bright = _window(values, *view.ct_window)
    elif header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        bright = np.asarray(apply_voi_lut(values.astype(np.int64), header)) / (2**bits - 1)
    elif header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        center, width = (_first(header.get(tag)) for tag in ("WindowCenter", "WindowWidth"))
        bright = _window(values, center, width, str(header.get("VOILUTFunction") or "LINEAR"))
    else:
        bright = between_percentiles(values, ~padding)
    clipped = np.clip(bright, 0, 1)
    picture = 1 - clipped if photometric == "MONOCHROME1" else clipped
    return np.asarray(np.where(padding, 0, picture), np.float32)


def measured(
    stored: NDArray[Any], photometric: str, header: Dataset
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return what a grey frame's pixels measure, such as Hounsfield units, and which are padding.

    Raises:
        UnreadableImage: if they are no numbers, or not grey.
    """
    if photometric not in GREY or stored.ndim != 2:
        raise UnreadableImage("the pixels cannot be decoded")
    values = np.asarray(apply_modality_lut(stored, header), np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImage("the pixels cannot be decoded")
    return values, _padding(stored, header)


def contrast_of(header: Dataset, view: View) -> Hashable:
    """Return what `shown` sets a frame's contrast by; None if by the frame's own values."""
    if header.get("PhotometricInterpretation") not in GREY:
        return "colour"
    if view.ct_window is not None and header.get("Modality") == "CT":
        return view.ct_window
    if header.get("VOILUTSequence"):
        table = header.VOILUTSequence[0]
        return tuple(table.LUTDescriptor), bytes(np.asarray(table.LUTData))
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        window = _first(header.WindowCenter), _first(header.WindowWidth)
        return *window, str(header.get("VOILUTFunction") or "LINEAR")
    return None


def _padding(stored: NDArray[Any], header: Dataset) -> NDArray[np.bool_]:
    """Return where a picture was filled up; such pixels are never shown.

    Source: DICOM PS3.3 C.7.5.1.1.2.
    """
    value = header.get("PixelPaddingValue")
    if value is None or stored.dtype.kind == "f":
        return np.zeros(stored.shape, bool)
    # Of unsigned pixels the tag is often written as a signed number.
    limits = [int(value), int(header.get("PixelPaddingRangeLimit") or value)]
    low, high = sorted(np.array(limits).astype(stored.dtype).tolist())
    return np.asarray((stored >= low) & (stored <= high))


def _window(
    values: NDArray[np.float64], center: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64]:
    """Apply a window, to [0, 1].

    Source: DICOM PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT).
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
