"""Copies of DICOM files: nothing planted anywhere is left, and the picture is the same."""

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_keyword, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from clients.deidentify import image
from clients.deidentify.check import LeftBehind, check_copy
from clients.deidentify.image import deidentify_image
from clients.deidentify.profile import Profile, action_of, identifying_words, table
from clients.deidentify.secret import Secret
from clients.images.dicom import read_dicom
from clients.images.picture import UnreadableImage, View
from clients.images.settings import Region
from federation.errors import UserError

SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "dicom_samples"
SECRET = Secret(b"k" * 32)
PLANT = "Zorbax"
NUMBER = "7788991"
DAY = "19770314"
PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096
OURS = {0x00080008, 0x00089007, 0x00120063}
"""The types of image, which are codes whoever is called so, and what says who made the copy."""
TEXT = ("LO", "LT", "SH", "ST", "UC", "UT", "PN", "CS", "AE")
PLANTED = {
    **dict.fromkeys(TEXT, PLANT.upper()),
    "DA": DAY,
    "DT": f"{DAY}101010",
    "TM": "101010",
    "AS": "047Y",
    "UI": f"1.2.{NUMBER}",
    "UR": f"http://{PLANT}/{NUMBER}",
    **dict.fromkeys(("DS", "IS", "UL", "SL", "FD", "FL"), int(NUMBER)),
    **dict.fromkeys(("US", "SS"), 7788),
    **dict.fromkeys(("OB", "OW", "UN"), f"{PLANT}{NUMBER}!".encode()),
}


@pytest.fixture
def copied(tmp_path, write_dicom):
    """Write a file, let a function change its data set, copy it; return original and copy."""

    def copy(change=lambda data: None, pixels=PIXELS, regions=(), name="x.dcm", **tags):
        folder = tmp_path / "in"
        file = write_dicom(folder / name, pixels, **{"PatientID": NUMBER, **tags})
        data = pydicom.dcmread(file)
        change(data)
        data.save_as(file, enforce_file_format=True)
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        outcome = deidentify_image(name, folder, out, SECRET, regions)
        made = [p for p in out.rglob("*") if p.is_file()] if out.exists() else []
        assert len(made) == (outcome.refused is None)
        return file, made[0] if made else outcome.refused

    return copy


def plant_everywhere(data):
    """Give every attribute of the profile's table, and some besides, a telling value."""
    for mask, tag in table():
        if mask != 0xFFFFFFFF or tag >> 16 in (0x0002, 0xFFFA, 0xFFFC, 0x0000):
            continue
        plant(data, tag)
    for keyword in ("SecondaryReviewerName", "RouteSegmentStartTime", "ManufacturerModelName"):
        plant(data, pydicom.datadict.tag_for_keyword(keyword))
    data.PatientName, data.PatientID = f"{PLANT}^Ann", NUMBER
    block = data.private_block(0x0099, "OF A MAKER", create=True)
    block.add_new(1, "LO", f"{PLANT}{NUMBER}")
    data.add_new(0x60003000, "OW", f"{PLANT}{NUMBER}!".encode())
    data.add_new(0x60004000, "LT", PLANT)
    data.add_new(0x50003000, "OW", f"{PLANT}{NUMBER}!".encode())
    data.preamble = f"{PLANT}{NUMBER}".encode().ljust(128, b"\0")


def plant(data, tag):
    try:
        vr = dictionary_VR(tag).split(" or ")[0]
    except KeyError:
        return
    if vr == "SQ":
        inner = Dataset()
        inner.PatientName, inner.AccessionNumber = PLANT, NUMBER
        inner.TextString = PLANT
        inner.ReferencedSOPInstanceUID = f"1.2.{NUMBER}"
        inner.ContentDate = DAY
        data.add_new(tag, "SQ", [inner])
    elif vr in PLANTED:
        data.add_new(tag, vr, PLANTED[vr])


@pytest.mark.filterwarnings("ignore")
def test_nothing_planted_in_any_attribute_of_the_profile_is_left(copied, tmp_path):
    source, copy = copied(plant_everywhere, Modality="CR", BurnedInAnnotation="NO")
    before, after = source.read_bytes().lower(), copy.read_bytes().lower()
    for word in (PLANT, NUMBER, DAY):
        assert word.lower().encode() in before
        assert word.lower().encode() not in after
    for word in (PLANT.lower(), NUMBER, DAY):
        assert word not in str(copy.relative_to(tmp_path)).lower()
    if shutil.which("dcmdump"):  # what another toolkit reads, decoded
        told = subprocess.run(["dcmdump", "+L", copy], capture_output=True, text=True).stdout
        assert "PatientIdentityRemoved" in told
        assert not any(word.lower() in told.lower() for word in (PLANT, NUMBER, DAY))


