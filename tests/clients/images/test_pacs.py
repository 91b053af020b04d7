"""`wardround site pull` against a real PACS (Orthanc with its DICOMweb plug-in) on loopback."""

import json
import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
import tomli_w
from typer.testing import CliRunner

from clients.images.dicom import read_dicom
from clients.images.picture import View
from federation.errors import UserError
from federation.validation import read_toml
from wardround.__main__ import cli

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc") is None or not PLUGIN.exists(),
    reason="Debian's orthanc and orthanc-dicomweb are not installed",
)
USER, PASSWORD = "ward", "a secret of the PACS"
SECRET = "Zorbax"
SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "dicom_samples"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """Address of a PACS that only this machine reaches and that asks for a password."""
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                requests.get(f"{address}/system", auth=(USER, PASSWORD), timeout=1)
                break
            except requests.ConnectionError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def archive(orthanc, tmp_path_factory, write_dicom):
    """Two CR studies, one of two series, and a CT study in the PACS; the files by instance."""
    files = {}
    held = (("1.1", "1.1.1", "CR"), ("1.1", "1.1.2", "CR"), ("1.2", "1.2.1", "CR"))
    for number, (study, series, modality) in enumerate([*held, ("1.3", "1.3.1", "CT")]):
        tags = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "Modality": modality}
        tags |= {"PatientID": str(number + 1), "PatientName": SECRET, "StudyDate": "20240101"}
        pixels = np.full((16, 16), 40 * (number + 1), np.uint8)
        file = write_dicom(tmp_path_factory.mktemp("sent") / "x.dcm", pixels, **tags)
        store(orthanc, file)
        files[str(pydicom.dcmread(file).SOPInstanceUID)] = file
    return files


def store(orthanc, file):
    answer = requests.post(
        f"{orthanc}/instances", data=file.read_bytes(), auth=(USER, PASSWORD), timeout=10
    )
    assert answer.status_code == 200, answer.text


@pytest.fixture
def site(tmp_path, write_site):
    """Write a site whose images are to be pulled: ``pacs`` tables on top of the defaults."""

    def written(url, credentials='user = "ward"\npassword = "a secret of the PACS"\n', **pacs):
        folder = write_site(tmp_path / "site", 6)
        (folder / "img").mkdir()
        document = read_toml(folder / "site.toml")
        told = {"url": url, "query": {"ModalitiesInStudy": "CR"}, "credentials": "pacs.toml"} | pacs
        document["data"]["images"] = {"format": "dicom", "path": "img", "pacs": told}
        (folder / "site.toml").write_text(tomli_w.dumps(document))
        (folder / "pacs.toml").write_text(credentials)
        os.chmod(folder / "pacs.toml", 0o600)
        return folder

    return written


def pull(folder):
    return CliRunner().invoke(cli, ["site", "pull", str(folder)])


@needs_orthanc
def test_images_that_the_query_finds_are_pulled_as_they_are(orthanc, archive, site):
    folder = site(f"{orthanc}/dicom-web")
    result = pull(folder)
    assert result.exit_code == 0, result.output
    assert "studies: 2" in result.output
    assert "images pulled: 3" in result.output
    pulled = sorted((folder / "img").rglob("*.dcm"))
    assert len(pulled) == 3
    for file in pulled:
        data = pydicom.dcmread(file)
        assert file.parts[-3:-1] == (data.StudyInstanceUID, data.SeriesInstanceUID)
        expected = read_dicom(archive[data.SOPInstanceUID], View())
        np.testing.assert_array_equal(read_dicom(file, View()), expected)
    report = folder / "state" / "pulled.json"
    assert json.loads(report.read_text())["missing"] == []
    assert stat.S_IMODE(os.stat(report).st_mode) == 0o600
    assert SECRET not in result.output
    assert PASSWORD not in result.output + report.read_text()


@needs_orthanc
def test_second_pull_brings_only_what_is_new(orthanc, archive, site):
    folder = site(f"{orthanc}/dicom-web/")
    assert pull(folder).exit_code == 0
    gone = sorted((folder / "img").rglob("*.dcm"))[0]
    gone.unlink()
    result = pull(folder)
    assert "images pulled: 1" in result.output
    assert "already: 2" in result.output
    assert gone.exists()


@needs_orthanc
def test_series_and_number_of_studies_narrow_a_pull(orthanc, archive, site):
    one = site(
        f"{orthanc}/dicom-web",
        series={"SeriesInstanceUID": "1.1.2"},
        query={"StudyInstanceUID": "1.1"},
    )
    assert pull(one).exit_code == 0
    assert [p.parent.name for p in (one / "img").rglob("*.dcm")] == ["1.1.2"]
    shutil.rmtree(one)
    few = site(f"{orthanc}/dicom-web", most_studies=1, query={"StudyDate": "20240101"})
    result = pull(few)
    assert "stopped at most_studies = 1" in result.output
    assert "studies: 1" in result.output


