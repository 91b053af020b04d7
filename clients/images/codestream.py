"""What a compressed frame says of itself, read before a decoder is let at it.

A decoder trusts the codestream, not the DICOM header: a few bytes may ask for gigabytes.
Sources: ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A.4-A.9 (JPEG 2000).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SOI, SOS, EOI, COM = 0xD8, 0xDA, 0xD9, 0xFE
STARTS_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""0xC4, 0xC8 and 0xCC are tables; 0xF7 is JPEG-LS."""
WITHOUT_LENGTH = {0x01, SOI, EOI, *range(0xD0, 0xD8)}
KEPT_APPLICATION = {0xE8, 0xEE}
"""JPEG-LS colour transforms and Adobe's: decoders need them, and they hold no text."""
J2K_START = b"\xff\x4f\xff\x51"
J2K_SIZ, J2K_COM, J2K_SOT = 0x51, 0x64, 0x90


@dataclass(frozen=True)
class FrameSize:
    """Rows, columns and samples a pixel of a codestream."""

    rows: int
    columns: int
    samples: int


def frame_size(frame: bytes) -> FrameSize | None:
    """Return the size that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None if none does."""
    if frame.startswith(J2K_START):
        sides = [int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20)]
        samples = int.from_bytes(frame[40:42], "big")
        return FrameSize(sides[1] - sides[3], sides[0] - sides[2], samples)
    for marker, start, end in _segments(frame):
        if marker in STARTS_OF_FRAME and end - start >= 10:
            rows = int.from_bytes(frame[start + 5 : start + 7], "big")
            columns = int.from_bytes(frame[start + 7 : start + 9], "big")
            return FrameSize(rows, columns, frame[start + 9])
    return None


def without_text(frame: bytes) -> bytes:
    """Return a JPEG, JPEG-LS or JPEG 2000 codestream less its comments and application data.

    What is decoded stays the same; anything else stays as it is.
    """
    if frame.startswith(J2K_START):
        dropped = [(s, e) for marker, s, e in _segments(frame) if marker == J2K_COM]
    elif frame[:2] == b"\xff\xd8":
        dropped = [
            (start, end)
            for marker, start, end in _segments(frame)
            if marker == COM or (0xE0 <= marker <= 0xEF and marker not in KEPT_APPLICATION)
        ]
    else:
        return frame
    kept, at = [], 0
    for start, end in dropped:
        kept.append(frame[at:start])
        at = end
    return b"".join([*kept, frame[at:]])


def _segments(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment before the compressed data begins."""
    at, last = 2, len(frame) - 4
    while at <= last and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in (SOS, J2K_SOT):
            return
        if marker in WITHOUT_LENGTH:
            at += 2
            continue
        end = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        yield marker, at, end
        at = end
