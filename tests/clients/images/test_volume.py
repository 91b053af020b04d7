"""Slices and frames come out in the patient's order, with their spacing, or not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from clients.images.dicom import read_dicom
from clients.images.picture import UnreadableImage, View
from clients.images.volume import assemble, frame_order, read_slice

AXIAL = [1, 0, 0, 0, 1, 0]
CORONAL = [1, 0, 0, 0, 0, -1]


@pytest.fixture
def series(tmp_path, write_dicom):
    """Write slices of one series under meaningless names; slice i is of grey 20 * (i + 1)."""

    def write(places, orientation=AXIAL, normal=(0, 0, 1), **tags):
        for i, place in enumerate(places):
            more = {
                "SeriesInstanceUID": "1.2.3",
                "InstanceNumber": i + 1,
                "ImagePositionPatient": [float(part) * place for part in normal],
                "ImageOrientationPatient": orientation,
                "PixelSpacing": [0.5, 0.75],
                "WindowCenter": 128,
                "WindowWidth": 256,
                **{name: value(i) for name, value in tags.items()},
            }
            name = f"{(7 * i) % 11:02d}-{i}.dcm"
            write_dicom(tmp_path / "s" / name, np.full((8, 8), 20 * (i + 1), np.uint8), **more)
        return tmp_path / "s"

    return write


def assembled(folder, view=View()):  # noqa: B008  (immutable)
    return assemble([read_slice(file, view) for file in sorted(folder.iterdir())])


def test_slices_are_ordered_by_position_not_by_number_or_name(series):
    volume = assembled(series([30, 10, 20, 0, 40]))
    assert [s.number for s in volume.slices] == [4, 2, 3, 1, 5]
    assert volume.spacing == (10, 0.5, 0.75)
    assert volume.even


def test_order_follows_the_normal_of_any_plane(series):
    volume = assembled(series([3, 1, 2], CORONAL, normal=(0, 1, 0)))
    assert [s.number for s in volume.slices] == [2, 3, 1]


def test_missing_slice_makes_the_spacing_uneven(series):
    volume = assembled(series([0, 10, 20, 40, 50]))
    assert volume.spacing[0] == 10
    assert not volume.even


def test_without_positions_the_numbers_say(series):
    folder = series([0, 0, 0], InstanceNumber=lambda i: 3 - i, ImagePositionPatient=lambda i: None)
    volume = assembled(folder)
    assert [s.number for s in volume.slices] == [1, 2, 3]
    assert volume.spacing[0] == 0


@pytest.mark.parametrize(("place", "grey"), [(0.0, 80), (0.5, 60), (1.0, 100)])
def test_folder_of_a_series_shows_its_wanted_slice(series, place, grey):
    picture = read_dicom(series([30, 10, 20, 0, 40]), View(slice=place))
    np.testing.assert_allclose(picture, grey / 255, atol=0.005)


@pytest.mark.parametrize(
    "odd",
    [
        {"SeriesInstanceUID": lambda i: f"1.2.{i}"},
        {"SeriesInstanceUID": lambda i: None},
        {"ImageOrientationPatient": lambda i: CORONAL if i == 1 else AXIAL},
    ],
)
def test_slices_of_several_volumes_are_refused(series, odd):
    with pytest.raises(UnreadableImage, match="one volume"):
        read_dicom(series([0, 10, 20], **odd), View())


def test_rules_choose_the_slices_of_a_folder(series):
    folder = series([0, 10, 20, 30], ImageType=lambda i: ["ORIGINAL", "AB"[i % 2]])
    view = View(slice=1.0, select={"ImageType": ("b",)})
    np.testing.assert_allclose(read_dicom(folder, view), 80 / 255, atol=0.005)
    with pytest.raises(UnreadableImage, match="not selected"):
        read_dicom(folder, View(exclude={"ImageType": ("ORIG*",)}))


def test_link_out_of_the_folder_is_not_followed(series, tmp_path):
    folder = series([0, 10])
    outside = tmp_path / "outside.dcm"
    (folder / "00-0.dcm").rename(outside)
    (folder / "linked.dcm").symlink_to(outside)
    np.testing.assert_allclose(read_dicom(folder, View(slice=0)), 40 / 255, atol=0.005)


def enhanced(positions):
    header = Dataset()
    header.SharedFunctionalGroupsSequence = [Dataset()]
    header.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = [Dataset()]
    plane = header.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = AXIAL
    frames = []
    for place in positions:
        frames.append(Dataset())
        frames[-1].PlanePositionSequence = [Dataset()]
        frames[-1].PlanePositionSequence[0].ImagePositionPatient = [1, 2, place]
    header.PerFrameFunctionalGroupsSequence = frames
    return header


@given(st.lists(st.integers(-500, 500), min_size=1, max_size=20, unique=True))
def test_frames_of_one_file_are_ordered_by_position(places):
    order = frame_order(enhanced(places), len(places))
    assert [places[i] for i in order] == sorted(places)


def test_frames_without_a_position_keep_their_order():
    header = enhanced([3, 1, 2])
    del header.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    assert frame_order(header, 3) == [0, 1, 2]
    assert frame_order(Dataset(), 4) == [0, 1, 2, 3]
