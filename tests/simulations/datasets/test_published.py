"""Published datasets as site folders: counts of the publishers, no leak, a study that runs."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from clients.cohort import read_patients
from clients.site import find_sites, load_site
from clients.workbench import Workbench
from federation.errors import UserError
from federation.study import SplitSection, load_study
from federation.tasks import BinaryTask
from simulations.datasets import DATASETS
from simulations.runner import simulate

ROOT = Path(__file__).parents[3]
DATA = ROOT / "../shared/data"
SOURCES = {
    "eicu-demo": "eicu_demo_2.0.1",
    "hannover-cxr": "hannover_covid_cxr",
    "pneumoniamnist": "pneumoniamnist",
    "mimic-demo": "mimic_iv_demo_meds_0.0.1",
}
STUDIES = {
    "eicu-demo": "eicu-mortality",
    "hannover-cxr": "hannover-icu",
    "pneumoniamnist": "pneumonia",
    "mimic-demo": "mimic-mortality",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Convert a dataset once; skip if its publisher's files are not here."""
    done = {}

    def get(name):
        source = DATA / SOURCES[name]
        if not source.is_dir():
            pytest.skip(f"{name}'s files are not at {source}")
        if name not in done:
            out = tmp_path_factory.mktemp("datasets") / name
            done[name] = out, DATASETS[name].convert(source, out)
        return done[name]

    return get


def patients_of(folder, label, split="patient"):
    return read_patients(load_site(folder), BinaryTask(label=label), SplitSection(by=split))


@pytest.mark.parametrize("name", SOURCES)
def test_short_study_runs_on_the_dataset(converted, tmp_path, name):
    out, report = converted(name)
    study = load_study(
        ROOT / "examples/studies" / f"{STUDIES[name]}.toml",
        ["training.rounds=1", "evaluation.baselines=[]"],
    )
    simulate(study, out, tmp_path / "run", workers=0)
    told = json.loads((tmp_path / "run/sites.json").read_text())
    assert set(told) == {site.site for site in report.sites}
    (record,) = (tmp_path / "run/rounds.jsonl").read_text().splitlines()
    assert sorted(json.loads(record)["answered"]) == sorted(told)


@pytest.mark.parametrize("name", SOURCES)
def test_conversion_is_the_same_twice_and_never_writes_over(converted, tmp_path, name):
    out, report = converted(name)
    assert DATASETS[name].convert(DATA / SOURCES[name], tmp_path / "again") == report
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert files == sorted(
        p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()
    )
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    with pytest.raises(UserError, match="is not empty"):
        DATASETS[name].convert(DATA / SOURCES[name], out)


@pytest.mark.parametrize("name", SOURCES)
def test_folder_that_holds_something_else_is_explained(tmp_path, name):
    with pytest.raises(UserError, match="Give the folder of"):
        DATASETS[name].convert(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="is not a folder"):
        DATASETS[name].convert(tmp_path / "none", tmp_path / "out")


def test_eicu_groups_are_whole_hospitals_and_every_patient_is_in_one(converted):
    out, report = converted("eicu-demo")
    assert len(report.sites) >= 8
    stays = pd.read_csv(DATA / SOURCES["eicu-demo"] / "tables/patient.csv.gz")
    assert sum(site.rows for site in report.sites) == len(stays) == 2520
    for site in report.sites:
        assert site.patients + sum(site.excluded.values()) == site.rows
    homes = {}
    for file in find_sites(out):
        rows = pd.read_csv(file.parent / "data/tables/patient.csv")
        for hospital in stays.set_index("patientunitstayid").loc[
            rows["patientunitstayid"], "hospitalid"
        ]:
            assert homes.setdefault(hospital, file.parent.name) == file.parent.name
    everyone = pd.concat(
        pd.read_csv(file.parent / "data/labels.csv", dtype=str) for file in find_sites(out)
    )
    assert everyone["subject_id"].is_unique
    assert set(everyone["subject_id"]) <= set(stays["uniquepid"])


def test_eicu_labels_are_the_hospital_s_outcome_and_its_comparator_is_apache_s(converted):
    out, _ = converted("eicu-demo")
    source = DATA / SOURCES["eicu-demo"] / "tables"
    stays = pd.read_csv(source / "patient.csv.gz").set_index("patientunitstayid")
    scores, labels = [], []
    for file in find_sites(out):
        tables = pd.read_csv(file.parent / "data/tables/patient.csv").set_index("uniquepid")
        own = pd.read_csv(file.parent / "data/labels.csv").set_index("subject_id")["boolean_value"]
        outcome = stays.loc[tables.loc[own.index, "patientunitstayid"], "hospitaldischargestatus"]
        assert own.tolist() == outcome.eq("Expired").tolist()
        compared = pd.read_csv(file.parent / "data/comparator.csv").set_index("subject_id")
        scores += compared["apache_iva"].tolist()
        labels += own.loc[compared.index].tolist()
    assert roc_auc_score(labels, scores) == pytest.approx(0.862, abs=0.02)  # published: 0.862


