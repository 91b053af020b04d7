"""Whole series, frames and NIfTI volumes, however stored: the patient's axes, one contrast."""

import gzip
from pathlib import Path
from typing import get_args

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from clients.images import dicom_volume
from clients.images.box import Grid, MeasuredBox
from clients.images.dicom_volume import read_dicom_volume
from clients.images.picture import Refusal, UnreadableImage, View
from clients.images.read import read_image

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "dicom_samples"
SHAPE = (1, 8, 32, 32)
AXIAL = ([1, 0, 0], [0, 1, 0])
STORED = {
    "axial": AXIAL,
    "axial, from the back": ([-1, 0, 0], [0, -1, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1]),
    "sagittal": ([0, 1, 0], [0, 0, -1]),
    "oblique": ([0.96, 0.28, 0], [-0.28, 0.96, 0]),
}


def reason(path, view=View(), shape=SHAPE, **more):  # noqa: B008  (immutable)
    with pytest.raises(UnreadableImage) as caught:
        read_image(path, shape, view, **more)
    return caught.value.reason


def head():
    """A volume of (8, 32, 32) from feet, front and right, with no symmetry, 0 to 1000."""
    z, y, x = np.mgrid[0:8, 0:32, 0:32]
    volume = 30 * z + 8 * y + 5 * x
    volume[5:7, 3:9, 20:29] += 350
    return volume.astype(np.int16)


@pytest.fixture
def series(tmp_path, write_dicom):
    """Write a volume of the patient, stored as planes of some direction, under shuffled names."""

    def write(volume, directions=AXIAL, folder="s", spacing=(2.0, 1.0, 1.0), skip=(), **tags):
        across, down = (np.array(one, float) for one in directions)
        normal = np.cross(across, down)
        axes = [int(np.abs(one).argmax()) for one in (normal, down, across)]
        stored = np.transpose(volume, [2 - axis for axis in axes])
        stored = stored[
            tuple(
                slice(None, None, int(np.sign(one[axis])))
                for one, axis in zip((normal, down, across), axes, strict=True)
            )
        ]
        steps = [spacing[2 - axis] for axis in axes]
        for i, plane in enumerate(stored):
            if i in skip:
                continue
            more = {
                "Modality": "CT",
                "SOPClassUID": CTImageStorage,
                "SeriesInstanceUID": "1.2.3",
                "InstanceNumber": 99 - i,
                "ImagePositionPatient": [round(float(n), 6) for n in normal * steps[0] * i],
                "ImageOrientationPatient": [*across, *down],
                "PixelSpacing": steps[1:],
                **{name: tag(i) if callable(tag) else tag for name, tag in tags.items()},
            }
            name = f"{(7 * i) % 11:02d}-{i}.dcm"
            write_dicom(tmp_path / folder / name, plane, bits=16, **more)
        return tmp_path / folder

    return write


def expected(volume):
    low, high = np.percentile(volume, [0.5, 99.5])
    return np.clip((volume - low) / (high - low), 0, 1)


@pytest.mark.parametrize("stored", STORED)
def test_series_of_any_direction_becomes_axial_from_feet_front_and_right(series, stored):
    found = read_image(series(head(), STORED[stored]), SHAPE)
    np.testing.assert_allclose(found[0], expected(head()), atol=2e-3)


