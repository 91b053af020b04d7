"""Image and note files find their patient by tag, name or table, or are listed as nobody's."""

import csv
import logging
import os
import shutil
import stat
from datetime import datetime, timedelta

import numpy as np
import pydicom
import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

from clients.cohort import read_patients
from clients.features import image_tensor
from clients.notes import text_tensor
from clients.site import load_site
from federation.errors import UserError
from federation.modalities import ImageSection, TextSection
from federation.validation import read_toml
from simulations.shipping import packed, unpack
from wardround.__main__ import cli

BEFORE = "20231201"
AFTER = "20991231"
"""Days before and after every prediction time of the default site."""


@pytest.fixture
def make(tmp_path, write_site, write_dicom, make_study):
    """A site of six patients with linked files: ``files`` by name, of tags or of content."""
    study = make_study("ehr")

    def made(files, images=None, notes=None, tables=None):
        folder = write_site(tmp_path / "site", 6)
        for name, content in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, dict):
                pixels = np.full((8, 8), content.pop("grey", 100), np.uint8)
                write_dicom(file, pixels, WindowCenter=128, WindowWidth=256, **content)
            else:
                file.write_bytes(content)
        for name, text in (tables or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        document = read_toml(folder / "site.toml")
        document["data"] |= {"images": images} if images else {}
        document["data"] |= {"notes": notes} if notes else {}
        (folder / "site.toml").write_text(tomli_w.dumps(document))
        site = load_site(folder)
        return site, lambda: read_patients(site, study.task, study.split)

    return made


def linked(patients, prefix="IMAGE//"):
    """Subject, code and text of the linked events; the patients are 1 to 6, in order."""
    events = patients.events[patients.events["code"].astype(str).str.startswith(prefix)]
    subjects = events["row"] + 1
    return sorted(
        zip(subjects.tolist(), events["code"].astype(str), events["text_value"], strict=True)
    )


def unlinked(site, what="images"):
    with (site.state / f"unlinked-{what}.csv").open(newline="") as file:
        return dict(list(csv.reader(file))[1:])


def images(**link):
    return {"format": "dicom", "path": "img", "link": link}


def test_tag_links_and_what_is_nobodys_is_listed_at_the_site_alone(make, caplog):
    files = {
        "img/a": {"PatientID": "1", "StudyDate": BEFORE, "Modality": "CR"},
        "img/sub/b.dcm": {"PatientID": "2", "StudyDate": BEFORE, "Modality": "DX"},
        "img/late": {"PatientID": "3", "StudyDate": AFTER},
        "img/stranger": {"PatientID": "99", "StudyDate": BEFORE},
        "img/named": {"PatientID": "Doe", "StudyDate": BEFORE},
        "img/empty": {"StudyDate": BEFORE},
        "img/undated": {"PatientID": "4"},
        "img/readme": b"text",
    }
    site, read = make(files, images(by="tag"))
    with caplog.at_level(logging.WARNING, "wardround.site"):
        patients = read()
    assert linked(patients) == [(1, "IMAGE//CR", "a"), (2, "IMAGE//DX", "sub/b.dcm")]
    assert patients.excluded == {}  # a stranger's image is no patient without a label
    assert unlinked(site) == {
        "stranger": "not a patient of this site's labels",
        "named": "not a patient of this site's labels",
        "empty": "the tag is empty",
        "undated": "no time, and link.undated is not set",
        "readme": "not a DICOM file",
    }
    assert "5 files of images are not linked" in caplog.text
    assert "stranger" not in caplog.text
    assert stat.S_IMODE(os.stat(site.state / "unlinked-images.csv").st_mode) == 0o600


def test_linked_images_are_the_ones_that_are_trained_on(make):
    files = {
        f"img/{i}": {"PatientID": str(i), "StudyDate": BEFORE, "grey": 40 * i} for i in (1, 2, 3)
    }
    site, read = make(files, images(by="tag"))
    found = image_tensor(read(), ImageSection(size=32), site.images, site.settings.data.images)
    assert found.present.tolist() == [True, True, True, False, False, False]
    assert found.values[:3, 0, 16, 16] * 255 == pytest.approx([40, 80, 120], abs=1)


def test_another_tag_and_a_table_of_identifiers(make):
    files = {
        "img/a": {"OtherPatientIDs": "X-7", "StudyDate": BEFORE},
        "img/b": {"OtherPatientIDs": "X-8", "StudyDate": BEFORE},
    }
    link = {"by": "tag", "tag": "OtherPatientIDs", "identifiers": "ids.csv", "code": "IMAGE//X"}
    site, read = make(files, images(**link), tables={"ids.csv": "identifier,subject_id\nX-7,5\n"})
    assert linked(read()) == [(5, "IMAGE//X", "a")]
    assert unlinked(site) == {"b": "the identifier is not in the table of identifiers"}


@pytest.mark.parametrize("kind", ["png", "nifti"])
def test_name_links_files_of_any_format_with_their_time(make, kind):
    name = {"png": "img/{}.png", "nifti": "img/{}.nii"}[kind]
    files = {name.format(stem): b"-" for stem in ("1_20231130", "2_20991231", "3_19991332", "x")}
    files["img/readme.txt"] = b"-"
    link = {"by": "file_name", "pattern": r"(?P<patient>\d+)_(?P<time>\d{8})"}
    settings = {"format": kind, "path": "img", "link": {**link, "time_format": "%Y%m%d"}}
    site, read = make(files, settings)
    suffix = name.rpartition(".")[2]
    code = {"png": "IMAGE//PNG", "nifti": "IMAGE//NIFTI"}[kind]
    assert linked(read()) == [(1, code, f"1_20231130.{suffix}")]
    assert unlinked(site) == {
        f"3_19991332.{suffix}": "the time is not as link.time_format says",
        f"x.{suffix}": "the pattern does not fit the name",
    }


def test_undated_pictures_are_used_only_where_the_site_says_so(make, tmp_path):
    link = {"by": "file_name", "pattern": r"^(?P<patient>\d)\.png$", "undated": True}
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "2.png")
    files = {"img/2.png": (tmp_path / "2.png").read_bytes()}
    site, read = make(files, {"format": "png", "path": "img", "link": link})
    patients = read()
    assert linked(patients) == [(2, "IMAGE//PNG", "2.png")]
    found = image_tensor(patients, ImageSection(size=32), site.images, site.settings.data.images)
    assert found.present.tolist() == [False, True, False, False, False, False]
    assert float(found.values[1].max()) == pytest.approx(200 / 255)


