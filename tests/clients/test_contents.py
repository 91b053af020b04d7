"""A site's prepared cohort: reopened without reading, made anew when what it follows changes."""

import os
import stat
import subprocess
import sys
import time

import pytest

from clients import workbench
from clients.contents import content_of, site_store
from clients.site import load_site
from clients.workbench import Workbench
from federation.errors import UserError


@pytest.fixture
def site(tmp_path, write_site):
    return write_site(tmp_path / "bern", 30, images=True)


def cohort(folder, study):
    bench = Workbench()
    return bench.cohort(str(folder / "site.toml"), study, bench.agreed_vocabulary(study))


def caches(folder):
    return sorted(p.name for p in (folder / "state" / "cache").iterdir() if p.is_dir())


def same(first, second):
    return all(
        first.modalities[m].values.equal(second.modalities[m].values)
        and first.modalities[m].present.equal(second.modalities[m].present)
        and first.modalities[m].unusable == second.modalities[m].unusable
        for m in first.modalities
    ) and (
        first.patients.subject_ids.tolist() == second.patients.subject_ids.tolist()
        and first.labels.equal(second.labels)
        and all(
            first.patients.splits[s].tolist() == second.patients.splits[s].tolist()
            for s in first.patients.splits
        )
    )


def test_second_process_opens_the_cohort_without_reading_events_or_images(
    site, make_study, monkeypatch
):
    study = make_study("ehr", "image")
    first = cohort(site, study)

    def unread(*_, **__):
        raise AssertionError("it was read again")

    for name in ("read_patients", "image_tensor", "ehr_tensor"):
        monkeypatch.setattr(workbench, name, unread)
    started = time.perf_counter()
    again = cohort(site, study)
    assert time.perf_counter() - started < 1
    assert same(first, again)
    assert again.patients.subgroups.keys() == first.patients.subgroups.keys()
    with pytest.raises(AssertionError):
        cohort(site, make_study("ehr", modalities={"ehr": {"width": 8, "buckets": 4}}))


def test_cache_is_for_the_site_s_user_alone(site, make_study):
    cohort(site, make_study())
    for path in (site / "state" / "cache").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def rewrite(path):
    path.write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (lambda s: (s / "meds/data/0.parquet").rename(s / "meds/data/1.parquet"), True),
        (lambda s: (s / "labels.parquet").write_bytes(b"PAR1"), True),
        (lambda s: (s / "meds/data/more.csv").write_text("x"), True),
        (lambda s: (s / "state/patient.key").write_text("7" * 64), True),
        (lambda s: rewrite(s / "labels.parquet"), False),
        (lambda s: (s / "state/other").write_text("x"), False),
        (lambda s: (s / "dicom/1.dcm").write_bytes(b"x"), False),
    ],
)
def test_content_follows_from_the_files_and_not_from_their_times(site, change, anew):
    before = content_of(load_site(site))
    change(site)
    assert (content_of(load_site(site)) != before) is anew
    moved = site.rename(site.with_name("moved"))
    if not anew:
        assert content_of(load_site(moved)) == before


def test_change_of_the_same_size_and_time_is_noticed(site):
    file = site / "meds" / "data" / "note.csv"
    file.write_text("a")
    before = content_of(load_site(site))
    times = file.stat()
    file.write_text("b")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_of(load_site(site)) != before


def test_changed_data_file_makes_a_new_cache_and_the_old_one_goes(
    site, make_study, write_labels, write_site
):
    study = make_study()
    first = cohort(site, study)
    (old,) = caches(site)
    write_site(site, 30, seed=5)
    second = cohort(site, study)
    (new,) = caches(site)
    assert new != old
    assert not same(first, second)


def test_changed_image_is_decoded_again(site, make_study, write_dicom):
    import numpy as np

    study = make_study("image")
    first = cohort(site, study)
    write_dicom(site / "dicom" / "1.dcm", np.full((40, 40), 7, np.uint8))
    assert not same(first, cohort(site, study))


def test_incomplete_cache_is_never_used(site, make_study):
    study = make_study()
    first = cohort(site, study)
    (folder,) = (p for p in (site / "state/cache").iterdir() if p.is_dir())
    for part in folder.iterdir():
        whole = part.read_bytes()
        for damaged in (b"", whole[:9], whole[: len(whole) // 2]):
            part.unlink()  # another file: the first cohort lies in this one, memory-mapped
            part.write_bytes(damaged)
            assert same(first, cohort(site, study))


def test_process_killed_while_it_writes_leaves_nothing_that_is_used(site, make_study):
    code = f"""
import os
from safetensors import torch as st
from clients import store
from clients.site import load_site
from clients.contents import site_store
import torch
real = store.save_file
def dies(arrays, path, **options):
    real(arrays, path, **options)
    with open(path, "r+b") as file:
        file.truncate(100)
    os._exit(9)
store.save_file = dies
from pathlib import Path
from clients.features import ModalityTensor
found = site_store(load_site(Path({str(site)!r})))
found.keep_tensor(("a",), ModalityTensor(torch.ones(50), torch.ones(1, dtype=torch.bool), {{}}))
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == 9
    found = site_store(load_site(site))
    assert found.folder.is_dir()
    assert found.tensor(("a",)) is None


def test_data_that_change_while_they_are_read_are_not_kept(site, make_study, monkeypatch):
    real = workbench.read_patients

    def changing(*arguments):
        patients = real(*arguments)
        (site / "meds/data/late.csv").write_text("x")
        return patients

    monkeypatch.setattr(workbench, "read_patients", changing)
    with pytest.raises(UserError, match="changed while they were read"):
        cohort(site, make_study())


def test_full_disk_names_the_state_folder(site, make_study, monkeypatch):
    from clients import store

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(UserError, match="state folder"):
        cohort(site, make_study())
