"""DICOM files to pictures: equal pictures however they are stored, and fixed words for the rest."""

import os
import shutil
import signal
import socket
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from clients.images.dicom import read_dicom
from clients.images.picture import Refusal, UnreadableImage, View, in_channels, resize
from clients.images.read import read_image

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "dicom_samples"
SECRET = "Doe^Jane-19700101"
REASONS = set(get_args(Refusal))


@pytest.fixture
def written(tmp_path, write_dicom):
    def write(pixels, **tags):
        return write_dicom(tmp_path / f"{SECRET}.dcm", pixels, PatientName=SECRET, **tags)

    return write


def fitted(file, size):
    """A grey picture in a square."""
    return read_image(file, (1, size, size))[0]


def ramp(kind=np.uint8, top=255):
    return np.linspace(0, top, 64 * 64).reshape(64, 64).astype(kind)


def test_both_monochrome_interpretations_give_the_same_picture(written):
    bright = fitted(written(ramp()), 64)
    inverted = fitted(written(255 - ramp(), photometric="MONOCHROME1"), 64)
    np.testing.assert_allclose(inverted, bright, atol=1e-5)
    assert bright[0, 0] < 0.01
    assert bright[-1, -1] > 0.99


@pytest.mark.parametrize(
    ("kind", "bits", "top"),
    [(np.uint8, 8, 255), (np.uint16, 12, 4095), (np.uint16, 16, 65535), (np.int16, 16, 32767)],
)
def test_bit_depth_does_not_change_the_picture(written, kind, bits, top):
    expected = fitted(written(ramp(np.uint16, 65535)), 64)
    found = fitted(written(ramp(kind, top), bits=bits), 64)
    np.testing.assert_allclose(found, expected, atol=1 / 200)


def test_signed_values_and_rescale_keep_their_order(written):
    stored = (ramp(np.int16, 2000) - 1000).astype(np.int16)
    plain = fitted(written(stored), 64)
    rescaled = fitted(written(stored, RescaleSlope=2, RescaleIntercept=-1024), 64)
    np.testing.assert_allclose(rescaled, plain, atol=1e-5)
    falling = fitted(written(stored, RescaleSlope=-1, RescaleIntercept=0), 64)
    np.testing.assert_allclose(falling, 1 - plain, atol=1e-5)


def test_window_is_applied_after_rescale(written):
    stored = ramp(np.uint16, 2000)
    file = written(
        stored, RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=0, WindowWidth=400, bits=12
    )
    image = fitted(file, 64)
    values = stored.astype(float) - 1000
    expected = np.clip((values + 0.5) / 399 + 0.5, 0, 1)  # DICOM PS3.3 C.11.2.1.2
    np.testing.assert_allclose(image, expected, atol=1e-3)


def test_first_of_several_windows_is_used(written):
    one = fitted(written(ramp(), WindowCenter=100, WindowWidth=50), 64)
    several = fitted(written(ramp(), WindowCenter=[100, 10], WindowWidth=[50, 5]), 64)
    assert np.array_equal(one, several)


def test_without_a_window_the_extremes_do_not_set_the_contrast(written):
    pixels = ramp(np.uint16, 1000)
    pixels[0, 0] = 60_000  # a burnt-in marker
    image = fitted(written(pixels), 64)
    assert image.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (64, 2), (7, 200)])
def test_picture_that_is_not_square_is_padded_and_keeps_its_proportions(written, shape):
    pixels = np.full(shape, 200, np.uint8)
    pixels[0, 0] = 0
    image = fitted(written(pixels, WindowCenter=100, WindowWidth=200), 64)
    assert image.shape == (64, 64)
    bright = (image > 0.5).any(1).sum(), (image > 0.5).any(0).sum()
    ratio = 64 / max(shape)
    assert bright == (max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio)))
    rows, columns = np.nonzero(image > 0.5)
    assert abs(rows.mean() - 31.5) <= 1
    assert abs(columns.mean() - 31.5) <= 1


def test_shrinking_averages_areas():
    board = np.indices((64, 64)).sum(0) % 2
    small = resize(board.astype(np.float32), 8)
    assert np.abs(small[1:-1, 1:-1] - 0.5).max() < 0.05