@pytest.mark.filterwarnings("ignore")
def test_every_listed_attribute_is_treated_as_the_table_says():
    seen = 0
    for (mask, tag), action in table().items():
        data = Dataset()
        if mask != 0xFFFFFFFF:
            continue
        plant(data, tag)
        if not data or dictionary_VR(tag) == "SQ":
            continue
        vr = data[tag].VR
        original = str(data[tag].value)
        Profile(SECRET, timedelta(days=500), frozenset()).apply(data)
        value = data[tag].value if tag in data else None
        keyword = dictionary_keyword(tag)
        if vr in ("DA", "DT") and keyword != "PatientBirthDate":
            assert str(value)[:4] == "1975", keyword
        elif vr == "TM" and keyword != "PatientBirthTime":
            assert str(value) == original
        elif action == "remove":
            assert tag not in data, keyword
        elif action == "empty":
            assert value in (None, "", b""), keyword
        else:
            assert str(value) != original, keyword
        seen += 1
    assert seen > 500


def test_picture_is_the_same_and_the_copy_says_what_was_done(copied):
    source, copy = copied(WindowCenter=2000, WindowWidth=3000, Modality="DX")
    np.testing.assert_array_equal(read_dicom(copy, View()), read_dicom(source, View()))
    data = pydicom.dcmread(copy)
    assert data.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in data.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107"]
    assert data.LongitudinalTemporalInformationModified == "MODIFIED"


def test_files_of_a_patient_agree_in_pseudonym_uids_and_days_between(copied):
    study = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.5"}
    _, one = copied(StudyDate="20240101", StudyTime="101500", **study)
    _, two = copied(StudyDate="20240131", name="y.dcm", **study)
    _, other = copied(StudyDate="20240101", name="z.dcm", PatientID="0000000", **study)
    first, second, third = (pydicom.dcmread(file) for file in (one, two, other))
    assert first.PatientID == second.PatientID != third.PatientID
    assert first.StudyInstanceUID == second.StudyInstanceUID != "1.2.3.4"
    assert first.SOPInstanceUID != second.SOPInstanceUID
    days = [pydicom.valuerep.DA(d.StudyDate) for d in (first, second, third)]
    assert days[1] - days[0] == timedelta(days=30)
    assert days[0] != days[2]
    assert first.StudyTime == "101500"
    assert timedelta(366) <= pydicom.valuerep.DA("20240101") - days[0] <= timedelta(3660)


def test_another_key_gives_other_pseudonyms():
    other = Secret(b"l" * 32)
    for told in (lambda s: s.patient("1"), lambda s: s.uid("1.2"), lambda s: s.subject("1")):
        assert told(SECRET) == told(SECRET) != told(other)
    assert SECRET.uid("1.2.840.10008.5.1.4.1.1.1") == "1.2.840.10008.5.1.4.1.1.1"
    assert len({SECRET.shift(str(i)) for i in range(200)}) > 150
    assert b"kkk".decode() not in repr(SECRET)


