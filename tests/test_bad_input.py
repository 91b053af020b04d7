"""What people get wrong, through the command line: one clear message, exit code 2, no traceback."""

import json
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wardround.__main__ import main

NOON = datetime(2024, 6, 1, 12)


@pytest.fixture
def wardround(monkeypatch, capsys):
    """Return a function: arguments -> exit code, stdout, stderr of the command in this process."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["wardround", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def sites(tmp_path, write_site):
    folder = tmp_path / "sites"
    for k, name in enumerate(("aarau", "bern")):
        write_site(folder / name, 60, seed=k, first_id=1000 * k + 1)
    return folder


@pytest.fixture
def simulate(tmp_path, wardround, write_study, sites):
    """Run the small study on two small sites, with one thing wrong."""

    def simulate(*more, study=None, sites=sites, out=tmp_path / "run", workers=0):
        study = study or write_study(evaluation={"every": 0}, training={"rounds": 1})
        options = ["--sites", sites, "--out", out, "--workers", workers]
        return wardround("simulate", study, *options, *more)

    return simulate


def refused(result, *words):
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err


def test_small_study_runs(simulate, tmp_path):
    code, out, err = simulate()
    assert code == 0, err
    assert out.splitlines()[-1] == str(tmp_path / "run")
    assert "Traceback" not in err
    assert "Warning" not in err


def test_missing_study(simulate, tmp_path):
    refused(simulate(study=tmp_path / "stud.toml"), "stud.toml", "there is no such file")


def test_missing_study_lists_its_neighbours(simulate, tmp_path):
    (tmp_path / "study.toml").write_text("")
    refused(simulate(study=tmp_path / "stdy.toml"), "In", "there is: study.toml")


def test_study_that_is_a_folder(simulate, tmp_path):
    refused(simulate(study=tmp_path), tmp_path, "this is a folder")


@pytest.mark.parametrize("text", ["[study\n", "a = = 1", "\x01", "x = 1\nx = 2"])
def test_broken_toml(simulate, tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    refused(simulate(study=tmp_path / "bad.toml"), "bad.toml", "not valid TOML")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_study_in_another_encoding(simulate, tmp_path, encoding):
    (tmp_path / "bad.toml").write_bytes("[study]\nname = 'é'".encode(encoding))
    result = simulate(study=tmp_path / "bad.toml")
    refused(result, "bad.toml: not UTF-8 text.\n  Save it with the encoding UTF-8")
    assert "codec" not in result[2]


def test_files_with_a_byte_order_mark(simulate, write_study, sites):
    study = write_study(evaluation={"every": 0}, training={"rounds": 1})
    for file in (study, sites / "bern" / "site.toml"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert simulate(study=study)[0] == 0


def test_gpu_that_is_not_there(simulate, sites, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    file = sites / "bern" / "site.toml"
    file.write_text(file.read_text().replace('"cpu"', '"cuda:0"'))
    words = ("bern/site.toml: site.device", '"cuda:0" is not there', 'Give "auto" or "cpu"')
    refused(simulate(), *words)


def test_unknown_key_in_the_study(simulate):
    result = simulate("--set", "training.round=3")
    refused(result, "study.toml: training.round: unknown key", 'Did you mean "rounds"?')


def test_bad_override(simulate):
    refused(simulate("--set", "training.rounds"), "expected KEY=VALUE")


def test_missing_sites_folder(simulate, tmp_path):
    refused(simulate(sites=tmp_path / "gone"), "gone", "there is no such folder")


def test_folder_without_sites(simulate, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(simulate(sites=tmp_path / "empty"), "empty", "no site was found")


def test_two_sites_of_one_name(simulate, sites):
    file = sites / "bern" / "site.toml"
    file.write_text(file.read_text().replace('"bern"', '"aarau"'))
    refused(simulate(), "site.name", '"aarau" is also the name of')


def test_too_few_sites(simulate):
    refused(simulate("--set", "strategy.minimum_sites=3"), "2 sites were found", "needs 3")


def test_missing_labels_file(simulate, sites):
    (sites / "bern" / "labels.parquet").unlink()
    refused(simulate(), "bern/site.toml: data.labels", "labels.parquet")


def test_missing_events_folder(simulate, sites):
    (sites / "bern" / "meds").rename(sites / "bern" / "elsewhere")
    refused(simulate(), "bern/site.toml: data.events.path", "holds the events")


def test_missing_dicom_folder(simulate, sites):
    file = sites / "aarau" / "site.toml"
    file.write_text(file.read_text() + '\n[data.images]\nformat = "dicom"\npath = "dicom"\n')
    refused(simulate(), "aarau/site.toml: data.images.path", '"dicom" is not a folder')


def test_wrong_column_type(simulate, sites):
    file = sites / "bern" / "meds" / "data" / "0.parquet"
    table = pq.read_table(file)
    names = pa.array([f"Patient {i}" for i in range(len(table))])
    pq.write_table(table.set_column(0, "subject_id", names), file)
    result = simulate()
    refused(result, "bern/meds/data/0.parquet: subject_id", "expected int64, found string")
    assert "Patient" not in result[2]


def test_missing_column(simulate, sites):
    file = sites / "bern" / "meds" / "data" / "0.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["code"]), file)
    refused(simulate(), "bern/meds/data/0.parquet: code: the column is missing", "subject_id")


@pytest.mark.parametrize("name", ["labels.parquet", "meds/data/0.parquet"])
def test_truncated_parquet(simulate, sites, name):
    file = sites / "bern" / name
    file.write_bytes(file.read_bytes()[:-20])
    refused(simulate(), f"bern/{name}", "not a readable parquet file")


def test_no_events_at_all(simulate, sites):
    (sites / "bern" / "meds" / "data" / "0.parquet").unlink()
    refused(simulate(), "bern/meds", "no .parquet file was found")


def test_label_file_where_nobody_is_left(simulate, sites, write_labels):
    write_labels(sites / "bern" / "labels.parquet", [(1, NOON, True), (1001, None, True)])
    result = simulate()
    refused(result, "bern/labels.parquet: no patient is left", "no prediction time: 1")


def test_equal_prediction_times_cannot_be_split_by_time(simulate, sites, write_labels):
    labels = [(i, NOON + timedelta(days=900), bool(i % 2)) for i in range(1, 61)]
    write_labels(sites / "aarau" / "labels.parquet", labels)
    result = simulate("--set", "split.by=time")
    refused(result, "aarau/labels.parquet: prediction_time", 'Use split.by = "patient"')


def test_given_split_without_its_file(simulate):
    refused(simulate("--set", "split.by=given"), "subject_splits.parquet")


def test_run_folder_that_is_not_empty(simulate, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("x")
    refused(simulate(), tmp_path / "run", "is not empty", "Give another --out")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "x"


def test_run_folder_that_is_a_file_or_below_one(simulate, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(simulate(out=tmp_path / "file"), tmp_path / "file")
    refused(simulate(out=tmp_path / "file" / "run"), tmp_path / "file", "cannot be made")


@pytest.mark.parametrize("workers", [-1, 10_000])
def test_impossible_number_of_workers(simulate, workers):
    refused(simulate(workers=workers), "--workers", f"{workers} is not between 0 and")


@pytest.mark.parametrize("arguments", [["--workers", "two"], ["--wokers", "2"], []])
def test_misspelled_or_missing_options(wardround, write_study, arguments):
    refused(wardround("simulate", write_study(), *arguments))


def test_resume_of_what_is_no_run(wardround, write_study, sites, tmp_path):
    arguments = ["simulate", write_study(), "--sites", sites, "--workers", 0, "--resume"]
    for folder in (tmp_path / "gone", sites):
        refused(wardround(*arguments, folder), folder, "there is no run to resume")
    refused(wardround(*arguments, sites, "--out", tmp_path / "other"), "--out")


def test_resume_with_another_study_leaves_the_run_as_it_is(simulate, tmp_path):
    assert simulate()[0] == 0
    before = (tmp_path / "run" / "study.toml").read_text()
    result = simulate("--resume", tmp_path / "run", "--set", "study.seed=7")
    refused(result, "belongs to another study")
    assert (tmp_path / "run" / "study.toml").read_text() == before


def test_unknown_dataset(wardround, tmp_path):
    result = wardround("dataset", "uci-hart", "--source", tmp_path, "--out", tmp_path / "out")
    refused(result, '"uci-hart" is not known', 'Did you mean "uci-heart"?')


def test_dataset_without_its_files(wardround, tmp_path):
    refused(wardround("dataset", "uci-heart", "--source", tmp_path, "--out", tmp_path / "out"))


def test_report_of_what_is_no_run(wardround, tmp_path):
    refused(wardround("report", tmp_path / "gone"), "gone")


def test_all_policies_refuse(simulate, sites):
    for name in ("aarau", "bern"):
        file = sites / name / "site.toml"
        file.write_text(file.read_text() + "\n[policy]\nrequire_privacy = true\n")
    code, _, err = simulate()
    assert code == 4
    assert "aarau, bern" in err
    assert "Traceback" not in err


def test_no_site_has_enough_patients(simulate, sites, write_site):
    for k, name in enumerate(("aarau", "bern")):
        write_site(sites / name, 8, first_id=1000 * k + 1)
    code, _, err = simulate()
    assert code == 3
    assert "0 of 2 sites sent a usable update" in err
    assert "Traceback" not in err


# --- data that is odd but usable: the run completes, and says so


def told(folder, site="odd"):
    """Return what the run folder says of a site, and its warnings."""
    about = json.loads((folder / "sites.json").read_text())[site]
    return about, " ".join(json.loads((folder / "warnings.json").read_text()))


@pytest.fixture
def with_odd_site(simulate, sites, write_site, tmp_path):
    """Return a function: an odd third site -> what the run tells of it."""

    def run(patients=60, *more, prepare=None, policy=None, **site):
        folder = write_site(
            sites / "odd",
            patients,
            first_id=5001,
            policy={"minimum_cell": 2, **(policy or {})},
            **site,
        )
        if prepare:
            prepare(folder)
        code, _, err = simulate(*more)
        assert code == 0, err
        assert "Traceback" not in err
        return told(tmp_path / "run")

    return run


def default_labels(value):
    return [(5001 + i, NOON + timedelta(days=365), value(i)) for i in range(60)]


def test_site_with_one_class_takes_part_and_gets_no_auroc(with_odd_site, tmp_path):
    with_odd_site(labels=default_labels(lambda i: True))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    cell = metrics["models"]["federated"]["sites"]["odd"]
    assert cell["auroc"]["value"] is None
    assert cell["auroc"]["reason"]
    assert cell["n"] == cell["positives"]


def test_site_smaller_than_a_batch(with_odd_site):
    about, warnings = with_odd_site(20, "--set", "training.batch_size=32")
    train = about["patients"]["train"]
    assert f"odd has {train} training patients, fewer than a batch of 32" in warnings


def test_empty_tuning_split(with_odd_site):
    fractions = "split.fractions={train=0.8, tuning=0.0, held_out=0.2}"
    about, warnings = with_odd_site(60, "--set", fractions, "--set", "evaluation.every=1")
    assert about["patients"]["tuning"] == 0
    assert "odd has no patient in the tuning split" in warnings


def test_duplicate_subjects_and_patients_without_a_label(with_odd_site):
    labels = default_labels(lambda i: bool(i % 2))[:40]
    labels += labels[:5] + [(5001, NOON + timedelta(days=400), False)] * 2
    about, _ = with_odd_site(labels=labels)
    assert sum(about["patients"].values()) == 40
    assert about["excluded"] == {"no label": 20}
    assert about["notices"]["repeated label rows"] == 5


def test_contradictory_labels(with_odd_site):
    labels = default_labels(lambda i: bool(i % 2))
    about, _ = with_odd_site(labels=labels + [(s, t, not v) for s, t, v in labels[:7]])
    assert about["excluded"] == {"contradictory labels": 7}


def test_unreadable_images(with_odd_site, write_study, sites):
    def damage(folder):
        files = sorted((folder / "dicom").iterdir())
        for file in files[:6]:
            file.write_bytes(b"not an image")
        for file in files[6:10]:
            file.unlink()

    modality = "modalities.image={size=32, width=8}"
    about, _ = with_odd_site(60, "--set", modality, images=True, prepare=damage)
    assert about["modalities"] == {"ehr": 60, "image": 50}
    assert about["notices"]["image: not a DICOM file"] == 6
    assert about["notices"]["image: the file is missing"] == 4


def test_site_without_a_modality_of_the_study(with_odd_site):
    about, _ = with_odd_site(60, "--set", "modalities.text={width=8}")
    assert about["modalities"] == {"ehr": 60, "text": 0}


def test_values_that_are_no_numbers(with_odd_site):
    before = NOON - timedelta(days=900)
    events = [
        (5001 + i, before, "LAB//CRP", value, None)
        for i, value in enumerate([np.inf, -np.inf, np.nan, 3e38, -3e38] * 10)
    ]
    about, _ = with_odd_site(more_events=events)
    assert about["modalities"] == {"ehr": 60}
    assert about["notices"] == {"value: not a finite number": 50}


def test_labels_of_another_study(simulate, sites):
    file = sites / "bern" / "site.toml"
    file.write_text(file.read_text().replace("[data]\n", '[data]\nlabel = "readmission"\n'))
    refused(simulate(), "bern/site.toml: data.label", '"readmission"', 'task.label = "sick"')


# --- through real processes


def process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "wardround", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_process_ends_with_2_and_one_message(tmp_path):
    ended = process("simulate", tmp_path / "no.toml", "--sites", tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"{tmp_path / 'no.toml'}: there is no such file.")
    assert "Traceback" not in ended.stderr


def test_process_runs_the_small_study_and_prints_the_folder_last(write_study, sites, tmp_path):
    study = write_study(training={"rounds": 1})
    ended = process("simulate", study, "--sites", sites, "--out", tmp_path / "r", "--workers", 0)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == str(tmp_path / "r")
    assert "Traceback" not in ended.stderr
    assert "Warning" not in ended.stderr


def test_process_that_finds_a_broken_file_ends_with_2(write_study, sites, tmp_path):
    (sites / "bern" / "labels.parquet").write_bytes(b"PAR1")
    ended = process("simulate", write_study(), "--sites", sites, "--out", tmp_path / "r")
    assert ended.returncode == 2
    assert "bern/labels.parquet: not a readable parquet file" in ended.stderr
    assert "Traceback" not in ended.stderr