def test_file_of_a_series_stands_for_all_of_it_and_for_no_other(series):
    folder = series(head())
    series(head()[::-1] // 2, folder="other", SeriesInstanceUID="4.5.6")
    for file in (folder.parent / "other").iterdir():
        file.rename(folder / f"other-{file.name}")
    dicom_volume._read.cache_clear()
    one = read_image(folder / "03-2.dcm", SHAPE)
    np.testing.assert_allclose(one[0], expected(head()), atol=2e-3)
    other = read_image(next(folder.glob("other-*")), SHAPE)
    np.testing.assert_allclose(other[0], expected(head()[::-1] // 2), atol=4e-3)
    assert reason(folder) == "the slices do not make one volume"


def test_slice_that_was_added_is_seen(series):
    folder = series(head(), skip=[7])
    assert read_image(folder, SHAPE).shape == SHAPE
    series(head(), folder="new", skip=range(7))
    (last,) = (folder.parent / "new").iterdir()
    last.rename(folder / last.name)
    np.testing.assert_allclose(read_image(folder, SHAPE)[0], expected(head()), atol=2e-3)


def test_ct_window_and_a_common_window_set_the_contrast_of_each_plane(series):
    folder = series(head() - 300, RescaleIntercept=100, RescaleSlope=1)
    found = read_image(folder, SHAPE, View(ct_window=(100, 401)))
    np.testing.assert_allclose(found[0], np.clip((head() - 300) / 400 + 0.5, 0, 1), atol=2e-3)
    windowed = series(head(), folder="w", WindowCenter=300, WindowWidth=401)
    found = read_image(windowed, SHAPE)
    np.testing.assert_allclose(found[0], np.clip((head() - 299.5) / 400 + 0.5, 0, 1), atol=2e-3)


def test_windows_that_differ_from_plane_to_plane_are_not_used(series):
    folder = series(head(), WindowCenter=lambda i: 100 + 90 * i, WindowWidth=100)
    np.testing.assert_allclose(read_image(folder, SHAPE)[0], expected(head()), atol=2e-3)


def test_padding_is_black_and_does_not_set_the_contrast_of_a_volume(series):
    volume = head()
    volume[:, :, :6] = -2000
    found = read_image(series(volume, PixelPaddingValue=-2000), SHAPE)[0]
    assert not found[:, :, :6].any()
    low, high = np.percentile(head()[:, :, 6:], [0.5, 99.5])
    inner = np.clip((head()[:, :, 6:] - low) / (high - low), 0, 1)
    np.testing.assert_allclose(found[:, :, 6:], inner, atol=2e-3)


def test_pixels_that_are_not_square_keep_the_proportions_of_the_patient(series):
    found = read_image(
        series(
            np.full((8, 32, 32), 500, np.int16),
            spacing=(2, 1, 0.5),
            WindowCenter=500,
            WindowWidth=2,
        ),
        SHAPE,
    )[0]
    assert (found[0] > 0).sum(1).max() == 16
    assert (found[0] > 0).any(1).sum() == 32


def test_millimetres_cut_or_surround_a_volume(series):
    folder = series(np.full((18, 32, 32), 500, np.int16), WindowCenter=500, WindowWidth=2)
    found = read_image(folder, SHAPE, spacing_mm=(8.0, 2.0))[0]
    assert [bool(plane.any()) for plane in found] == [False, False, *[True] * 4, False, False]
    assert (found.max(0) > 0).sum() == 16 * 16


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"skip": [3]}, "slices are missing or unevenly spaced"),
        ({"ImagePositionPatient": lambda i: [0, 0, 2.0 * (i // 2)]}, "slices are missing or"),
        ({"ImagePositionPatient": lambda i: [0, 0, 0]}, "slices are missing or unevenly spaced"),
        ({"ImagePositionPatient": lambda i: None}, "the slices do not say where they lie"),
        ({"ImagePositionPatient": lambda i: [0, 0.7 * i, 2.0 * i]}, "do not make one volume"),
        ({"skip": range(1, 8)}, "a single picture, not a volume"),
        ({"ImageOrientationPatient": [0.0] * 6}, ""),
    ],
)
def test_series_that_is_not_whole_is_refused(series, change, told):
    assert told in reason(series(head(), **change))


def test_one_damaged_plane_refuses_the_volume(series):
    folder = series(head())
    file = folder / "03-2.dcm"
    file.write_bytes(file.read_bytes()[:-100])
    assert reason(folder) == "the number of frames contradicts the pixels"


def test_picture_is_no_volume(written_film, tmp_path):
    assert reason(written_film) == "a single picture, not a volume"
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    assert reason(tmp_path / "x.png", kind="png") == "a single picture, not a volume"
    nibabel.Nifti1Image(np.zeros((9, 9), np.int16), np.eye(4)).to_filename(tmp_path / "x.nii")
    assert reason(tmp_path / "x.nii", kind="nifti") == "a single picture, not a volume"


@pytest.fixture
def written_film(tmp_path, write_dicom):
    return write_dicom(
        tmp_path / "film" / "a.dcm", np.zeros((8, 8), np.uint8), SeriesInstanceUID="9.9"
    )


def framed(path, volume, places, write_dicom, **tags):
    """Frames of one file, each with its place, as enhanced CT and MR files have them."""
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [1.0, 1.0]
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    frames = []
    for place in places:
        frames.append(Dataset())
        frames[-1].PlanePositionSequence = [Dataset()]
        frames[-1].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2.0 * place]
    return write_dicom(
        path,
        volume[list(places)],
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **tags,
    )


def test_frames_of_one_file_are_a_volume_in_the_order_of_their_places(tmp_path, write_dicom):
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    file = framed(tmp_path / "f" / "a.dcm", head(), order, write_dicom)
    for path in (file, file.parent):
        np.testing.assert_allclose(read_image(path, SHAPE)[0], expected(head()), atol=2e-3)
    gap = framed(tmp_path / "gap.dcm", head(), [0, 1, 2, 4, 5, 6], write_dicom)
    assert reason(gap) == "slices are missing or unevenly spaced"


def test_frames_without_a_place_keep_their_order_and_colours(tmp_path, write_dicom):
    frames = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8)
    file = write_dicom(
        tmp_path / "a.dcm",
        np.zeros((8, 32, 32), np.uint8),
        photometric="RGB",
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PixelData=frames.tobytes(),
    )
    found = read_image(file, (3, *SHAPE[1:]))
    np.testing.assert_allclose(found, np.moveaxis(frames, -1, 0) / 255, atol=1e-3)
    grey = read_image(file, SHAPE)
    np.testing.assert_allclose(grey[0], frames / 255 @ [0.299, 0.587, 0.114], atol=1e-3)
    assert reason(file, spacing_mm=(1.0, 1.0)) == "the slices do not say where they lie"


def test_claimed_frames_beyond_all_memory_are_refused(tmp_path, write_dicom):
    file = write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), NumberOfFrames=65_536,
                       Rows=8192, Columns=8192)  # fmt: skip
    assert reason(file) == "too large to be decoded"


