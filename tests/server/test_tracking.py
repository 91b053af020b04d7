"""MLflow: what a run folder holds arrives in a store of files, and nothing else is needed."""

import builtins

import pytest
from run_folder import write_run_folder

from federation.errors import UserError
from server.report.page import write_report
from server.report.run_folder import read_run_folder
from server.tracking import check_target, measured, parameters, track

pytest.importorskip("mlflow", reason="the extra wardround[mlflow] is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run_folder(tmp_path_factory.mktemp("runs") / "first")
    ranges = '\n[modalities.ehr.reference_ranges]\n"LAB//BUN" = [7, 25]\n'
    study = folder / "study.toml"
    study.write_text(study.read_text() + ranges)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def logged(run):
    from mlflow.tracking import MlflowClient

    track(run)
    client = MlflowClient(tracking_uri=(run.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("heart-disease")
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def test_settings_are_parameters(run, logged):
    _, found = logged
    assert found.data.params == parameters(read_run_folder(run))
    assert found.data.params["training.rounds"] == "12"
    assert found.data.params["modalities.ehr.reference_ranges.LAB__BUN"] == "7, 25"
    assert found.data.tags["mlflow.runName"] == "first"
    assert found.data.tags["fingerprint"] == "9f2c41d07a6be1538c02"
    assert found.info.status == "FINISHED"


def test_metrics_are_those_of_rounds_sites_and_subgroups(run, logged):
    client, found = logged
    folder = read_run_folder(run)
    overall = folder.model.overall
    assert found.data.metrics["held_out/auroc"] == overall.auroc.value
    assert found.data.metrics["held_out/auroc_low"] == overall.auroc.low
    site = folder.model.sites["cleveland"]
    assert found.data.metrics["held_out/site/cleveland/brier"] == site.brier.value
    history = client.get_metric_history(found.info.run_id, "round/loss")
    assert [(one.step, one.value) for one in history] == [
        (one.round, one.loss) for one in folder.rounds if one.loss is not None
    ]
    withheld = [name for name, cell in folder.model.sites.items() if cell.suppressed]
    assert withheld
    assert not any(
        f"/{name}/" in key
        for name in withheld
        for key in found.data.metrics
        if key.startswith("held_out/site")
    )
    assert len(found.data.metrics) == len({name for name, *_ in measured(folder)})


def test_files_are_kept(logged):
    client, found = logged
    names = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert {"study.toml", "metrics.json", "privacy.json", "report.html", "rounds.jsonl"} <= names
    assert not any(name.startswith(("checkpoints", "ledgers", "personal")) for name in names)


def test_a_server_that_is_not_there_and_a_wrong_target_are_named(run, monkeypatch):
    with pytest.raises(UserError, match="mlflow:URI"):
        check_target("tensorboard")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        track(run, "mlflow:http://127.0.0.1:9")


def test_without_mlflow_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "mlflow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"wardround\[mlflow\]"):
        check_target("mlflow")