def test_table_links_and_nothing_outside_the_folder(make, tmp_path):
    files = {"img/a.dcm": {"StudyDate": BEFORE}, "img/b.dcm": {}, "img/c.dcm": {"PatientID": "1"}}
    table = "file,patient,time\na.dcm,1,\nb.dcm,2,2023-11-30T10:00\n../outside.dcm,3,2023-11-30\n"
    site, read = make(files, images(by="table", table="t.csv"), tables={"t.csv": table})
    shutil.copy(site.images / "a.dcm", site.file.parent / "outside.dcm")
    (site.images / "link.dcm").symlink_to(site.file.parent / "outside.dcm")
    (site.images / "loop").symlink_to(site.images)
    assert linked(read()) == [(1, "IMAGE//OT", "a.dcm"), (2, "IMAGE//OT", "b.dcm")]
    assert unlinked(site) == {
        "c.dcm": "not in the table",
        "link.dcm": "the path leads out of the data folder",
    }


def test_volume_is_one_event_at_its_last_slice_and_radiographs_are_one_each(make):
    files = {}
    for i, place in enumerate([20, 0, 10]):
        ct = {"Modality": "CT", "SeriesInstanceUID": "1.2", "PatientID": "1"}
        plane = {
            "ImagePositionPatient": [0, 0, place],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        }
        files[f"img/ct{i}"] = (
            ct | plane | {"AcquisitionDate": BEFORE, "AcquisitionTime": f"1{i}0000"}
        )
    for i in range(2):
        cr = {"Modality": "CR", "SeriesInstanceUID": "1.3", "PatientID": "1", "StudyDate": BEFORE}
        files[f"img/cr{i}"] = cr
    files["img/odd"] = {
        "Modality": "MR",
        "SeriesInstanceUID": "1.2.9",
        "PatientID": "3",
        "StudyDate": BEFORE,
        "ImagePositionPatient": [0, 0, 1],
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    }
    files["img/odder"] = files["img/odd"] | {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    site, read = make(files, images(by="tag"))
    patients = read()
    assert linked(patients) == [
        (1, "IMAGE//CR", "cr0"),
        (1, "IMAGE//CR", "cr1"),
        (1, "IMAGE//CT", "ct2"),
    ]
    assert unlinked(site) == dict.fromkeys(("odd", "odder"), "the slices do not make one volume")
    hours = patients.events.set_index("text_value")["hours_before"]
    assert hours["ct2"] - hours["cr0"] == pytest.approx(12 - 1 / 3600)


def test_rules_leave_files_out(make):
    files = {
        f"img/{view}": {"PatientID": "1", "StudyDate": BEFORE, "ViewPosition": view}
        for view in ("PA", "LL")
    }
    site, read = make(files, images(by="tag") | {"select": {"ViewPosition": ["PA", "AP"]}})
    assert [text for *_, text in linked(read())] == ["PA"]
    assert unlinked(site) == {"LL": "not selected by the site's rules"}


def test_notes_in_files_are_tied_and_read(make):
    files = {
        "txt/1-20231130.txt": "Ödem links.".encode(),
        "txt/2-20231130.txt": b"\xff\xfe\xff",
        "txt/3-20231130.txt": b"x" * (2**20 + 1),
        "txt/readme": b"-",
    }
    link = {"by": "file_name", "pattern": r"(?P<patient>\d)-(?P<time>\d+)", "time_format": "%Y%m%d"}
    site, read = make(files, notes={"format": "files", "path": "txt", "link": link})
    patients = read()
    assert linked(patients, "NOTE//") == [(1, "NOTE//FILE", "Ödem links.")]
    assert unlinked(site, "notes") == {
        "2-20231130.txt": "not a text of the encoding",
        "3-20231130.txt": "too long for a note",
        "readme": "the pattern does not fit the name",
    }
    section = TextSection(width=8, buckets=64, max_tokens=16)
    assert text_tensor(patients, section, True).present.sum() == 1


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (None, "there is no such file"),
        ("name,patient\n", "the column is missing: file"),
        ("file,patient,file\n", "two columns have the same name"),
        ("file,patient\na,1\na,2\n", "row 3: file stands in an earlier row too"),
        ('file,patient\n"a,1\n', "not a readable CSV"),
    ],
)
def test_bad_table_is_explained_without_a_value(make, table, told):
    tables = {} if table is None else {"t.csv": table}
    _, read = make({"img/a": {}}, images(by="table", table="t.csv"), tables=tables)
    with pytest.raises(UserError, match=r"t\.csv") as caught:
        read()
    assert told in str(caught.value)