def test_frames_of_a_real_file_are_in_order_in_every_transfer_syntax():
    path = SAMPLES / "pydicom_data" / "emri_small.dcm"
    if not path.is_file():
        pytest.skip(f"no {path}")
    volume = pydicom.dcmread(path).pixel_array  # without positions: in the order of the file
    found = read_image(path, (1, *volume.shape))
    np.testing.assert_allclose(found[0], expected(volume), atol=1e-5)
    for name in ("emri_small_RLE.dcm", "emri_small_jpeg_ls_lossless.dcm"):
        np.testing.assert_array_equal(read_image(path.with_name(name), found.shape), found)


@pytest.mark.parametrize("stored", STORED)
def test_simpleitk_finds_the_same_axes_order_and_spacing(series, stored):
    volume = np.random.default_rng(2).integers(-900, 900, (8, 32, 32), np.int16)
    folder = series(volume, STORED[stored], spacing=(2.5, 0.75, 0.5), RescaleIntercept=-24)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = SimpleITK.DICOMOrient(reader.Execute(), "LPS")
    assert theirs.GetSpacing() == pytest.approx((0.5, 0.75, 2.5))
    values = SimpleITK.GetArrayFromImage(theirs).astype(float)
    box = MeasuredBox(Grid(values.shape, (2.5, 0.75, 0.5)), SHAPE, (3.0, 1.0))
    for place, plane in enumerate(values):
        box.add(place, plane)
    found = read_image(folder, SHAPE, spacing_mm=(3.0, 1.0))
    np.testing.assert_allclose(found, box.values(), atol=1e-4)


