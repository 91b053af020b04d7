"""DICOM files to pictures in [0, 1], as they are meant to be seen.

Only pixels, the tags that say how to read them, and the tags that the site file's rules name are
looked at; no other.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.images.dicom_frame import decode_frame, opened
from clients.images.display import DISPLAY_TAGS, of_frame, shown
from clients.images.picture import UnreadableImage, View
from clients.images.selection import check_selected
from clients.images.volume import frame_order, middle_file


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
                return shown(values, photometric, of_frame(file.header, index), view)
        except UnreadableImage:
            raise
        except Exception:
            # Tags and decoders raise anything at all on damaged files, and may quote them.
            raise UnreadableImage("the pixels cannot be decoded") from None
