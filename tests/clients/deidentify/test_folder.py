"""`wardround site deidentify`: copies in a new folder, a report that stays at the site."""

import json
import os
import stat

import pyarrow.parquet as pq
import pydicom
import pytest
import tomli_w
from typer.testing import CliRunner

from clients.deidentify.folder import deidentify_site
from clients.site import load_site
from federation.errors import UserError
from federation.validation import read_toml
from wardround.__main__ import cli

NAME = "Zorbax"


@pytest.fixture
def site(tmp_path, write_site):
    folder = write_site(tmp_path / "site", 12, images=True, notes=True)
    for number, file in enumerate(sorted((folder / "dicom").iterdir())):
        data = pydicom.dcmread(file)
        data.PatientID, data.PatientName = file.stem, f"{NAME}{number}^Ann"
        data.StudyDate, data.Modality = "20240101", "CR"
        data.save_as(file)
    (folder / "dicom" / f"{NAME}.txt").write_text("no image")
    return folder


def run(*arguments):
    return CliRunner().invoke(cli, ["site", "deidentify", *map(str, arguments)])


def test_command_copies_images_and_notes_and_reports_at_the_site_alone(site, tmp_path):
    result = run(site, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "images copied: 12" in result.output
    assert "images refused, not a DICOM file: 1" in result.output
    assert NAME not in result.output
    copies = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(copies) == 12
    notes = pq.read_table(tmp_path / "out" / "notes.parquet")
    assert len(notes) == 12
    for file in (tmp_path / "out").rglob("*"):
        assert NAME not in str(file)
        assert file.is_dir() or NAME.encode() not in file.read_bytes()
    report = site / "state" / "deidentified.json"
    assert json.loads(report.read_text())["files"] == {f"{NAME}.txt": "not a DICOM file"}
    assert stat.S_IMODE(os.stat(report).st_mode) == 0o600


def test_patient_has_one_pseudonym_and_shift_in_notes_whichever_run(site, tmp_path):
    tables = []
    for name in ("a", "b"):
        assert run(site, "--out", tmp_path / name).exit_code == 0
        tables.append(pq.read_table(tmp_path / name / "notes.parquet").to_pylist())
    assert tables[0] == tables[1]
    assert not {row["subject_id"] for row in tables[0]} & set(range(1, 13))
    assert all(row["time"].year < 2024 for row in tables[0])


def test_names_of_a_patients_images_are_found_in_their_notes(tmp_path, write_site, write_dicom):
    told = [(1, None, "NOTE//X", None, f"{NAME} has pneumonia."), (2, None, "NOTE//X", None, "ok")]
    folder = write_site(tmp_path / "s", 4, images=True, notes=True, more_events=told)
    file = folder / "dicom" / "1.dcm"
    data = pydicom.dcmread(file)
    data.PatientID, data.PatientName, data.Modality = "1", f"{NAME}^Ann", "CR"
    data.save_as(file)
    deidentify_site(load_site(folder), tmp_path / "out", lambda _: None)
    texts = pq.read_table(tmp_path / "out" / "notes.parquet")["text_value"].to_pylist()
    assert "[NAME] has pneumonia." in texts


@pytest.mark.parametrize("where", ["dicom/copies", "state", "meds/x"])
def test_copies_into_the_sites_own_data_are_refused(site, where):
    result = run(site, "--out", site / where)
    assert isinstance(result.exception, UserError)
    assert "own data" in str(result.exception)


def test_folder_that_holds_files_is_refused(site, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    assert isinstance(run(site, "--out", tmp_path / "out").exception, UserError)


def test_site_without_images_and_notes_is_told_so(tmp_path, write_site):
    result = run(write_site(tmp_path / "s", 4), "--out", tmp_path / "out")
    assert "nothing to de-identify" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_notes_in_files_are_copied_too(tmp_path, write_site):
    folder = write_site(tmp_path / "s", 4)
    (folder / "txt").mkdir()
    (folder / "txt" / "7-a.txt").write_text("Seen by Dr. Roe on 3/4/2024.")
    (folder / "txt" / "odd.txt").write_text("x")
    link = "{ by = 'file_name', pattern = '(?P<patient>[0-9]+)-', undated = true }"
    section = f'\n[data.notes]\nformat = "files"\npath = "txt"\nlink = {link}\n'
    file = folder / "site.toml"
    file.write_text(file.read_text() + section)
    result = run(folder, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "note: the pattern does not fit the name: 1" in result.output
    (row,) = pq.read_table(tmp_path / "out" / "notes.parquet").to_pylist()
    assert row["text_value"] == "Seen by [NAME] on [DATE]."


def test_notes_of_another_format_are_copied_under_the_names_of_the_export(tmp_path, write_site):
    folder = write_site(tmp_path / "s", 4)
    (folder / "tables").mkdir()
    (folder / "tables" / "notes.csv").write_text(
        "patient,time,text\n002-77,2024-01-05 10:00,002-77 seen by Dr. Roe\n"
    )
    document = read_toml(folder / "site.toml")
    table = {"file": "notes.csv", "subject": "patient", "time": "time"}
    columns = {"text": {"code": "NOTE//WARD", "kind": "text"}}
    events = {"format": "tables", "path": "tables", "tables": [table | {"columns": columns}]}
    document["data"] |= {"events": events, "notes": {"format": "meds"}}
    (folder / "site.toml").write_text(tomli_w.dumps(document))
    assert run(folder, "--out", tmp_path / "out").exit_code == 0
    (row,) = pq.read_table(tmp_path / "out" / "notes.parquet").to_pylist()
    assert row["text_value"] == "[NAME] seen by [NAME]"
    assert row["time"].year < 2024
