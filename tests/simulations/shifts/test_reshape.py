"""Reshaping site folders: what is written, what is left, and what is refused beforehand."""

import hashlib
import json
import os
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
import tomli_w

from clients.cohort import read_patients
from clients.site import load_site
from federation.errors import UserError
from federation.study import SplitSection
from federation.tasks import BinaryTask
from federation.validation import read_toml
from federation.vocabulary import AGE
from simulations.shifts.outcomes import YES_OR_NO
from simulations.shifts.registry import KINDS
from simulations.shifts.reshape import check_usable, reshape
from simulations.shifts.tables import read_tables

ALL = [
    {"kind": "temporal", "of": {"kind": "covariate"}} if kind == "temporal" else {"kind": kind}
    for kind in KINDS
]
START = datetime(2024, 1, 1)
MILD = [{**shift, "strength": 0.25} for shift in ALL]


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("shifts.json", "truth.json", "truth.parquet")
    }


@pytest.fixture
def sites(tmp_path, write_site):
    for k, name in enumerate(("aarau", "bern", "chur")):
        folder = write_site(
            tmp_path / "sites" / name, 80, seed=k, first_id=1 + 1000 * k, images=True, notes=True
        )
        (folder / "state" / "ledger.sqlite").write_text("what was spent")
    return tmp_path / "sites"


def test_strength_zero_copies_every_file_bit_for_bit(consortium, make_plan, tmp_path):
    reshape(consortium, make_plan(*ALL, strength=0.0), tmp_path / "out")
    assert digests(tmp_path / "out") == digests(consortium)
    record = json.loads((tmp_path / "out/shifts.json").read_text())
    for site in record["sites"].values():
        assert site["before"] == site["after"]
        assert site["shifts"] == []


