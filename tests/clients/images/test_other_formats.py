"""PNG and NIfTI to pictures: the values and the side of the patient that the file says."""

import gzip
import struct
import zlib

import nibabel
import numpy as np
import pytest
from PIL import Image

from clients.images.nifti import read_nifti
from clients.images.picture import UnreadableImage, View
from clients.images.png import read_png

RAMP = np.linspace(0, 1, 48).reshape(6, 8)


def reason(read, *arguments):
    with pytest.raises(UnreadableImage) as caught:
        read(*arguments)
    return caught.value.reason


@pytest.mark.parametrize(("kind", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_png_keeps_its_values_at_any_depth(tmp_path, kind, top):
    Image.fromarray((RAMP * top).round().astype(kind)).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_png(tmp_path / "x.png"), RAMP, atol=0.6 / top)


def test_colour_and_palette_png_keep_their_colours_and_transparency_is_black(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    picture = Image.fromarray(colours)
    for name, version in (("a", picture), ("b", picture.convert("P"))):
        version.save(tmp_path / f"{name}.png")
        np.testing.assert_allclose(read_png(tmp_path / f"{name}.png"), [np.eye(3)], atol=1e-3)
    clear = np.dstack([colours, np.zeros((1, 3), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "c.png")
    assert not read_png(tmp_path / "c.png").any()


def bomb(side):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a PNG file"),
        (b"GIF89a" + b"\0" * 60, "not a PNG file"),
        (bomb(10)[:20], "not a PNG file"),
        (bomb(10), "the pixels cannot be decoded"),
        (bomb(0), "the pixels cannot be decoded"),
        (bomb(100_000), "too large to be decoded"),
    ],
)
def test_bad_png_is_refused(tmp_path, content, expected):
    (tmp_path / "x.png").write_bytes(content)
    assert reason(read_png, tmp_path / "x.png") == expected


def test_missing_files_and_folders_are_refused(tmp_path):
    assert reason(read_png, tmp_path / "none.png") == "the file is missing"
    assert reason(read_nifti, tmp_path / "none.nii", View()) == "the file is missing"
    assert reason(read_png, tmp_path) == "not a PNG file"
    assert reason(read_nifti, tmp_path, View()) == "not a NIfTI file"


def marked(codes, name, tmp_path, depth=6):
    """A volume, stored along ``codes``, whose brightest voxel is left, anterior, in slice 2."""
    volume = np.zeros((4, 5, depth), np.float32)  # right to left, anterior to posterior, up
    volume += np.arange(depth)[None, None, :] + 0.01 * np.arange(4)[:, None, None]
    volume[3, 0, 2] = 100
    image = nibabel.Nifti1Image(volume, np.diag([-2.0, -2.0, 3.0, 1.0]))  # L, P, S
    orientation = nibabel.orientations
    wanted = orientation.ornt_transform(
        nibabel.io_orientation(image.affine), orientation.axcodes2ornt(codes)
    )
    image.as_reoriented(wanted).to_filename(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL", "IRP"])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_slice_is_shown_as_a_radiologist_sees_it_however_it_is_stored(tmp_path, codes, name):
    picture = read_nifti(marked(codes, name, tmp_path), View(slice=2.5 / 6))
    assert picture.shape == (5, 4)
    assert np.unravel_index(picture.argmax(), picture.shape) == (0, 3)  # front on top, left right
    assert picture[4, 0] < 0.1


def test_first_of_several_times_is_shown(tmp_path):
    volume = np.zeros((4, 4, 3, 2), np.int16)
    volume[..., 0] = np.arange(16).reshape(4, 4)[..., None]
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / "x.nii")
    assert read_nifti(tmp_path / "x.nii", View()).max() == 1


def test_bad_nifti_is_refused(tmp_path):
    file = marked("LPS", "x.nii", tmp_path)
    whole = file.read_bytes()
    cases = {
        b"": "not a NIfTI file",
        b"\0" * 400: "not a NIfTI file",
        whole[:300]: "not a NIfTI file",
        whole[:-40]: None,
        whole[:42] + struct.pack("<h", -3) + whole[44:]: None,
    }
    for content, expected in cases.items():
        file.write_bytes(content)
        if expected:
            assert reason(read_nifti, file, View()) == expected
        else:
            assert reason(read_nifti, file, View(slice=1.0))


def test_nifti_that_claims_too_much_is_refused_before_it_is_inflated(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 1))
    header.set_data_dtype(np.float32)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(tmp_path / "x.nii.gz", "wb") as file:
        file.write(header.binaryblock + b"\0" * 1000)
    assert reason(read_nifti, tmp_path / "x.nii.gz", View()) == "too large to be decoded"


def test_colour_and_not_finite_nifti_are_refused(tmp_path):
    colours = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(colours, np.eye(4)).to_filename(tmp_path / "c.nii")
    nibabel.Nifti1Image(np.full((4, 4, 2), np.nan), np.eye(4)).to_filename(tmp_path / "n.nii")
    for name in ("c.nii", "n.nii"):
        assert reason(read_nifti, tmp_path / name, View()) == "the pixels cannot be decoded"
