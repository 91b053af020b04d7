"""`wardround monitor`: quiet on the run's own patients, loud on others, clear about mistakes."""

import json
import shutil
import subprocess
import sys
from datetime import date, timedelta

import pandas as pd
import pytest
import tomli_w

from federation.errors import UserError
from federation.study import Study
from simulations.runner import simulate
from wardround.monitor import ALARM, _monitored

STUDY = {
    "study": {"name": "watched"},
    "task": {"label": "sick"},
    "modalities": {
        "ehr": {"width": 8, "buckets": 8, "reference_ranges": {"LAB//CRP": [0.0, 10.0]}},
    },
    "training": {"rounds": 4, "batch_size": 32},
    "evaluation": {"windows": {"number": 2}, "recalibration": {"method": "platt"}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, write_site):
    """A run of two sites, and one of them with other patients, a year later."""
    folder = tmp_path_factory.mktemp("watched")
    for seed, name in enumerate(("north", "south")):
        write_site(folder / "sites" / name, 300, seed=seed)
    simulate(Study.model_validate(STUDY), folder / "sites", folder / "run", workers=0)
    shutil.copytree(folder / "sites/north", folder / "later")
    labels = pd.read_parquet(folder / "later/labels.parquet")
    later = labels.assign(
        prediction_time=labels["prediction_time"] + timedelta(days=3650),
        boolean_value=labels.index % 5 != 0,
    )
    later.to_parquet(folder / "later/labels.parquet")
    return folder


def test_held_out_patients_of_the_run_raise_no_alarm_and_are_those_of_the_run(finished):
    document = _monitored(finished / "sites/north", finished / "run", None, None, 1)
    run, now = document["windows"]["0"], document["windows"]["1"]
    metrics = json.loads((finished / "run/metrics.json").read_text())
    measured = metrics["models"]["federated"]["sites"]["north"]
    assert document["reference_of"] == "north"
    assert run["n"] == now["n"] == measured["n"]
    assert run["auroc"] == now["auroc"] == measured["auroc"]
    assert now["changes"]["scores"]["value"] == 0
    assert document["alarms"] == []
    drift = metrics["drift"]["sites"]["north"]["windows"]
    assert set(drift) == {"1", "2"}
    assert sum(one["n"] for one in drift.values()) == measured["n"]


def test_both_sides_have_the_risks_that_the_run_recalibrated(finished, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(finished / "run", other)
    document = json.loads((other / "recalibration.json").read_text())
    slopes = []
    for slope in (1.0, 0.5):
        document["lines"]["sick"] = {"slope": slope, "intercept": 0.0}
        (other / "recalibration.json").write_text(json.dumps(document))
        found = _monitored(finished / "sites/north", other, None, None, 1)["windows"]
        assert found["0"]["calibration_slope"] == found["1"]["calibration_slope"]
        slopes.append(found["0"]["calibration_slope"]["value"])
    assert slopes[1] == pytest.approx(2 * slopes[0], rel=1e-4)


def test_other_patients_raise_an_alarm_that_the_exit_code_tells(finished, tmp_path):
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "wardround", "monitor", finished / "later", finished / "run"]
    command += ["--since", "2025-01-01", "--windows", "2", "--out", page]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == ALARM, told.stderr
    assert "ALARM: " in told.stdout
    assert "share with the outcome" in told.stdout
    assert "Do not send it" in page.read_text()


def test_mistakes_are_named(finished, tmp_path):
    run, site = finished / "run", finished / "sites/north"
    with pytest.raises(UserError, match="no patient lies in the period"):
        _monitored(site, run, date(2090, 1, 1), None, 1)
    with pytest.raises(UserError, match="--until"):
        _monitored(site, run, date(2020, 2, 1), date(2020, 1, 1), 1)
    other = tmp_path / "run"
    shutil.copytree(run, other)
    study = Study.model_validate({**STUDY, "modalities": {"ehr": {"width": 16}}})
    (other / "study.toml").write_text(tomli_w.dumps(study.to_dict()))
    with pytest.raises(UserError, match=r"not that of study\.toml"):
        _monitored(site, other, None, None, 1)
    (other / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        _monitored(site, other, None, None, 1)
    with pytest.raises(UserError, match="no such run folder"):
        _monitored(site, tmp_path / "nothing", None, None, 1)
