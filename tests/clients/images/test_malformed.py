"""Damaged and hostile files: each is refused in fixed words, before it takes time or memory."""

import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from clients.images.codestream import FrameSize, frame_size, without_text
from clients.images.dicom import read_dicom
from clients.images.picture import MOST_PIXELS, UnreadableImage, View

PIXELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture
def write(tmp_path, write_dicom):
    """Write a DICOM file, then change its data set: ``change(dataset)``."""

    def written(change=lambda data: None, pixels=PIXELS):
        file = write_dicom(tmp_path / "x.dcm", pixels)
        data = pydicom.dcmread(file)
        change(data)
        data.save_as(file, enforce_file_format=True)
        return file

    return written


def compressed(syntax, *frames, **tags):
    def change(data):
        data.PixelData = encapsulate(list(frames))
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = syntax
        for name, value in tags.items():
            setattr(data, name, value)

    return change


def setting(**tags):
    def change(data):
        for name, value in tags.items():
            setattr(data, name, value)

    return change


def refusal(file):
    with pytest.raises(UnreadableImage) as caught:
        read_dicom(file, View())
    return caught.value.reason


def jpeg(rows, columns, samples=1):
    """A JPEG that is nothing but the claim of a size."""
    frame = struct.pack(">BHHB", 8, rows, columns, samples) + b"\1\x11\0" * samples
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"


def jpeg2000(rows, columns):
    siz = struct.pack(">HIIIIIIIIH", 0, columns, rows, 0, 0, columns, rows, 0, 0, 1) + b"\7\1\1"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz + b"\xff\xd9"