def test_eicu_features_hold_nothing_of_the_discharge(converted):
    out, _ = converted("eicu-demo")
    leaks = ("discharge", "actual", "unabridged", "died", "los", "predicted", "apachescore")
    for file in find_sites(out):
        for table in (file.parent / "data/tables").iterdir():
            names = (
                pq.read_schema(table).names
                if table.suffix == ".parquet"
                else pd.read_csv(table, nrows=0).columns
            )
            assert not [name for name in names if any(leak in name for leak in leaks)]
    patients = patients_of(out / "south-medium", "hospital_death")
    assert patients.notices == {}
    assert len(patients) == len(pd.read_csv(out / "south-medium/data/labels.csv"))


def test_eicu_tables_are_read_as_they_stand_with_minus_one_as_missing(converted):
    out, _ = converted("eicu-demo")
    folder = out / "northeast"
    bench = Workbench()
    study = load_study(ROOT / "examples/studies/eicu-mortality.toml")
    events = bench.patients(str(folder / "site.toml"), study).events
    scores = pd.read_csv(folder / "data/tables/apache_aps.csv")
    for name in ("ph", "wbc", "eyes"):
        ours = np.sort(events.loc[events["code"] == f"APS//{name}", "numeric_value"].to_numpy())
        theirs = np.sort(scores.loc[scores[name] != -1, name].to_numpy(np.float32))
        np.testing.assert_array_equal(ours, theirs)
    hourly = pq.read_table(folder / "data/tables/hourly.parquet").to_pandas()
    heart = events[events["code"] == "HOURLY//hr"]
    assert len(heart) == hourly["hr"].notna().sum()
    assert heart["hours_before"].between(0, 24).all()


def test_mimic_label_is_death_before_discharge_of_the_first_stay_of_over_a_day(converted):
    out, report = converted("mimic-demo")
    folder = out / "mimic-demo"
    (site,) = report.sites
    assert (site.rows, site.patients, site.excluded) == (916_166, 100, {})
    events = pq.ParquetDataset(folder / "data/meds/data").read(["subject_id", "time", "code"])
    events = events.to_pandas().sort_values("time", kind="stable")
    labels = pd.read_parquet(folder / "data/labels.parquet").set_index("subject_id")
    for subject, own in events.groupby("subject_id"):
        leaves = own[own["code"].str.startswith("HOSPITAL_DISCHARGE")]
        for start in own.loc[own["code"].str.startswith("HOSPITAL_ADMISSION"), "time"]:
            end = leaves[leaves["time"] > start].iloc[0]
            if end["time"] - start > pd.Timedelta(hours=24):
                break
        row = labels.loc[subject]
        assert row["prediction_time"] == start + pd.Timedelta(hours=24)
        assert row["boolean_value"] == (end["code"] == "HOSPITAL_DISCHARGE//DIED")
    patients = patients_of(folder, "in_hospital_death", "given")
    assert [len(patients.splits[s]) for s in ("train", "tuning", "held_out")] == [80, 10, 10]
    assert (patients.events["hours_before"].dropna() >= 0).all()


def test_hannover_is_split_by_patient_and_infinities_are_limits_of_detection(converted):
    out, report = converted("hannover-cxr")
    (site,) = report.sites
    source = pd.read_csv(DATA / SOURCES["hannover-cxr"] / "data.csv")
    assert site.rows == len(source) == 243
    assert site.patients + sum(site.excluded.values()) == source["patient_id"].nunique() == 71
    patients = patients_of(out / "hannover", "icu_or_death")
    assert len(patients) == site.patients
    assert patients.labels.sum() == site.positives
    images = patients.events["code"].astype(str).str.startswith("IMAGE//")
    assert set(patients.events.loc[images, "row"]) == set(range(len(patients)))
    assert np.isfinite(patients.events["numeric_value"].dropna()).all()
    tables = pd.read_csv(out / "hannover/data/tables/labs.csv")
    assert np.isinf(tables["value"]).any()
    values = patients.events["code"].astype(str)
    assert values.str.endswith(("//BELOW_LIMIT", "//ABOVE_LIMIT")).any()


def test_pneumoniamnist_holds_every_image_once_and_keeps_the_publisher_s_test_set(converted):
    out, report = converted("pneumoniamnist")
    with np.load(DATA / SOURCES["pneumoniamnist"] / "pneumoniamnist.npz") as archive:
        arrays = {s: archive[f"{s}_images"].reshape(-1, 784) for s in ("train", "val", "test")}
    unique = np.unique(np.concatenate(list(arrays.values())), axis=0)
    assert sum(site.patients for site in report.sites) == len(unique)
    assert sum(site.rows for site in report.sites) == sum(len(a) for a in arrays.values()) == 5856
    held_out = 0
    for file in find_sites(out):
        splits = pq.read_table(file.parent / "data/meds/metadata/subject_splits.parquet")
        held_out += splits["split"].to_pylist().count("held_out")
    assert held_out == len(np.unique(arrays["test"], axis=0))


def test_site_files_name_source_licence_and_who_may_be_thanked(converted):
    for name in SOURCES:
        out, _ = converted(name)
        for file in find_sites(out):
            text = file.read_text()
            assert "ODbL" in text or "CC BY" in text
            assert tomllib.loads(text)["data"]["label"]
