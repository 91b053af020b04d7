"""Sites sent to machines that do not reach them: complete, alike, and without their ledger."""

import io
import os
import tarfile

import pytest
import tomli_w

from clients.cohort import read_patients
from clients.site import load_site
from federation.errors import UserError
from federation.study import SplitSection
from federation.tasks import BinaryTask
from federation.validation import read_toml
from simulations import shipping
from simulations.shipping import fingerprint, packed, sealed, unpack

SECRETS = ("ledger.sqlite", "ledger.sqlite-wal", "replies/1.npz", "personal.safetensors")


@pytest.fixture
def site(tmp_path, write_site):
    """A site with images, notes, a key and a used ledger."""
    folder = write_site(tmp_path / "ash", 30, images=True, notes=True)
    load_site(folder).patient_key()
    fill_state(folder / "state")
    return folder / "site.toml"


def fill_state(state):
    for name in SECRETS:
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("secret")


def change(file, **tables):
    document = read_toml(file)
    for table, keys in tables.items():
        document[table] |= keys
    file.write_text(tomli_w.dumps(document))


def names(archive):
    with tarfile.open(fileobj=io.BytesIO(archive.data)) as tar:
        return tar.getnames()


def patients(file):
    return read_patients(load_site(file), BinaryTask(label="sick"), SplitSection())


def test_labels_of_several_names_are_all_there(site, tmp_path):
    before, labels = fingerprint(str(site)), (site.parent / "labels.parquet").read_bytes()
    for name in ("sick", "worse"):
        (site.parent / f"{name}.parquet").write_bytes(labels)
    change(site, data={"labels": {"sick": "sick.parquet", "worse": "worse.parquet"}})
    assert fingerprint(str(site)) != before
    copy = unpack(packed(str(site)), tmp_path / "there" / "100")
    found = load_site(shipping.Path(copy)).label_files
    assert set(found) == {"data.labels.sick", "data.labels.worse"}
    assert all(file.read_bytes() == labels for file in found.values())
    assert (patients(site).labels == patients(shipping.Path(copy)).labels).all()


def test_copy_has_the_same_patients_in_the_same_splits(site, tmp_path):
    copy = unpack(packed(str(site)), tmp_path / "there" / "100")
    here, there = patients(site), patients(shipping.Path(copy))
    assert here.events.equals(there.events)
    for split, rows in here.splits.items():
        assert rows.tolist() == there.splits[split].tolist()
    images = {f.name: f.read_bytes() for f in load_site(site).images.iterdir()}
    assert images == {
        f.name: f.read_bytes() for f in load_site(shipping.Path(copy)).images.iterdir()
    }


@pytest.mark.parametrize("state", ["state", "kept/here", "/elsewhere"])
def test_of_the_state_only_the_key_travels_wherever_it_lies(site, tmp_path, state):
    place = str(tmp_path) + state if state.startswith("/") else state
    change(site, site={"state": place})
    load_site(site).patient_key()
    fill_state(load_site(site).state)
    sent = names(packed(str(site)))
    assert [name for name in sent if name.startswith("state")] == ["state/patient.key"]
    assert not [
        name for name in sent if os.path.basename(name) in {os.path.basename(s) for s in SECRETS}
    ]
    copy = load_site(shipping.Path(unpack(packed(str(site)), tmp_path / "there")))
    assert copy.state == tmp_path / "there" / "state"
    assert copy.patient_key() == load_site(site).patient_key()


def test_state_inside_the_folder_of_the_data_stays(site):
    (site.parent / "meds").rename(site.parent / "data")
    change(site, data={"events": {"format": "meds", "path": "."}, "labels": "labels.parquet"})
    sent = names(packed(str(site)))
    assert "events/data/data/0.parquet" in sent
    assert [name for name in sent if "state" in name] == ["state/patient.key"]


def test_data_inside_the_state_folder_are_refused(site):
    change(site, site={"state": "."})
    with pytest.raises(UserError, match="in its state") as refused:
        packed(str(site))
    assert "data.events.path" in str(refused.value)


def test_files_beside_the_data_do_not_travel(site):
    (site.parent / "letter.txt").write_text("Dear Dr")
    (site.parent / "link").symlink_to("/etc/passwd")
    assert not [name for name in names(packed(str(site))) if "letter" in name or "link" in name]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../elsewhere", "../state/ledger.sqlite"])
def test_link_out_of_the_data_is_refused_and_not_followed(site, target):
    (site.parent.parent / "elsewhere").mkdir()
    (site.parent / "meds" / "more.parquet").symlink_to(target)
    with pytest.raises(UserError, match=r"more\.parquet is a link out"):
        packed(str(site))


def test_data_that_are_a_link_out_of_the_site_are_refused(site):
    (site.parent / "meds").rename(site.parent.parent / "elsewhere")
    (site.parent / "meds").symlink_to(site.parent.parent / "elsewhere")
    with pytest.raises(UserError, match="lies outside the site's folder"):
        packed(str(site))


@pytest.mark.parametrize("absolute", [False, True])
def test_link_within_the_data_leads_to_the_copy(site, tmp_path, absolute):
    images = site.parent / "dicom"
    first = sorted(images.iterdir())[0]
    (images / "again.dcm").symlink_to(first if absolute else first.name)
    copy = (
        load_site(shipping.Path(unpack(packed(str(site)), tmp_path / "there"))).images / "again.dcm"
    )
    assert copy.resolve() == tmp_path / "there" / "images" / first.name
    assert copy.read_bytes() == first.read_bytes()


def test_copy_appears_whole_or_not_at_all(site, tmp_path, monkeypatch):
    def full(self, path, **options):
        (path / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(UserError, match="No space left") as refused:
        unpack(packed(str(site)), tmp_path / "there" / "100")
    assert "TMPDIR" in refused.value.remedy
    assert list((tmp_path / "there").iterdir()) == []


def test_site_that_is_there_is_not_written_again(site, tmp_path):
    copy = unpack(packed(str(site)), tmp_path / "there")
    before = os.stat(copy).st_mtime_ns, os.stat(copy).st_ino
    assert unpack(packed(str(site)), tmp_path / "there") == copy
    assert (os.stat(copy).st_mtime_ns, os.stat(copy).st_ino) == before


def test_other_patients_or_another_key_under_the_same_path_are_another_site(site, write_site):
    here = fingerprint(str(site))
    assert here
    key = site.parent / "state" / "patient.key"
    drawn = key.read_text()
    key.write_text("ab" * 32)
    assert fingerprint(str(site)) != here
    key.unlink()
    assert fingerprint(str(site)) == ""
    assert len({sealed(str(site)), sealed(str(site)), here}) == 2
    key.write_text(drawn)
    assert fingerprint(str(site)) == here
    write_site(site.parent, 31, images=True, notes=True)
    assert fingerprint(str(site)) != here
    assert fingerprint(str(site.parent / "nowhere.toml")) == ""