RLE = b"\1\0\0\0\x40" + b"\0" * 59
CONTRARY = "the compressed pixels contradict the header"
LARGE = "too large to be decoded"
UNREAD = "a transfer syntax that is not read"
FRAMES = "the number of frames contradicts the pixels"
DECODE = "the pixels cannot be decoded"
BAD = {
    "rows of zero": (setting(Rows=0), DECODE),
    "more pixels than any detector has": (
        setting(Rows=65535, Columns=65535),
        LARGE,
    ),
    "more frames than there are": (setting(NumberOfFrames=3), FRAMES),
    "fewer frames than there are": (setting(Rows=4), FRAMES),
    "a negative number of frames": (setting(NumberOfFrames=-1), FRAMES),
    "a billion frames": (setting(NumberOfFrames=10**9), FRAMES),
    "pixels cut off": (lambda d: setattr(d, "PixelData", d.PixelData[:100]), FRAMES),
    "pixels of no length": (setting(PixelData=b""), FRAMES),
    "no pixels": (lambda d: d.__delitem__("PixelData"), "no pixels"),
    "no photometric interpretation": (lambda d: d.__delitem__("PhotometricInterpretation"), DECODE),
    "a photometric interpretation of no standard": (
        setting(PhotometricInterpretation="GREY"),
        DECODE,
    ),
    "no bits": (lambda d: d.__delitem__("BitsStored"), DECODE),
    "more bits stored than there are": (setting(BitsStored=12), DECODE),
    "a high bit beyond": (setting(BitsStored=4, HighBit=9), DECODE),
    "a high bit below": (setting(BitsStored=4, HighBit=1), DECODE),
    "a sign that is none": (setting(PixelRepresentation=5), DECODE),
    "a palette without a table": (setting(PhotometricInterpretation="PALETTE COLOR"), DECODE),
    "a slope that is no number": (setting(RescaleSlope="1e400", RescaleIntercept=0), DECODE),
    "a video": (compressed(MPEG4HP41, b"\0" * 40), UNREAD),
    "a syntax of nobody": (compressed("1.2.3.4", b"\0" * 40), UNREAD),
    "a JPEG that claims 4 gigapixels": (
        compressed(JPEGBaseline8Bit, jpeg(65535, 65535)),
        CONTRARY,
    ),
    "a JPEG of other sides": (compressed(JPEGLosslessSV1, jpeg(16, 17)), CONTRARY),
    "a JPEG of three colours": (compressed(JPEGBaseline8Bit, jpeg(16, 16, 3)), CONTRARY),
    "a JPEG 2000 that claims 16 exapixels": (
        compressed(JPEG2000Lossless, jpeg2000(2**32 - 1, 2**32 - 1)),
        CONTRARY,
    ),
    "a JPEG of nothing": (compressed(JPEGBaseline8Bit, jpeg(16, 16)), DECODE),
    "a JPEG 2000 of nothing": (compressed(JPEG2000Lossless, jpeg2000(16, 16)), DECODE),
    "noise for a JPEG": (compressed(JPEGBaseline8Bit, bytes(range(256))), DECODE),
    "noise for RLE": (compressed(RLELossless, bytes(range(256))), DECODE),
    "RLE that ends early": (compressed(RLELossless, RLE + b"\x81\0"), DECODE),
    "offsets of more frames": (compressed(RLELossless, b"\0" * 66, b"\0" * 66), FRAMES),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_file_is_refused_for_what_is_wrong_with_it(write, name):
    change, reason = BAD[name]
    assert refusal(write(change)) == reason


@pytest.mark.parametrize("end", [0, 100, 131, 132, 140, 200, 330])
def test_file_that_ends_in_its_header_is_refused(write, end):
    file = write()
    file.write_bytes(file.read_bytes()[:end])
    assert refusal(file) in {"not a DICOM file", "no pixels"}


def test_file_without_preamble_is_refused(write):
    file = write()
    file.write_bytes(file.read_bytes()[132:])
    assert refusal(file) == "not a DICOM file"


def test_file_without_a_transfer_syntax_is_refused(write):
    file = write()
    content = file.read_bytes()
    at = content.index(b"\2\0\x10\0UI")
    file.write_bytes(content[:at] + b"\2\0\x11\0UI" + content[at + 6 :])
    assert refusal(file) == "not a DICOM file"


def test_vr_of_no_standard_is_refused(write):
    file = write(setting(PatientComments="nothing"))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"\x10\0\0\x40LT", b"\x10\0\0\x40??"))
    assert refusal(file) == "no pixels"
    file.write_bytes(whole.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0??"))
    assert refusal(file)


def test_deflated_file_is_read_and_a_bomb_of_it_is_refused_in_little_memory(write):
    plain = write()
    expected = read_dicom(plain, View())
    data = pydicom.dcmread(plain)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(plain, enforce_file_format=True)
    np.testing.assert_array_equal(read_dicom(plain, View()), expected)

    content, data = plain.read_bytes(), pydicom.dcmread(plain)
    start = content[: 144 + data.file_meta.FileMetaInformationGroupLength]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(2**20)
    bomb = b"".join(squeeze.compress(block) for _ in range(5 * MOST_PIXELS // 2**20))
    plain.write_bytes(start + bomb + squeeze.flush())
    assert plain.stat().st_size < 2**20
    assert refusal(plain) == LARGE


def test_refusing_a_bomb_takes_no_memory(write):
    file = write(compressed(JPEGBaseline8Bit, jpeg(65535, 65535)))
    tracemalloc.start()
    try:
        refusal(file)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_directory_of_a_medium_is_no_image_and_its_references_are_not_followed(tmp_path):
    from pydicom.data import get_testdata_file

    source = Path(get_testdata_file("DICOMDIR"))
    content = source.read_bytes().replace(b"77654033", b"../../..")
    (tmp_path / "DICOMDIR").write_bytes(content)
    assert refusal(tmp_path / "DICOMDIR") == "no pixels"


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(132, 600), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 600),
)
def test_bytes_changed_in_a_header_end_in_a_picture_or_a_reason(write, changes, cut):
    content = bytearray(write().read_bytes())
    for at, byte in changes:
        content[at % len(content)] = byte
    file = write()
    file.write_bytes(content[: len(content) - cut] if cut < 30 else content)
    try:
        picture = read_dicom(file, View())
    except UnreadableImage:
        return
    assert np.isfinite(picture).all()
    assert 0 <= picture.min() <= picture.max() <= 1


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51"]))
def test_any_bytes_have_a_size_or_none_and_lose_only_text(frame, start):
    frame = start + frame
    assert frame_size(frame) is None or isinstance(frame_size(frame), FrameSize)
    assert len(without_text(frame)) <= len(frame)


def test_comments_of_a_codestream_go_and_its_pixels_stay(tmp_path):
    from PIL import Image

    picture = Image.fromarray(PIXELS.repeat(4, 0).repeat(4, 1))
    picture.save(tmp_path / "x.jpg", comment=b"Doe^Jane", exif=b"Exif\0\0Doe^Jane")
    picture.save(tmp_path / "x.j2k", comment="Doe^Jane", irreversible=False)
    for name in ("x.jpg", "x.j2k"):
        before = (tmp_path / name).read_bytes()
        assert b"Doe^Jane" in before
        (tmp_path / name).write_bytes(without_text(before))
        assert b"Doe^Jane" not in without_text(before)
        assert Image.open(tmp_path / name).size == (64, 64)
        expected = np.asarray(Image.open(os.fspath(tmp_path / name)))
        (tmp_path / name).write_bytes(before)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), expected)