@pytest.mark.parametrize("size", [32, 64, 100])
def test_values_stay_between_0_and_1_as_float32(written, size):
    noise = np.random.default_rng(0).integers(0, 65535, (50, 70), np.uint16)
    image = fitted(written(noise), size)
    assert image.dtype == np.float32
    assert image.shape == (size, size)
    assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize("value", [0, 128, 255])
def test_uniform_picture_is_finite(written, value):
    assert np.isfinite(fitted(written(np.full((16, 16), value, np.uint8)), 32)).all()


def refusal(file):
    with pytest.raises(UnreadableImage) as caught:
        fitted(file, 32)
    text = str(caught.value)
    assert text in REASONS
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for part in (SECRET, "Doe", "1970", file.name):
        assert part not in text
    return text


def test_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / f"{SECRET}.dcm") == "the file is missing"


@pytest.mark.parametrize("content", [b"", SECRET.encode(), b"\0" * 200, b"\x89PNG" + b"x" * 500])
def test_file_of_another_kind_is_refused(tmp_path, content):
    file = tmp_path / f"{SECRET}.dcm"
    file.write_bytes(content)
    assert refusal(file) == "not a DICOM file"


def test_empty_folder_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / f"{SECRET}.dcm").mkdir()
    assert refusal(tmp_path / f"{SECRET}.dcm") == "no pixels"


@pytest.mark.parametrize(("place", "grey"), [(0.0, 10), (0.5, 30), (1.0, 50)])
def test_wanted_frame_is_shown_of_several(written, place, grey):
    frames = np.stack([np.full((16, 16), 10 * (i + 1), np.uint8) for i in range(5)])
    file = written(frames, WindowCenter=128, WindowWidth=256)
    picture = read_dicom(file, View(slice=place))
    np.testing.assert_allclose(picture, grey / 255, atol=0.005)


def test_colour_is_kept_for_three_channels_and_becomes_its_brightness_for_one(written):
    pixels = np.zeros((1, 3), np.uint8)
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    more = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PixelData": colours.tobytes() + b"\0"}
    file = written(pixels, photometric="RGB", **more)
    np.testing.assert_allclose(read_dicom(file, View()), [np.eye(3)], atol=1e-3)
    brightness = np.array([[0.299, 0.587, 0.114]])
    np.testing.assert_allclose(in_channels(read_dicom(file, View()), 1)[0], brightness, atol=1e-3)
    squares = read_image(file, (3, 3, 3))
    np.testing.assert_allclose(squares[:, 1], np.eye(3), atol=1e-3)
    assert not squares[:, [0, 2]].any()


def test_grey_is_repeated_for_three_channels(written):
    file = written(ramp())
    found = read_image(file, (3, 16, 16))
    np.testing.assert_array_equal(found, np.stack([fitted(file, 16)] * 3))


def test_palette_is_looked_up(written):
    tags = {}
    for place, colour in enumerate(("Red", "Green", "Blue")):
        table = np.zeros(4, np.uint16)
        table[place + 1] = 65535
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    file = written(np.array([[1, 2], [3, 0]], np.uint8), photometric="PALETTE COLOR", **tags)
    expected = np.eye(4, 3).reshape(2, 2, 3)
    np.testing.assert_allclose(read_dicom(file, View()), expected, atol=1e-3)


def test_padding_is_black_and_does_not_set_the_contrast(written):
    pixels = ramp(np.int16, 1000)
    pixels[:, :20] = -2000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        padded = written(pixels, photometric=photometric, PixelPaddingValue=-2000)
        picture = read_dicom(padded, View())
        assert (picture[:, :20] == 0).all()
        assert picture[:, 20:].mean() == pytest.approx(0.5, abs=0.02)


