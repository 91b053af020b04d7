"""Pixels of DICOM files change as asked; everything else of a file stays."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from clients.images.read import read_image
from simulations.shifts.looks import Look
from simulations.shifts.pixels import rewrite

PIXELS = np.random.default_rng(0).integers(100, 4000, (24, 20)).astype(np.uint16)
TONE = (Look(gamma=2.0),)


def test_grey_changes_between_the_image_s_own_extremes(tmp_path, write_dicom):
    source = write_dicom(tmp_path / "a.dcm", PIXELS, bits=12)
    assert rewrite(source, tmp_path / "b.dcm", TONE, "a") == ""
    low, high = PIXELS.min(), PIXELS.max()
    expected = low + (high - low) * ((PIXELS - low) / (high - low)) ** 2
    assert pydicom.dcmread(tmp_path / "b.dcm").pixel_array == pytest.approx(expected, abs=0.51)


def test_every_other_tag_stays(tmp_path, write_dicom):
    more = {"PatientID": "17", "PixelSpacing": ["0.5", "0.5"], "WindowWidth": 4000}
    source = write_dicom(tmp_path / "a.dcm", PIXELS, bits=12, **more)
    assert rewrite(source, tmp_path / "b.dcm", TONE, "a") == ""
    before, after = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "b.dcm")
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
    del before.PixelData, after.PixelData
    assert before == after


def test_both_ways_round_and_signed_values_show_the_same_change(tmp_path, write_dicom):
    top = 4100
    stored = {
        "plain": (PIXELS, "MONOCHROME2"),
        "inverted": ((top - PIXELS).astype(np.uint16), "MONOCHROME1"),
        "signed": (PIXELS.astype(np.int16) - 2000, "MONOCHROME2"),
    }
    shown = []
    for name, (pixels, photometric) in stored.items():
        source = write_dicom(tmp_path / f"{name}.dcm", pixels, photometric=photometric)
        assert rewrite(source, tmp_path / f"{name}-b.dcm", TONE, "same") == ""
        shown.append(read_image(tmp_path / f"{name}-b.dcm", (1, 24, 24))[0])
    assert shown[1] == pytest.approx(shown[0], abs=2e-3)
    assert shown[2] == pytest.approx(shown[0], abs=2e-3)


def test_pixel_size_and_number_change_together(tmp_path, write_dicom):
    source = write_dicom(
        tmp_path / "a.dcm", PIXELS, bits=12, PixelSpacing=["0.5", "0.4"], ImagerPixelSpacing=[1, 1]
    )
    assert rewrite(source, tmp_path / "b.dcm", (Look(spacing=1.6),), "a") == ""
    after = pydicom.dcmread(tmp_path / "b.dcm")
    assert (after.Rows, after.Columns) == after.pixel_array.shape == (15, 12)
    assert after.Rows * after.PixelSpacing[0] == pytest.approx(24 * 0.5)
    assert after.Columns * after.PixelSpacing[1] == pytest.approx(20 * 0.4)
    assert after.Columns * after.ImagerPixelSpacing[1] == pytest.approx(20)


def test_compressed_file_is_decoded_and_gives_the_same_pixels(tmp_path, write_dicom):
    plain = write_dicom(tmp_path / "a.dcm", PIXELS, bits=12)
    dataset = pydicom.dcmread(plain)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "c.dcm")
    for name in "ac":
        assert rewrite(tmp_path / f"{name}.dcm", tmp_path / f"{name}2.dcm", TONE, "same") == ""
    one, other = (pydicom.dcmread(tmp_path / f"{name}2.dcm") for name in "ac")
    assert not other.file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(one.pixel_array, other.pixel_array)
    assert one.SOPInstanceUID == other.SOPInstanceUID


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, ImplicitVRLittleEndian])
def test_uncompressed_syntax_is_kept_and_read_alike(tmp_path, write_dicom, syntax):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", PIXELS, bits=12))
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = PIXELS.astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = syntax
    little, implicit = syntax.is_little_endian, syntax.is_implicit_VR
    pydicom.dcmwrite(
        tmp_path / "other.dcm",
        dataset,
        little_endian=little,
        implicit_vr=implicit,
        force_encoding=True,
    )
    assert rewrite(tmp_path / "a.dcm", tmp_path / "a2.dcm", TONE, "a") == ""
    assert rewrite(tmp_path / "other.dcm", tmp_path / "b2.dcm", TONE, "a") == ""
    after = pydicom.dcmread(tmp_path / "b2.dcm")
    assert after.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(after.pixel_array, pydicom.dcmread(tmp_path / "a2.dcm").pixel_array)


def test_noise_is_an_image_s_own_and_comes_again(tmp_path, write_dicom):
    source = write_dicom(tmp_path / "a.dcm", PIXELS, bits=12)
    looks = (Look(noise=0.1, seed=5),)
    for target, name in (("b", "x"), ("c", "x"), ("d", "y")):
        rewrite(source, tmp_path / target, looks, name)
    b, c, d = ((tmp_path / name).read_bytes() for name in "bcd")
    assert b == c != d


def test_marker_is_declared_as_burned_in(tmp_path, write_dicom):
    source = write_dicom(tmp_path / "a.dcm", PIXELS, bits=12, BurnedInAnnotation="NO")
    rewrite(source, tmp_path / "b.dcm", (Look(artefact="marker", artefact_depth=0.3),), "a")
    assert pydicom.dcmread(tmp_path / "b.dcm").BurnedInAnnotation == "YES"


def test_files_that_are_no_grey_frame_are_left_with_a_reason(tmp_path, write_dicom):
    write_dicom(tmp_path / "frames.dcm", np.stack([PIXELS, PIXELS]))
    write_dicom(tmp_path / "flat.dcm", np.full((8, 8), 7, np.uint16))
    (tmp_path / "text.dcm").write_text("no image")
    cut = write_dicom(tmp_path / "cut.dcm", PIXELS)
    cut.write_bytes(cut.read_bytes()[:-100])
    reasons = {
        name: rewrite(tmp_path / f"{name}.dcm", tmp_path / "out.dcm", TONE, name)
        for name in ("frames", "flat", "text", "cut")
    }
    assert reasons == {
        "frames": "not a single grey frame",
        "flat": "an empty image",
        "text": "the pixels cannot be decoded",
        "cut": "the pixels cannot be decoded",
    }
    assert not (tmp_path / "out.dcm").exists()
