"""PNG files to pictures in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.images.picture import UnreadableImage, check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_png(path: Path) -> NDArray[np.float32]:
    """Decode a PNG; the largest value of its bit depth is white.

    What is transparent is black.

    Returns:
        (rows, columns) float32 in [0, 1]; (rows, columns, 3) red, green, blue of a colour file.

    Raises:
        UnreadableImage: with the reason.
    """
    from PIL import Image

    try:
        if path.exists() and not path.is_file():
            raise UnreadableImage("not a PNG file")
        start = path.open("rb").read(24)
    except FileNotFoundError:
        raise UnreadableImage("the file is missing") from None
    except (OSError, ValueError):
        raise UnreadableImage("not a PNG file") from None
    if not start.startswith(SIGNATURE) or len(start) < 24:
        raise UnreadableImage("not a PNG file")
    # Before Pillow, whose own limit is a warning: a few bytes may ask for gigabytes.
    check_size(int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big"))
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode in ("I;16", "I", "I;16B"):
                return np.asarray(np.asarray(image, np.float32) / 65535, np.float32)
            if image.mode in ("1", "L"):
                return np.asarray(np.asarray(image.convert("L"), np.float32) / 255, np.float32)
            pixels = np.asarray(image.convert("RGBA"), np.float64) / 255
            return np.asarray(pixels[..., :3] * pixels[..., 3:], np.float32)
    except Exception:  # damaged chunks raise anything at all
        raise UnreadableImage("the pixels cannot be decoded") from None
