"""DICOM files to pictures in [0, 1], as they are meant to be seen.

Only pixels, the tags that say how to read them, and the tags that the site file's rules name are
looked at; no other.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from clients.images.dicom_frame import decode_frame, opened
from clients.images.picture import UnreadableImage, View, between_percentiles
from clients.images.selection import check_selected
from clients.images.volume import frame_order, middle_file

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


def read_dicom(path: Path, view: View) -> NDArray[np.float32]:
    """Decode and display-transform one picture of a file, or of a folder that holds one series.

    The order follows DICOM PS3.3 C.11: modality LUT or rescale, then ``view.ct_window`` for CT,
    else the VOI LUT or the first window, else the 0.5 and 99.5 percentiles; scaled to [0, 1],
    MONOCHROME1 inverted. Padding is black. Of several frames or
    slices, sorted along the patient, ``view.slice`` says which.

    Returns:
        (rows, columns) float32 in [0, 1]; (rows, columns, 3) red, green, blue of a colour file.

    Raises:
        UnreadableImage: with the reason.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the values of tags
        try:
            if path.is_dir():
                path = middle_file(path, view)
            with opened(path, [*DISPLAY_TAGS, *view.select, *view.exclude]) as file:
                check_selected(file.header, view)
                order = frame_order(file.header, file.frames)
                index = order[view.place(len(order))]
                values, photometric = decode_frame(file, index)
                return _display(values, photometric, _of_frame(file.header, index), view)
        except UnreadableImage:
            raise
        except Exception:
            # Tags and decoders raise anything at all on damaged files, and may quote them.
            raise UnreadableImage("the pixels cannot be decoded") from None


def _of_frame(header: Dataset, index: int) -> Dataset:
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


def _display(
    stored: NDArray[Any], photometric: str, header: Dataset, view: View
) -> NDArray[np.float32]:
    """Return the pixels as they are meant to be seen, in [0, 1]."""
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, header)
        photometric = "RGB"
        header.BitsStored = 8 * stored.dtype.itemsize
    if photometric in ("RGB", "YBR_ICT", "YBR_RCT"):  # decoders turn the latter two into RGB
        colours = stored[..., :3].astype(np.float64) / (2**header.BitsStored - 1)
        return np.asarray(np.clip(colours, 0, 1), np.float32)
    if photometric not in GREY or stored.ndim != 2:
        raise UnreadableImage("the pixels cannot be decoded")
    values = np.asarray(apply_modality_lut(stored, header), np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImage("the pixels cannot be decoded")
    padding = _padding(stored, header)
    if view.ct_window is not None and header.get("Modality") == "CT":
        shown = _window(values, *view.ct_window)
    elif header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        shown = np.asarray(apply_voi_lut(values.astype(np.int64), header)) / (2**bits - 1)
    elif header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        center, width = (_first(header.get(tag)) for tag in ("WindowCenter", "WindowWidth"))
        shown = _window(values, center, width, str(header.get("VOILUTFunction") or "LINEAR"))
    else:
        shown = between_percentiles(values, ~padding)
    clipped = np.clip(shown, 0, 1)
    picture = 1 - clipped if photometric == "MONOCHROME1" else clipped
    return np.asarray(np.where(padding, 0, picture), np.float32)


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