@needs_orthanc
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="shared/data/dicom_samples is not here")
@pytest.mark.filterwarnings("ignore")
def test_compressed_images_show_the_same_after_a_pull(orthanc, archive, site):
    names = ("RG1_J2KI.dcm", "JPEG-LL.dcm", "OBXXXX1A_rle.dcm", "emri_small_jpeg_ls_lossless.dcm")
    sent = {}
    for name in names:
        file = SAMPLES / "pydicom_data" / name
        store(orthanc, file)
        sent[str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)] = file
    folder = site(f"{orthanc}/dicom-web", query={"StudyDate": "19900101-20991231"})
    result = pull(folder)
    assert result.exit_code == 0
    assert "failed" not in result.output, result.output
    found = {file.stem: file for file in (folder / "img").rglob("*.dcm")}
    for uid, file in sent.items():
        np.testing.assert_array_equal(read_dicom(found[uid], View()), read_dicom(file, View()))


@needs_orthanc
@pytest.mark.parametrize(
    ("path", "credentials", "told"),
    [
        ("dicom-web", 'user = "ward"\npassword = "wrong"\n', "status 401"),
        ("elsewhere", None, "status 404"),
    ],
)
def test_refusal_of_the_pacs_is_explained(orthanc, site, path, credentials, told):
    given = {} if credentials is None else {"credentials": credentials}
    folder = site(f"{orthanc}/{path}", **given)
    result = pull(folder)
    assert isinstance(result.exception, UserError), result.output
    assert told in str(result.exception)
    assert "wrong" not in str(result.exception)


def test_pacs_that_does_not_answer_is_explained(site):
    result = pull(site(f"http://127.0.0.1:{free_port()}/dicom-web"))
    assert isinstance(result.exception, UserError)
    assert "the PACS does not answer" in str(result.exception)


def test_credentials_that_others_may_read_are_refused(site):
    folder = site("http://127.0.0.1:9/dicom-web")
    os.chmod(folder / "pacs.toml", 0o640)
    result = pull(folder)
    assert "others than its owner" in str(result.exception)


def test_credentials_never_go_over_an_open_line(site):
    result = pull(site("http://pacs.hospital.example/dicom-web"))
    assert "without encryption" in str(result.exception)


@pytest.mark.parametrize(
    "credentials", ["", 'user = "ward"\n', 'token = "x"\nuser = "y"\n', 'tokens = "x"\n', "nothing"]
)
def test_credentials_that_are_not_whole_are_explained(site, credentials):
    result = pull(site("http://127.0.0.1:9/dicom-web", credentials))
    assert isinstance(result.exception, UserError)
    assert "pacs.toml" in str(result.exception)


def test_missing_certificate_and_credentials_are_named(site):
    folder = site("https://127.0.0.1:9", certificate="ca.crt")
    assert "data.images.pacs.certificate" in str(pull(folder).exception)
    (folder / "pacs.toml").unlink()
    shutil.copy(folder / "site.toml", folder / "ca.crt")
    assert "data.images.pacs.credentials" in str(pull(folder).exception)


def test_site_without_a_pacs_is_told_so(tmp_path, write_site):
    result = pull(write_site(tmp_path / "s", 4, images=True))
    assert "there is no PACS to pull from" in str(result.exception)


class Hostile:
    """A PACS whose answers lead out of the folder, or are something else."""

    def __init__(self, instance, sent):
        self.instance, self.sent = instance, sent

    def search_for_studies(self, **_):
        return [{"0020000D": {"Value": ["1.1"]}}]

    def search_for_series(self, *_, **__):
        return [{"0020000E": {"Value": ["1.1.1"]}}]

    def search_for_instances(self, *_, **__):
        return [{"00080018": {"Value": [self.instance]}}]

    def retrieve_instance(self, *_, **__):
        return self.sent


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        ("../../../outside", "a UID that is none"),
        ("/etc/passwd", "a UID that is none"),
        ("1." * 40 + "1", "a UID that is none"),
        ("1.2.3", "not the image that was asked for"),
    ],
)
def test_answers_of_a_hostile_pacs_lead_nowhere(site, monkeypatch, instance, reason):
    folder = site("http://127.0.0.1:9/dicom-web")
    before = sorted(folder.rglob("*"))
    hostile = Hostile(instance, pydicom.Dataset())
    monkeypatch.setattr("clients.images.pacs._client", lambda *_: hostile)
    result = pull(folder)
    assert result.exit_code == 0
    assert f"images that failed, {reason}: 1" in result.output
    assert {p.name for p in set(folder.rglob("*")) - set(before)} <= {"state", "pulled.json"}