def test_day_without_a_time_is_known_at_its_end(make):
    at = datetime(2023, 12, 1)
    files = {"img/day": {"PatientID": "1", "StudyDate": BEFORE}}
    files["img/second"] = {"PatientID": "1", "AcquisitionDateTime": f"{at:%Y%m%d}000000.5+0100"}
    _, read = make(files, images(by="tag"))
    hours = read().events.set_index("text_value")["hours_before"]
    assert timedelta(hours=hours["second"] - hours["day"]) == timedelta(hours=24) - timedelta(
        seconds=1
    )


def test_tables_and_note_files_travel_with_the_site(make, tmp_path):
    link = {"by": "file_name", "pattern": r"(?P<patient>\d)", "identifiers": "ids.csv"}
    files = {"txt/1.txt": b"well", "img/a": {"StudyDate": BEFORE}}
    tables = {"ids.csv": "identifier,subject_id\n1,2\n", "t.csv": "file,patient\na,1\n"}
    notes = {"format": "files", "path": "txt", "link": link | {"undated": True}}
    site, read = make(files, images(by="table", table="t.csv"), notes, tables)
    there = load_site(tmp_path / unpack(packed(str(site.file)), tmp_path / "there" / "1"))
    study_patients = read()
    assert linked(study_patients, "NOTE//") == [(2, "NOTE//FILE", "well")]
    assert sorted(p.name for p in there.file.parent.iterdir()) == [
        "events",
        "images",
        "images-table.csv",
        "labels.parquet",
        "notes",
        "notes-identifiers.csv",
        "site.toml",
        "state",
    ]
    assert pydicom.dcmread(there.images / "a").Rows == 8


def test_linked_site_is_not_reshaped_by_halves(make, tmp_path):
    site, _ = make({"img/a": {"PatientID": "1", "StudyDate": BEFORE}}, images(by="tag"))
    plan = tmp_path / "shifts.toml"
    plan.write_text('[[shift]]\nkind = "label_noise"\nrate = 0.1\n')
    result = CliRunner().invoke(
        cli, ["reshape", str(tmp_path), "--shifts", str(plan), "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, UserError)
    assert result.exception.field == "data.images.link", result.exception
    assert str(site.file) in str(result.exception)
