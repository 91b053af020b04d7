"""One frame of a DICOM file: opened, checked by its declared and its actual size, decoded."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame, parse_basic_offsets
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from clients.images import jpeg12
from clients.images.codestream import frame_size
from clients.images.picture import MOST_PIXELS, UnreadableImage, check_size

PIXEL_TAGS = (
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
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
PIXEL_DATA = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
UNDEFINED = 0xFFFFFFFF
MOST_INFLATED = 4 * MOST_PIXELS
"""Bytes of a deflated data set."""
MOST_FRAMES = 2**16


@dataclass(frozen=True)
class OpenFile:
    """A DICOM file whose header has been read.

    Attributes:
        file: positioned anywhere.
        header: the wanted tags before the pixels.
        syntax: how the pixels are stored; ``ExplicitVRLittleEndian`` for a deflated data set.
        pixels_at: where the pixel element begins, or the end of the file.
    """

    file: BinaryIO
    header: Dataset
    syntax: UID
    pixels_at: int

    @property
    def frames(self) -> int:
        """How many frames the header declares.

        Raises:
            UnreadableImage: if it is no number that can be.
        """
        declared = int(self.header.get("NumberOfFrames") or 1)
        if not 1 <= declared <= MOST_FRAMES:
            raise UnreadableImage("the number of frames contradicts the pixels")
        return declared


@contextmanager
def opened(path: Path, tags: Iterable[str]) -> Iterator[OpenFile]:
    """Open a DICOM file and read the named tags; nothing else of the header is looked at.

    Raises:
        UnreadableImage: if it is none.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise UnreadableImage("not a DICOM file")
        file: BinaryIO = path.open("rb")
    except FileNotFoundError:
        raise UnreadableImage("the file is missing") from None
    except (OSError, ValueError):
        raise UnreadableImage("not a DICOM file") from None
    with file:
        yield _read_header(file, [*PIXEL_TAGS, *tags])


def _read_header(file: BinaryIO, tags: list[str]) -> OpenFile:
    try:
        read_preamble(file, force=False)
        meta = read_dataset(file, False, True, stop_when=_after_meta)
        syntax, at = UID(meta.TransferSyntaxUID), file.tell()
        if not syntax.is_transfer_syntax:  # a maker's own, or none
            raise UnreadableImage("a transfer syntax that is not read")
        if syntax == DeflatedExplicitVRLittleEndian:
            file, syntax, at = _inflated(file, at), ExplicitVRLittleEndian, 0
        file.seek(at)
        header = read_dataset(
            file,
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            stop_when=_at_pixels,
            specific_tags=[Tag(name) for name in tags],
        )
    except UnreadableImage:
        raise
    except Exception:
        raise UnreadableImage("not a DICOM file") from None
    return OpenFile(file, header, syntax, file.tell())