def test_window_of_the_site_file_is_for_ct_alone(written):
    pixels = ramp(np.int16, 4000)
    own = {"RescaleIntercept": -1024, "RescaleSlope": 1, "WindowCenter": 0, "WindowWidth": 4000}
    view = View(ct_window=(40.0, 400.0))
    picture = read_dicom(written(pixels, Modality="CT", **own), view)
    expected = np.clip((pixels - 1024.0 - 39.5) / 399 + 0.5, 0, 1)
    np.testing.assert_allclose(picture, expected, atol=1e-5)
    other = read_dicom(written(pixels, Modality="MR", **own), view)
    np.testing.assert_allclose(other, read_dicom(written(pixels, **own), View()), atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_bits_beside_the_stored_ones_are_not_pixels(written, kind):
    pixels = ramp(kind, 2000)
    stained = (pixels.view(np.uint16) | 0x5000).view(kind)
    plain = read_dicom(written(pixels, bits=12), View())
    np.testing.assert_array_equal(read_dicom(written(stained, bits=12), View()), plain)


def test_stored_bits_on_top_are_read_as_if_below(written):
    pixels = ramp(np.uint16, 4000)
    plain = read_dicom(written(pixels, bits=12), View())
    shifted = written((pixels << 4).astype(np.uint16), bits=12, HighBit=15)
    np.testing.assert_array_equal(read_dicom(shifted, View()), plain)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_file_cut_anywhere_is_refused(written, kept):
    file = written(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    refusal(file)


@pytest.mark.parametrize(
    "tags",
    [
        {"Rows": 0},
        {"BitsAllocated": 7},
        {"BitsStored": 0, "HighBit": 0},
        {"PixelRepresentation": 9},
        {"Columns": 60_000},
        {"PixelData": b""},
    ],
)
def test_tags_that_contradict_the_pixels_are_refused(written, tags):
    refusal(written(np.zeros((16, 16), np.uint8), **tags))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (b"\x28\x00\x08\x00IS", SECRET),  # NumberOfFrames
        (b"\x28\x00\x53\x10DS", SECRET),  # RescaleSlope
        (b"\x28\x00\x50\x10DS", SECRET),  # WindowCenter
    ],
)
def test_free_text_in_a_number_does_not_get_into_the_reason(written, tag, value):
    tags = {"NumberOfFrames": 1, "RescaleSlope": 1, "RescaleIntercept": 0}
    file = written(np.eye(16, dtype=np.uint8), WindowCenter=1, WindowWidth=2, **tags)
    content = file.read_bytes()
    at = content.index(tag) + len(tag)
    length = int.from_bytes(content[at : at + 2], "little")
    text = (value + " ").encode()[: len(value) + len(value) % 2]
    new = len(text).to_bytes(2, "little") + text
    file.write_bytes(content[:at] + new + content[at + 2 + length :])
    refusal(file)


def image_or_reason(file):
    try:
        return fitted(file, 64)
    except UnreadableImage as error:
        return str(error)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="shared/data/dicom_samples is not here")
@pytest.mark.filterwarnings("ignore")
def test_real_files_of_many_makers_are_read_or_refused_in_fixed_words():
    files = sorted(SAMPLES.rglob("*.dcm"))
    assert len(files) > 20
    read = 0
    for file in files:
        image = image_or_reason(file)
        if isinstance(image, str):
            assert image in REASONS, file
        else:
            read += 1
            assert np.isfinite(image).all(), file
            assert 0 <= image.min() < image.max() <= 1, file
    assert read == len(files) - 1  # OT-PAL-8-face.dcm is no Part 10 file


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="shared/data/dicom_samples is not here")
@pytest.mark.filterwarnings("ignore")
def test_bytes_flipped_anywhere_in_a_real_header_never_crash(tmp_path):
    source = next(f for f in sorted(SAMPLES.rglob("*.dcm")) if f.stat().st_size < 200_000)
    target = tmp_path / "flipped.dcm"
    shutil.copyfile(source, target)
    content = bytearray(source.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for at in rng.integers(132, min(len(content), 3000), size=4):
            damaged[at] = int(rng.integers(256))
        target.write_bytes(damaged)
        found = image_or_reason(target)
        assert not isinstance(found, str) or found in REASONS


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_is_no_file_is_unreadable_and_never_waited_for(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    if kind == "pipe":
        os.mkfifo("x.dcm")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("x.dcm")
    else:
        os.mkdir("x.dcm")

    def give_up(*_):
        pytest.fail("reading it waits for ever")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    try:
        with pytest.raises(UnreadableImage, match=r"not a DICOM file|no pixels"):
            fitted(tmp_path / "x.dcm", 32)
    finally:
        signal.alarm(0)