def test_same_sites_and_plan_write_the_same_bytes_and_another_seed_others(
    consortium, make_plan, tmp_path
):
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        reshape(consortium, make_plan(*MILD, seed=seed), tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two") != digests(tmp_path / "other")
    records = [(tmp_path / name / "shifts.json").read_bytes() for name in ("one", "two", "other")]
    assert records[0] == records[1] != records[2]


def test_all_kinds_together_leave_sites_that_can_be_read(consortium, make_plan, tmp_path):
    reshape(consortium, make_plan(*MILD), tmp_path / "out")
    record = json.loads((tmp_path / "out/shifts.json").read_text())
    assert [one["kind"] for one in record["shifts"]] == list(KINDS)
    for name, told in record["sites"].items():
        assert [one["kind"] for one in told["shifts"]] == list(KINDS)
        site = load_site(tmp_path / "out" / name)
        patients = read_patients(site, BinaryTask(label="x"), SplitSection())
        assert len(patients) == told["after"]["patients"] < told["before"]["patients"]
        assert patients.labels.sum() == told["after"]["outcomes"]["outcome"]["positives"]
        assert patients.excluded == {}
        images = patients.events[patients.events["code"] == "IMAGE//DX"]["text_value"]
        files = {path.name for path in site.images.iterdir()}
        assert set(images) == files
        assert told["images"]["rewritten"] == len(files)
        meds = pq.read_table(site.events / "metadata/codes.parquet")
        assert set(patients.events["code"]) - {AGE} <= set(meds["code"].to_pylist())


def test_patients_stay_in_their_split_and_no_ledger_goes_along(sites, make_plan, tmp_path):
    reshape(sites, make_plan({"kind": "quantity", "strength": 0.5}), tmp_path / "out")
    for name in ("aarau", "bern", "chur"):
        state = tmp_path / "out" / name / "state"
        assert [path.name for path in state.iterdir()] == ["patient.key"]
        splits = []
        for folder in (sites, tmp_path / "out"):
            one = read_patients(load_site(folder / name), BinaryTask(label="x"), SplitSection())
            splits.append({s: set(one.subject_ids[rows]) for s, rows in one.splits.items()})
        for split, subjects in splits[1].items():
            assert subjects <= splits[0][split]


def test_source_is_not_touched_and_unchanged_images_are_not_copied(sites, make_plan, tmp_path):
    before = digests(sites)
    reshape(sites, make_plan({"kind": "scanner", "sites": ["bern"]}), tmp_path / "out")
    assert digests(sites) == before
    image = "aarau/dicom/1.dcm"
    assert os.path.samefile(sites / image, tmp_path / "out" / image)
    changed = "bern/dicom/1001.dcm"
    assert (sites / changed).read_bytes() != (tmp_path / "out" / changed).read_bytes()
    assert pydicom.dcmread(tmp_path / "out" / changed).pixel_array.max() <= 180


def test_paths_outside_a_site_folder_move_into_the_new_one(sites, make_plan, tmp_path):
    aarau = sites / "aarau"
    (tmp_path / "far").mkdir()
    for name in ("meds", "dicom", "labels.parquet", "state"):
        (aarau / name).rename(tmp_path / "far" / name)
    document = read_toml(aarau / "site.toml")
    document["data"]["events"]["path"] = "../../far/meds"
    document["data"]["images"]["path"] = str(tmp_path / "far/dicom")
    document["data"]["labels"] = str(tmp_path / "far/labels.parquet")
    document["site"]["state"] = str(tmp_path / "far/state")
    (aarau / "site.toml").write_text(tomli_w.dumps(document))
    reshape(sites, make_plan({"kind": "label_noise"}), tmp_path / "out")
    site = load_site(tmp_path / "out/aarau")
    inside = (site.events, site.images, site.labels, site.state)
    assert all(path.is_relative_to(tmp_path / "out/aarau") for path in inside)
    assert len(list(site.images.iterdir())) == 80
    assert [path.name for path in site.state.iterdir()] == ["patient.key"]


def test_state_that_lies_in_the_data_does_not_go_along(sites, make_plan, tmp_path):
    aarau = sites / "aarau"
    (aarau / "state").rename(aarau / "meds/state")
    document = read_toml(aarau / "site.toml")
    document["site"]["state"] = "meds/state"
    (aarau / "site.toml").write_text(tomli_w.dumps(document))
    reshape(sites, make_plan({"kind": "label_noise"}), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/aarau/meds/state").iterdir()] == ["patient.key"]


def test_extra_columns_types_files_and_unlabelled_subjects_survive(sites, make_plan, tmp_path):
    folder = sites / "aarau/meds/data"
    table = pq.read_table(folder / "0.parquet")
    table = table.append_column("unit", pa.array([f"u{k}" for k in range(len(table))]))
    wide = table.set_column(3, "numeric_value", table["numeric_value"].cast(pa.float64()))
    coded = wide.set_column(2, "code", wide["code"].combine_chunks().dictionary_encode())
    stranger = coded.slice(0, 1).set_column(0, "subject_id", pa.array([999_999], pa.int64()))
    (folder / "deep").mkdir()
    pq.write_table(coded.slice(0, 200), folder / "0.parquet")
    pq.write_table(pa.concat_tables([coded.slice(200), stranger]), folder / "deep/1.parquet")
    shifts = [{"kind": "covariate"}, {"kind": "coding", "share": 1.0}, {"kind": "case_mix"}]
    reshape(sites, make_plan(*shifts), tmp_path / "out")
    after = [
        pq.read_table(tmp_path / "out/aarau/meds/data" / name)
        for name in ("0.parquet", "deep/1.parquet")
    ]
    assert all(one.schema.equals(coded.schema) for one in after)
    assert 999_999 in after[1]["subject_id"].to_pylist()
    units = dict(zip(coded["unit"].to_pylist(), coded["time"].to_pylist(), strict=True))
    for one in after:
        for unit, time in zip(one["unit"].to_pylist(), one["time"].to_pylist(), strict=True):
            assert units[unit] == time


def test_given_splits_follow_the_patients_who_stay(sites, make_plan, tmp_path, write_table):
    subjects = range(1, 81)
    rows = [(s, ("train", "tuning", "held_out")[s // 2 % 3]) for s in subjects]
    types = {"subject_id": pa.int64(), "split": pa.string()}
    write_table(sites / "aarau/meds/metadata/subject_splits.parquet", rows, types)
    reshape(sites, make_plan({"kind": "case_mix"}), tmp_path / "out")
    written = tmp_path / "out/aarau/meds/metadata/subject_splits.parquet"
    kept = set(pq.read_table(tmp_path / "out/aarau/labels.parquet")["subject_id"].to_pylist())
    assert pq.read_table(written).to_pylist() == [
        {"subject_id": s, "split": split} for s, split in rows if s in kept
    ]
    assert 0 < len(kept) < 80


def test_integer_labels_keep_their_column(sites, make_plan, tmp_path):
    file = sites / "bern/labels.parquet"
    table = pq.read_table(file)
    numbers = table["boolean_value"].cast(pa.int64())
    table = table.drop_columns("boolean_value").append_column("integer_value", numbers)
    pq.write_table(table, file)
    reshape(sites, make_plan({"kind": "label_noise", "rate": 0.5}), tmp_path / "out")
    after = pq.read_table(tmp_path / "out/bern/labels.parquet")
    assert after.schema == pq.read_table(file).schema
    record = json.loads((tmp_path / "out/shifts.json").read_text())
    flipped = sum(a != b for a, b in zip(after["integer_value"], numbers, strict=True))
    assert flipped == record["sites"]["bern"]["shifts"][0]["touched"]["labels changed"] > 0


def test_shift_that_finds_nothing_is_told_with_the_sites(sites, make_plan, tmp_path, write_site):
    write_site(sites / "chur", 60, seed=3, first_id=5000)
    idle = reshape(sites, make_plan({"kind": "scanner"}), tmp_path / "out")
    assert idle == ["shift 1 (scanner) did nothing at chur: no images"]


@pytest.mark.parametrize(
    ("shifts", "words"),
    [
        ([{"kind": "quantity", "exponent": 5.0}] * 3, "would be left"),
        ([{"kind": "label_dirichlet", "alpha": 0.02}], "both classes"),
        ([{"kind": "scanner", "sites": ["zug"]}], '"zug" is no site'),
    ],
)
def test_shift_that_cannot_be_is_refused_and_nothing_appears(
    sites, make_plan, tmp_path, shifts, words
):
    with pytest.raises(UserError, match=words):
        reshape(sites, make_plan(*shifts), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shifts.toml", "sites"]


def test_site_whose_training_split_loses_a_class_is_refused(tmp_path, write_site, make_plan):
    plan = make_plan({"kind": "covariate"})
    splits = {s: "train" if s % 2 or s < 6 else "tuning" for s in range(1, 21)}
    for more in ({"splits": splits}, {"key": "7" * 64}):
        site = load_site(write_site(tmp_path / f"sites-{len(more)}" / next(iter(more)), 20, **more))
        before = read_tables(site, YES_OR_NO)
        label, train = before.patients["label"].to_numpy(), trains(before)
        assert 0 < label[train].sum() < train.sum()
        after = before.keep(~(train & (label == 1)))
        count = (train & (label == 0)).sum()
        with pytest.raises(UserError, match=f"left with {count} patients in training, 0 of them"):
            check_usable(before, after, plan)
        check_usable(after, after, plan)  # it was so before


def trains(tables):
    split = SplitSection(by="given") if tables.splits else SplitSection()
    patients = read_patients(tables.site, YES_OR_NO, split)
    rows = np.zeros(len(patients), bool)
    rows[patients.splits["train"]] = True
    return rows


def test_folder_in_use_or_among_the_sites_is_refused(sites, make_plan, tmp_path):
    plan = make_plan({"kind": "coding"})
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(UserError, match="is in use"):
        reshape(sites, plan, tmp_path / "used")
    for inside in (sites / "out", sites / "bern/data/out"):
        with pytest.raises(UserError, match="among the sites"):
            reshape(sites, plan, inside)


def test_two_sites_of_one_name_are_refused(sites, make_plan, tmp_path):
    file = sites / "bern/site.toml"
    file.write_text(file.read_text().replace('"bern"', '"aarau"'))
    with pytest.raises(UserError, match=r'"aarau" is also the name of'):
        reshape(sites, make_plan({"kind": "coding"}), tmp_path / "out")
