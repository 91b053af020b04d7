"""Identifiers under the site's key: stable, unlike without it, and what the splits follow from."""

import hashlib
import hmac
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from clients.cohort import read_patients
from clients.pseudonyms import pseudonyms, split_places
from clients.site import load_site
from federation.study import SplitSection
from federation.tasks import BinaryTask

KEY = bytes(range(32))
SUBJECTS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20)


@given(SUBJECTS)
def test_pseudonyms_are_the_leading_bits_of_hmac_sha256(subjects):
    found = pseudonyms(np.array(subjects, np.int64), KEY).tolist()
    digests = [hmac.new(KEY, str(s).encode(), hashlib.sha256).hexdigest() for s in subjects]
    assert found == [int(f"{int(d, 16):0256b}"[:63], 2) for d in digests]
    assert len(set(found)) == len(subjects)


def test_another_key_gives_other_pseudonyms():
    subjects = np.arange(1000)
    assert not set(pseudonyms(subjects, KEY)) & set(pseudonyms(subjects, KEY[::-1]))


def test_places_are_spread_evenly_over_the_unit_interval():
    places = split_places(pseudonyms(np.arange(10_000), KEY))
    assert ((places >= 0) & (places < 1)).all()
    # five standard deviations of a uniform mean and of a decile's share
    assert abs(places.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 10_000)
    counts = np.histogram(places, 10, (0, 1))[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(10_000 * 0.1 * 0.9)


def test_no_identifier_is_among_what_a_site_keeps_of_its_patients(tmp_path, write_site):
    folder = write_site(tmp_path / "bern", 40, first_id=7_731_940)
    patients = read_patients(load_site(folder), BinaryTask(label="x"), SplitSection())
    given = set(pq.read_table(folder / "labels.parquet")["subject_id"].to_pylist())
    assert len(patients) == len(given) == 40
    assert not given & set(patients.subject_ids.tolist())
    assert "subject_id" not in patients.events.columns


def test_new_key_and_its_folder_are_for_the_site_s_user_alone(tmp_path, write_site):
    folder = write_site(tmp_path / "bern", 2)
    code = f"""
import json, os
from pathlib import Path
from clients.site import load_site
os.umask(0)
site = load_site(Path({str(folder)!r}))
site.patient_key()
print(json.dumps([oct(p.stat().st_mode & 0o777) for p in (site.state, site.state / "patient.key")]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(ended.stdout) == ["0o700", "0o600"]
