"""Patients of several hospitals: found by hashes that the sites compare, left out and counted."""

import hashlib
import hmac
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.cohort import read_patients
from clients.exclusion import patient_hashes, shared_hash
from clients.site import load_site
from federation.errors import UserError
from federation.study import SplitSection
from federation.tasks import BinaryTask

KEY = "5e" * 32


@given(st.text(), st.binary(min_size=16, max_size=40))
def test_hash_is_hmac_sha256_of_the_trimmed_identifier(identifier, key):
    expected = hmac.new(key, identifier.strip().encode(), hashlib.sha256).hexdigest()
    assert shared_hash(identifier, key) == expected


@pytest.fixture
def excluding(tmp_path, write_site):
    """Write a site with a list of hashes (text) and the shared key; patients are 1 to 40."""

    def write(hashes, name="bern", key=KEY, first_id=1, identifiers=None):
        folder = write_site(tmp_path / name, 40, first_id=first_id)
        (folder / "shared.key").write_text(key)
        (folder / "shared.txt").write_text(hashes)
        more = 'hashes = "shared.txt"\nkey = "shared.key"\n'
        if identifiers is not None:
            (folder / "ids.csv").write_text(identifiers)
            more += 'identifiers = "ids.csv"\n'
        with (folder / "site.toml").open("a") as file:
            file.write(f"\n[data.exclude]\n{more}")
        return folder

    return write


def read(folder):
    return read_patients(load_site(folder), BinaryTask(label="sick"), SplitSection())


def test_listed_patients_are_left_out_and_counted(excluding):
    listed = [shared_hash(str(i), bytes.fromhex(KEY)) for i in (3, 5, 999)]
    patients = read(excluding("\n".join(listed).upper() + "\n\n"))
    assert len(patients) == 38
    assert patients.excluded == {"treated at several hospitals": 2}


def test_two_sites_find_their_common_patients_without_telling_of_the_others(excluding):
    here, there = excluding("", "bern"), excluding("", "basel", first_id=31)
    lists = [set(patient_hashes(load_site(folder))) for folder in (here, there)]
    assert [len(one) for one in lists] == [40, 40]
    common = "\n".join(sorted(lists[0] & lists[1]))
    (here / "shared.txt").write_text(common)
    assert read(here).excluded == {"treated at several hospitals": 10}
    assert not {str(i) for i in range(1, 71)} & set.union(*lists)


def test_command_writes_the_list_that_the_library_makes(excluding, tmp_path):
    folder, out = excluding(""), tmp_path / "mine.txt"
    command = [sys.executable, "-m", "wardround", "site", "hashes", str(folder), "--out", str(out)]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert out.read_text().split() == patient_hashes(load_site(folder))


def test_another_number_than_the_subject_s_is_taken_from_a_table(excluding):
    table = "subject_id,identifier\n" + "".join(f"{i},756.{i:04d}\n" for i in range(1, 41))
    listed = shared_hash("756.0007", bytes.fromhex(KEY))
    assert read(excluding(listed, identifiers=table)).excluded == {
        "treated at several hospitals": 1
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "secret"}, ("shared.key", "32 hexadecimal digits")),
        ({"key": KEY[:30]}, ("shared.key", "openssl rand -hex 32")),
        ({"hashes": "abc\n"}, ("shared.txt", "line 1", "64 hexadecimal digits")),
        ({"hashes": "Müller\n"}, ("shared.txt", "plain text")),
        ({"identifiers": "subject_id,identifier\n1,A\n"}, ("ids.csv", "has no identifier")),
        ({"identifiers": "subject_id,number\n1,A\n"}, ("ids.csv: identifier", "no such column")),
    ],
)
def test_broken_list_key_or_table_is_one_message(excluding, change, words):
    folder = excluding(**{"hashes": "", **change})
    with pytest.raises(UserError) as caught:
        read(folder)
    for word in words:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value)


def test_missing_list_and_missing_section_are_explained(excluding, write_site, tmp_path):
    folder = excluding("")
    (folder / "shared.txt").unlink()
    with pytest.raises(UserError, match=r"shared\.txt: there is no such file"):
        read(folder)
    with pytest.raises(UserError, match=r"data\.exclude"):
        patient_hashes(load_site(write_site(tmp_path / "plain", 3)))