def _after_meta(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != 2


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag in PIXEL_DATA


def _inflated(file: BinaryIO, at: int) -> BinaryIO:
    """Return a deflated data set as it was before; pydicom would inflate it without a bound.

    Source: DICOM PS3.5 A.5.
    """
    file.seek(at)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    data = stream.decompress(file.read(), MOST_INFLATED)
    if stream.unconsumed_tail:
        raise UnreadableImage("too large to be decoded")
    return io.BytesIO(data)


def decode_frame(source: OpenFile, index: int) -> tuple[NDArray[Any], str]:
    """Decode one frame; no other is read.

    Args:
        source: a file that is still open.
        index: from 0.

    Returns:
        (rows, columns) or (rows, columns, 3) stored values, and their photometric interpretation,
        which is RGB where it was YBR.

    Raises:
        UnreadableImage: if the pixels are missing, too large, cut off or contradict the header.
    """
    header, frames = source.header, source.frames
    keyword, vr, length = _pixel_element(source)
    size = [int(header.get(name) or 0) for name in ("Rows", "Columns", "SamplesPerPixel")]
    check_size(*size)
    try:
        decoder = get_decoder(source.syntax)
    except NotImplementedError:
        raise UnreadableImage("a transfer syntax that is not read") from None
    options = as_pixel_options(
        header,
        transfer_syntax_uid=source.syntax,
        number_of_frames=frames,
        pixel_keyword=keyword,
        pixel_vr=vr,
    )
    if source.syntax.is_encapsulated:
        encoded = _encoded_frame(source, index, options.pop("extended_offsets", None))
        _check_codestream(encoded, size)
        options["number_of_frames"] = 1
        plugin = jpeg12.plugin_for(source.syntax, int(header.BitsStored))
        values, described = decoder.as_array(
            encapsulate([encoded]), index=0, decoding_plugin=plugin, **options
        )
        return values, str(described["photometric_interpretation"])
    _check_length(source, length)
    # What lies beside the stored bits is dealt with below, also where they are not the lowest.
    options["correct_unused_bits"] = False
    values, described = decoder.as_array(source.file, index=index, **options)
    return stored_bits(values, header), str(described["photometric_interpretation"])


def _pixel_element(source: OpenFile) -> tuple[str, str, int]:
    """Return keyword, VR and length of the pixel element, and go to where its value begins.

    Source: DICOM PS3.5 7.1.
    """
    source.file.seek(source.pixels_at)
    order: Literal["little", "big"] = "little" if source.syntax.is_little_endian else "big"
    start = source.file.read(8)
    group, element = (int.from_bytes(start[at : at + 2], order) for at in (0, 2))
    keyword = PIXEL_DATA.get(group << 16 | element)
    if len(start) < 8 or keyword is None:
        raise UnreadableImage("no pixels")
    if source.header.original_encoding[0]:  # implicit VR, whatever the syntax says
        return keyword, "OW", int.from_bytes(start[4:], order)
    return keyword, start[4:6].decode("ascii"), int.from_bytes(source.file.read(4), order)


def _encoded_frame(source: OpenFile, index: int, extended: tuple[bytes, bytes] | None) -> bytes:
    """Return one compressed frame, unless the offset table tells of another number of frames."""
    at = source.file.tell()
    offsets = parse_basic_offsets(source.file)
    source.file.seek(at)
    told = len(offsets) or (len(extended[0]) // 8 if extended else 0)
    if told not in (0, source.frames):
        raise UnreadableImage("the number of frames contradicts the pixels")
    return get_frame(source.file, index, number_of_frames=source.frames, extended_offsets=extended)


def _check_length(source: OpenFile, length: int) -> None:
    """Refuse uncompressed pixels of another number than the header's; a byte of padding is none."""
    header = source.header
    bits = header.BitsAllocated * header.Rows * header.Columns * header.SamplesPerPixel
    if header.PhotometricInterpretation == "YBR_FULL_422":  # two pixels share their chroma
        bits = bits // 3 * 2
    declared = -(-bits * source.frames // 8)
    at = source.file.tell()
    held = min(length, source.file.seek(0, io.SEEK_END) - at)
    source.file.seek(at)
    if length == UNDEFINED or not declared <= held < declared + max(bits // 8, 2):
        raise UnreadableImage("the number of frames contradicts the pixels")


def _check_codestream(encoded: bytes, size: list[int]) -> None:
    """Refuse a codestream of another size than the header's: it is what the decoder obeys."""
    own = frame_size(encoded)
    if own is not None and [own.rows, own.columns, own.samples] != size:
        raise UnreadableImage("the compressed pixels contradict the header")


def stored_bits(values: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Return the stored bits of each value as a number; what lies beside them is not pixels.

    Source: DICOM PS3.5 8.1.1; older files hold overlays there, or put the stored bits on top.
    """
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    high = int(header.get("HighBit", stored - 1))
    if allocated not in (8, 16, 32) or values.dtype.kind == "f":
        return values
    if not 0 < stored <= high + 1 <= allocated:
        raise UnreadableImage("the pixels cannot be decoded")
    if stored == allocated:
        return values
    return (values << (allocated - 1 - high)) >> (allocated - stored)