def test_text_beside_the_pixels_goes_with_the_pixels_kept(copied, tmp_path):
    from PIL import Image

    picture = Image.fromarray((PIXELS // 16).astype(np.uint8))
    picture.save(tmp_path / "x.jpg", comment=PLANT.encode(), quality=95)

    def compress(data):
        data.PixelData = encapsulate([(tmp_path / "x.jpg").read_bytes()])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit

    source, copy = copied(compress, (PIXELS // 16).astype(np.uint8), PatientName=PLANT)
    assert PLANT.encode() in source.read_bytes()
    assert PLANT.encode() not in copy.read_bytes()
    np.testing.assert_array_equal(read_dicom(copy, View()), read_dicom(source, View()))


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_overlay_in_the_bits_beside_the_stored_ones_goes(copied, kind):
    stained = (PIXELS | 0x8000).view(kind)
    source, copy = copied(pixels=stained, BitsStored=12, HighBit=11)
    held = np.frombuffer(pydicom.dcmread(copy).PixelData, kind)
    assert not (held.view(np.uint16) == stained.view(np.uint16).ravel()).any()
    np.testing.assert_array_equal(read_dicom(copy, View()), read_dicom(source, View()))


def test_bytes_padded_on_to_the_pixels_go(copied):
    def pad(data):
        data.PixelData += b"Zx"

    _, copy = copied(pad)
    assert len(pydicom.dcmread(copy).PixelData) == PIXELS.nbytes


ULTRASOUND = {"Modality": "US", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "says that text is burned in"),
        (ULTRASOUND, "ultrasound without regions"),
        ({**ULTRASOUND, "BurnedInAnnotation": "NO"}, "ultrasound without regions"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture or screen shot"),
        ({"Modality": "XC"}, "secondary capture or screen shot"),
        ({"ConversionType": "WSD"}, "secondary capture or screen shot"),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
            "secondary capture or screen shot",
        ),
    ],
)
def test_file_that_may_show_text_is_refused(copied, tags, reason):
    assert copied(**tags)[1] == reason


def test_ultrasound_keeps_what_its_header_declares_to_be_picture(copied):
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 20
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 39, 59
    pixels = np.full((2, 64, 64), 200, np.uint8)
    _, copy = copied(pixels=pixels, **ULTRASOUND, SequenceOfUltrasoundRegions=[region])
    data = pydicom.dcmread(copy)
    expected = np.zeros((64, 64), bool)
    expected[20:60, 10:40] = True
    for frame in data.pixel_array:
        np.testing.assert_array_equal(frame == 200, expected | (frame.min() == 200))
    assert data.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in data.DeidentificationMethodCodeSequence]


def test_rule_of_the_site_file_says_what_is_blanked(copied):
    rule = Region(select={"Modality": ("OT",), "Rows": ("64",)}, blank=((0, 0, 64, 8),))
    _, copy = copied(pixels=np.arange(4096, dtype=np.uint16).reshape(64, 64) + 1,
                     Modality="OT", regions=[rule])  # fmt: skip
    shown = pydicom.dcmread(copy).pixel_array
    assert (shown[:8] == 1).all()
    assert (shown[8:].ravel() == np.arange(8 * 64, 4096) + 1).all()
    clean = Region(select={"Modality": ("OT",)}, blank=())
    source, copy = copied(Modality="OT", regions=[clean], name="y.dcm")
    np.testing.assert_array_equal(read_dicom(copy, View()), read_dicom(source, View()))
    assert copied(Modality="GM", regions=[rule], name="z.dcm")[1]


def test_second_file_of_the_same_uid_is_told_and_replaces_nothing(copied, tmp_path):
    source, copy = copied()
    shutil.copy(source, source.with_name("again.dcm"))
    content, out = copy.read_bytes(), copy.parents[2]
    again = deidentify_image("again.dcm", source.parent, out, SECRET, ())
    assert again.refused == "another file has the same UID"
    assert [p for p in out.rglob("*") if p.is_file()] == [copy]
    assert copy.read_bytes() == content


def test_what_the_table_does_not_list_is_kept_only_if_it_is_no_text_and_no_name(copied):
    tags = {"PatientName": f"{PLANT}^Li", "Manufacturer": f"Works of {PLANT}", "KVP": 80}
    more = {"BodyPartExamined": "CHEST", "SecondaryReviewerName": "Roe", "ScanOptions": "FAST"}

    def add(data):
        data.add_new(0x00420012, "LO", "text/plain")
        data.add_new(0x54000100, "SQ", [Dataset()])
        data.WaveformSequence[0].add_new(0x54001010, "OB", b"sound of a voice")

    _, copy = copied(add, **tags, **more)
    data = pydicom.dcmread(copy)
    assert (data.KVP, data.BodyPartExamined, data.ScanOptions) == (80, "CHEST", "FAST")
    assert data.Manufacturer is None or data.Manufacturer == ""
    assert "SecondaryReviewerName" not in data
    assert b"voice" not in copy.read_bytes()


def test_link_out_of_the_folder_is_refused(copied, tmp_path):
    source, _ = copied()
    (tmp_path / "outside.dcm").write_bytes(source.read_bytes())
    (source.parent / "l.dcm").symlink_to(tmp_path / "outside.dcm")
    outcome = deidentify_image("l.dcm", source.parent, tmp_path / "o", SECRET, ())
    assert outcome.refused == "the path leads out of the data folder"
    assert not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: setattr(data, "StudyDescription", "anything"),
        lambda data: setattr(data, "PatientBirthDate", "19000101"),
        lambda data: setattr(data, "StudyDate", DAY),
        lambda data: setattr(data, "BodyPartExamined", PLANT.upper()),
        lambda data: setattr(data, "ReferringPhysicianName", "Roe"),
        lambda data: setattr(data, "StudyInstanceUID", "1.2.3.4"),
        lambda data: data.private_block(0x99, "M", create=True).add_new(1, "LO", "x"),
        lambda data: setattr(data, "preamble", b"x" * 128),
        lambda data: setattr(data, "PatientIdentityRemoved", "NO"),
        lambda data: setattr(data.RequestAttributesSequence[0], "AccessionNumber", "5"),
    ],
)
def test_check_of_the_copy_finds_whatever_the_profile_missed(copied, spoil):
    tags = {"StudyDate": DAY, "StudyInstanceUID": "1.2.3.4", "PatientName": f"{PLANT}^A"}
    source, copy = copied(**tags)
    original, data = pydicom.dcmread(source), pydicom.dcmread(copy)
    words = frozenset(identifying_words(original))
    check_copy(copy, original, words)
    data.RequestAttributesSequence = [Dataset()]
    spoil(data)
    if not data.RequestAttributesSequence[0]:
        del data.RequestAttributesSequence
    data.save_as(copy, enforce_file_format=True)
    with pytest.raises(LeftBehind):
        check_copy(copy, original, words)


