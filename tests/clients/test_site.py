"""Site files: each mistake named with its field and what to do; the patient key kept safe."""

import dataclasses
import multiprocessing
import stat

import pytest

from clients.site import find_sites, load_site
from federation.errors import UserError


def edited(folder, old, new):
    file = folder / "site.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


@pytest.fixture
def folder(tmp_path, write_site):
    return write_site(tmp_path / "bern", 4, images=True, notes=True, key=None)


def test_site_of_a_folder_and_of_its_file_are_the_same(folder):
    site = load_site(folder)
    assert site == load_site(folder / "site.toml")
    assert site.name == "bern"
    assert site.events == folder / "meds"
    assert site.images == folder / "dicom"
    assert site.labels == folder / "labels.parquet"
    assert site.policy.minimum_cell == 10


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ('path = "meds"', 'path = "gone"', "data.events.path", '"gone" is not a folder'),
        ('path = "meds"', 'path = "labels.parquet"', "data.events.path", "is not a folder"),
        ('path = "dicom"', 'path = "scans"', "data.images.path", "the .dcm files"),
        ('labels = "labels.parquet"', 'labels = "x"', "data.labels", "Give the file that"),
        ('labels = "labels.parquet"', 'labels = "meds"', "data.labels", "is not a file"),
        ('name = "bern"', 'name = "Bern Inselspital"', "site.name", "pattern"),
        ('device = "cpu"', 'device = "gpu"', "site.device", "pattern"),
        ('device = "cpu"', 'devise = "cpu"', "site.devise", 'Did you mean "device"?'),
        ('"meds"\npath', '"fire"\npath', "data.events.format", '"fire" is not one of'),
        ('"meds"\npath', '"fire"\npath', "data.events.format", 'Did you mean "fhir"?'),
        ('path = "meds"', 'path = "meds"\npaht = 1', "data.events.paht", 'Did you mean "path"'),
        ('labels = "labels.parquet"', "labels = {}", "data.labels.index", "missing"),
        ('"age_band"', '"zip_code"', "data.subgroups", '"zip_code" is not one of'),
    ],
)
def test_mistake_names_file_field_and_remedy(folder, old, new, field, words):
    file = edited(folder, old, new)
    with pytest.raises(UserError) as caught:
        load_site(folder)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert field in message
    assert words in message


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("minimum_cell = 0", "greater than 0"),
        ("minimum_cell = 1_000_001", "less than or equal to 1000000"),
        ("delta = 1.5", "less than 1"),
        ("epsilon_per_patient = inf", "finite"),
        ("unit = 'visit'", "is not one of"),
        ("minimum_cel = 5", 'Did you mean "minimum_cell"?'),
    ],
)
def test_wrong_policy_is_explained(folder, policy, words):
    file = folder / "site.toml"
    file.write_text(f"{file.read_text()}\n[policy]\n{policy}\n")
    with pytest.raises(UserError, match="policy") as caught:
        load_site(folder)
    assert words in str(caught.value)


def test_folder_in_the_place_of_the_site_file_is_explained(tmp_path):
    (tmp_path / "bern" / "site.toml").mkdir(parents=True)
    for path in (tmp_path / "bern", tmp_path / "bern" / "site.toml"):
        with pytest.raises(UserError) as caught:
            load_site(path)
        assert str(caught.value).startswith(f"{tmp_path}/bern/site.toml: this is a folder")


def test_missing_site_file_and_missing_section_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"site\.toml: there is no such file"):
        load_site(tmp_path)
    (tmp_path / "site.toml").write_text('[site]\nname = "x"\n')
    with pytest.raises(UserError, match="data: missing"):
        load_site(tmp_path)


def test_sites_are_found_by_name_and_other_folders_passed_over(tmp_path, write_site):
    for name in ("zug", "aarau"):
        write_site(tmp_path / name, 2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    assert [file.parent.name for file in find_sites(tmp_path)] == ["aarau", "zug"]


def test_folder_without_sites_and_missing_folder_are_explained(tmp_path):
    with pytest.raises(UserError, match="no site was found"):
        find_sites(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        find_sites(tmp_path / "gone")


def test_patient_key_is_drawn_once_secret_and_stable(folder):
    site = load_site(folder)
    key = site.patient_key()
    assert len(key) == 32
    assert load_site(folder).patient_key() == key
    file = folder / "state" / "patient.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [f.name for f in file.parent.iterdir()] == ["patient.key"]


def test_sites_have_different_keys(tmp_path, write_site):
    keys = {load_site(write_site(tmp_path / n, 2, key=None)).patient_key() for n in ("a", "b", "c")}
    assert len(keys) == 3


@pytest.mark.parametrize("text", ["", "abcd", "not hexadecimal", "00" * 31])
def test_damaged_patient_key_is_refused_not_replaced(folder, text):
    file = folder / "state" / "patient.key"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UserError, match="hexadecimal digits"):
        load_site(folder).patient_key()
    assert file.read_text() == text


def _key(folder, barrier, answers):
    site = load_site(folder)
    barrier.wait()
    answers.put(site.patient_key())


def test_processes_that_start_together_agree_on_the_patient_key(folder):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_key, args=(folder, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    keys = {answers.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert keys == {load_site(folder).patient_key()}


def test_state_that_cannot_be_written_is_explained(folder):
    site = load_site(folder)
    (folder / "state").write_text("a file where a folder belongs")
    with pytest.raises(UserError, match=r"patient\.key: cannot be read or made"):
        site.patient_key()
    assert dataclasses.replace(site, state=folder / "other").patient_key()