@pytest.mark.parametrize("stored", ["axial", "sagittal"])
def test_finer_box_holds_what_simpleitk_interpolates(series, stored):
    volume = np.random.default_rng(3).integers(0, 900, (8, 24, 20), np.int16)
    spacing = (2.5, 0.75, 0.75)
    folder = series(volume, STORED[stored], spacing=spacing, WindowCenter=450.5, WindowWidth=901)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = SimpleITK.DICOMOrient(reader.Execute(), "LPS")
    filter_ = SimpleITK.ResampleImageFilter()
    size, pitch = (48, 48, 24), (0.5, 0.5, 1.25)
    filter_.SetSize(size)
    filter_.SetOutputSpacing(pitch)
    filter_.SetOutputDirection(theirs.GetDirection())
    middle = [
        o + (n - 1) / 2 * s
        for o, n, s in zip(theirs.GetOrigin(), theirs.GetSize(), theirs.GetSpacing(), strict=True)
    ]
    filter_.SetOutputOrigin(
        [m - (n - 1) / 2 * s for m, n, s in zip(middle, size, pitch, strict=True)]
    )
    filter_.SetInterpolator(SimpleITK.sitkLinear)
    values = SimpleITK.GetArrayFromImage(filter_.Execute(theirs)).astype(float)
    found = read_image(folder, (1, 24, 48, 48), spacing_mm=(1.25, 0.5))[0]
    inner = slice(3, -3), slice(8, -8), slice(12, -12)  # at the rims each has its own rule
    np.testing.assert_allclose(found[inner], values[inner] / 900, atol=3e-3)


def test_every_real_file_is_a_volume_or_refused_with_a_reason():
    files = list(SAMPLES.glob("*/*.dcm"))
    if not files:
        pytest.skip(f"no {SAMPLES}")
    volumes, refused = 0, set()
    for file in files:
        try:
            found = read_dicom_volume(file, SHAPE, View())
        except UnreadableImage as error:
            refused.add(error.reason)
            continue
        assert found.shape == SHAPE
        assert 0 <= found.min() < found.max() <= 1
        volumes += 1
    assert volumes >= 4
    assert refused < set(get_args(Refusal))


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL", "IRP"])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_nifti_is_turned_to_the_patient_however_it_is_stored(tmp_path, codes, name):
    along = head().transpose(2, 1, 0).astype(np.float32)
    image = nibabel.Nifti1Image(along, np.diag([-1.0, -1.0, 2.0, 1.0]))  # LPS
    orientation = nibabel.orientations
    wanted = orientation.ornt_transform(
        nibabel.io_orientation(image.affine), orientation.axcodes2ornt(codes)
    )
    image.as_reoriented(wanted).to_filename(tmp_path / name)
    found = read_image(tmp_path / name, SHAPE, kind="nifti")
    np.testing.assert_allclose(found[0], expected(head()), atol=2e-3)


def test_dicom_and_nifti_of_one_volume_are_the_same(series, tmp_path):
    volume = np.random.default_rng(1).normal(0, 1, (13, 40, 28)).cumsum(0).cumsum(1)
    volume = (100 * volume).astype(np.int16)
    spacing = (3.0, 0.8, 1.1)
    folder = series(volume, STORED["sagittal"], spacing=spacing)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1])
    nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine).to_filename(tmp_path / "x.nii")
    for more in ({}, {"spacing_mm": (4.0, 1.5)}):
        of_dicom = read_image(folder, SHAPE, **more)
        of_nifti = read_image(tmp_path / "x.nii", SHAPE, kind="nifti", **more)
        np.testing.assert_allclose(of_dicom, of_nifti, atol=1e-4)


def test_first_of_several_times_and_none_of_a_cut_file(tmp_path):
    times = np.stack([head().transpose(2, 1, 0), np.zeros((32, 32, 8), np.int16)], axis=-1)
    nibabel.Nifti1Image(times, np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(tmp_path / "x.nii.gz")
    found = read_image(tmp_path / "x.nii.gz", SHAPE, kind="nifti")
    np.testing.assert_allclose(found[0], expected(head()), atol=2e-3)
    whole = gzip.decompress((tmp_path / "x.nii.gz").read_bytes())
    (tmp_path / "cut.nii").write_bytes(whole[:5000])
    assert reason(tmp_path / "cut.nii", kind="nifti") == "the pixels cannot be decoded"