def test_full_disk_is_a_message_and_leaves_no_half_copy(copied, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image, "check_copy", full)
    with pytest.raises(UserError, match="No space left"):
        copied()
    assert not list(tmp_path.glob("out*/**/*.dcm*"))


def test_copy_that_fails_its_check_is_not_kept(copied, monkeypatch):
    monkeypatch.setattr(image.Profile, "apply", lambda self, dataset: None)
    assert (
        copied(PatientName=f"{PLANT}^A", StudyDescription=PLANT)[1] == "the copy failed its check"
    )


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="shared/data/dicom_samples is not here")
@pytest.mark.filterwarnings("ignore")
def test_real_files_are_copied_with_the_same_picture_or_refused(tmp_path):
    clean = [Region(select={"Modality": ("OT", "US", "NM")}, blank=())]
    kept = 0
    for path in sorted(SAMPLES.rglob("*.dcm")):
        out = tmp_path / path.stem
        copied = deidentify_image(path.name, path.parent, out, SECRET, clean)
        if copied.refused is not None:
            continue
        kept += 1
        (copy,) = out.rglob("*.dcm")
        np.testing.assert_array_equal(read_dicom(copy, View()), read_dicom(path, View()))
        told = pydicom.dcmread(copy, stop_before_pixels=True).iterall()
        texts = " ".join(str(e.value) for e in told if e.VR in TEXT and e.tag not in OURS)
        left = set(identifying_words(pydicom.dcmread(path)))
        assert not left & set(re.findall(r"\w+", texts.lower())), path.name
    assert kept >= 23


def test_unreadable_files_are_refused_in_the_words_of_the_reader(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"nothing")
    assert deidentify_image("a.dcm", tmp_path, tmp_path / "o", SECRET, ()).refused == (
        "not a DICOM file"
    )
    assert action_of(pydicom.tag.Tag("PatientName")) == "empty"
    with pytest.raises(UnreadableImage):
        read_dicom(tmp_path / "a.dcm", View())


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(132, 900), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_file_is_refused_or_its_copy_holds_no_name(tmp_path, write_dicom, changes):
    tags = {"PatientName": f"{PLANT}^Ann", "StudyDescription": PLANT, "Modality": "CR"}
    file = write_dicom(tmp_path / "in" / "x.dcm", PIXELS, PatientID=NUMBER, **tags)
    content = bytearray(file.read_bytes())
    for at, byte in changes:
        content[at % len(content)] = byte
    file.write_bytes(content)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    outcome = deidentify_image("x.dcm", file.parent, tmp_path / "out", SECRET, ())
    made = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(made) == (outcome.refused is None)
    whole = all(word in content for word in (PLANT.encode(), NUMBER.encode()))
    assert not made or not whole or PLANT.encode() not in made[0].read_bytes()


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="Debian's dicom3tools is not installed"
)
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="shared/data/dicom_samples is not here")
@pytest.mark.filterwarnings("ignore")
def test_copies_stay_valid_objects_of_their_kind(tmp_path):
    def errors(file):
        told = subprocess.run(["dciodvfy", file], capture_output=True, text=True)
        return {line for line in (told.stderr + told.stdout).splitlines() if "Error" in line}

    compared = 0
    for path in sorted(SAMPLES.rglob("*.dcm")):
        if deidentify_image(path.name, path.parent, tmp_path / path.stem, SECRET, ()).refused:
            continue
        (copy,) = (tmp_path / path.stem).rglob("*.dcm")
        assert errors(copy) <= errors(path), path.name
        compared += 1
    assert compared >= 15
