"""The model card: filled from the run, honest about what no run knows, and about what changed."""

import json
import math
import shutil

import pytest
from run_folder import SITES, write_run_folder

from federation.errors import UserError
from server.report import write_report
from server.report.card import write_card
from server.report.card.answers import ANSWERS, known_answers
from server.report.card.questions import ASKED_OF, CHAI, TRIPOD_AI
from server.report.comparison import difference
from server.report.documents import Metric
from server.report.run_folder import read_run_folder


@pytest.fixture
def run(tmp_path):
    return write_run_folder(tmp_path / "run")


def written(run):
    write_report(run)
    return json.loads((run / "model_card.json").read_text()), (run / "model_card.md").read_text()


def answers(card):
    items = [*card["tripod_ai"], *(item for part in card["chai"].values() for item in part)]
    return {one["key"]: one for item in items for one in item["answers"]}


def test_every_item_is_answered_by_the_run_or_asked_of_somebody(run):
    folder = read_run_folder(run)
    known = known_answers(folder)
    keys = {key for q in (*TRIPOD_AI, *sum(CHAI.values(), ())) for key in q.keys}
    assert keys == set(known) | set(ASKED_OF)
    assert {key for key, answer in known.items() if not answer} == {"intended_use"}
    assert [q.number for q in TRIPOD_AI if len(q.number) < 3][:4] == ["1", "2", "3a", "3b"]


def test_what_no_run_knows_is_marked_and_not_invented(run):
    card, text = written(run)
    found = answers(card)
    for key in ("developer", "regulatory_approval", "intended_use", "ethics"):
        assert "answer" not in found[key]
        assert found[key]["missing"].startswith("not given: to be filled by ")
    assert "**Developer.** **not given: to be filled by the coordinator" in text
    assert "study.intended_use" in found["intended_use"]["missing"]


def test_performance_is_that_of_the_run_with_intervals(run):
    card, text = written(run)
    metrics = json.loads((run / "metrics.json").read_text())["models"]["federated"]
    for site in SITES:
        told, cell = card["performance"]["sites"][site], metrics["sites"][site]
        assert told.get("suppressed", "") == cell.get("suppressed", "")
        if "auroc" in cell:
            for end in ("value", "low", "high"):
                assert told["auroc"].get(end) == cell["auroc"].get(end)
    overall = metrics["overall"]["auroc"]
    shown = f"{overall['value']:.3f} ({overall['low']:.3f} to {overall['high']:.3f})"
    assert f"AUROC {shown}" in answers(card)["headline"]["answer"]
    assert shown in text and "| zurich-cantonal | withheld: fewer than 10 patients |" in text
    assert set(card["performance"]["subgroups"]) == set(metrics["subgroups"])


def test_answers_of_people_are_taken_and_named_as_theirs(run):
    (run / ANSWERS).write_text('developer = "The consortium | <b>us</b>"\nlimits = "Ours too."\n')
    card, text = written(run)
    found = answers(card)
    assert found["developer"] == {
        "key": "developer",
        "answer": "The consortium | <b>us</b>",
        "by": "people",
    }
    assert found["limits"]["answer"].endswith("Ours too.")
    assert r"The consortium \| &lt;b&gt;us&lt;/b&gt;" in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('develper = "x"', 'no such answer; did you mean "developer"'),
        ("developer = 3", "expected a text"),
        ('developer = " "', "expected a text that is not empty"),
        ("developer = ", "model_card_answers.toml"),
    ],
)
def test_broken_answer_is_named(run, line, said):
    (run / ANSWERS).write_text(line)
    with pytest.raises(UserError, match=said) as caught:
        write_report(run)
    assert ANSWERS in str(caught.value)


def test_change_control_names_settings_versions_and_unpaired_differences(run, tmp_path):
    old = write_run_folder(tmp_path / "old", seed=5)
    study = (old / "study.toml").read_text().replace("batch_size = 32", "batch_size = 16")
    (old / "study.toml").write_text(study)
    environment = json.loads((old / "environment.json").read_text())
    (old / "environment.json").write_text(json.dumps({**environment, "torch": "2.12.0"}))
    write_report(run, predecessor=old)
    change = json.loads((run / "model_card.json").read_text())["change_control"]
    assert change["settings"] == [{"key": "training.batch_size", "before": "16", "after": "32"}]
    assert {"key": "torch", "before": "2.12.0", "after": "2.13.0"} in change["versions"]
    before, after = (
        json.loads((folder / "metrics.json").read_text())["models"]["federated"]
        for folder in (old, run)
    )
    (found,) = (
        one
        for one in change["differences"]
        if (one["group"], one["metric"]) == ("cleveland", "AUROC")
    )
    a, b = (model["sites"]["cleveland"]["auroc"] for model in (before, after))
    assert found["difference"]["value"] == pytest.approx(b["value"] - a["value"])
    text = (run / "model_card.md").read_text()
    assert "unpaired" in text and "| training.batch_size | 16 | 32 |" in text


def test_comparison_is_kept_so_that_the_card_needs_the_run_folder_alone(run, tmp_path):
    old = write_run_folder(tmp_path / "old", seed=5)
    write_report(run, predecessor=old)
    shutil.rmtree(old)
    first = (run / "model_card.md").read_bytes(), (run / "model_card.json").read_bytes()
    for name in ("model_card.md", "model_card.json", "report.html"):
        (run / name).unlink()
    written(run)
    assert ((run / "model_card.md").read_bytes(), (run / "model_card.json").read_bytes()) == first
    (run / "change_control.json").write_text("{}")
    with pytest.raises(UserError, match=r"change_control\.json"):
        write_report(run)


def test_predecessor_that_predicts_another_outcome_is_refused(run, tmp_path):
    old = write_run_folder(tmp_path / "old", seed=5)
    study = (old / "study.toml").read_text().replace('"heart_disease"', '"death"')
    (old / "study.toml").write_text(study)
    with pytest.raises(UserError, match="another outcome"):
        write_report(run, predecessor=old)
    assert not (run / "change_control.json").exists()


def test_differences_of_hospitals_that_scored_both_models_are_paired(run, tmp_path, monkeypatch):
    old = write_run_folder(tmp_path / "old", seed=5)
    document = json.loads((run / "metrics.json").read_text())
    known = {"value": 0.03, "low": 0.02, "high": 0.04}
    told = {"federated": known, "predecessor": known, "difference": known, "paired": True}
    document["predecessor"] = {"model": "digest", "sites": {"cleveland": told}, "mean": known}
    (run / "metrics.json").write_text(json.dumps(document))
    monkeypatch.setattr("server.report.comparison.finished_run", lambda path: Finished)
    monkeypatch.setattr("server.report.comparison.model_digest", lambda weights: "digest")
    write_report(run, predecessor=old)
    change = json.loads((run / "model_card.json").read_text())["change_control"]
    paired = [one for one in change["differences"] if one["paired"]]
    groups = {one["group"]: one["difference"]["low"] for one in paired}
    assert groups == {"cleveland": 0.02, "Mean of the hospitals": 0.02}


def test_cells_of_other_tasks_are_told_as_they_are(run):
    document = json.loads((run / "metrics.json").read_text())
    known = {"value": 0.71, "low": 0.66, "high": 0.76}
    cell = {"n": 120, "events": 40, "c_index": known, "integrated_brier": known}
    document["models"] = {"federated": {"overall": cell, "sites": {"basel": cell}, "subgroups": {}}}
    (run / "metrics.json").write_text(json.dumps(document))
    study = (run / "study.toml").read_text().replace('"binary"', '"survival"')
    (run / "study.toml").write_text(study)
    write_card(read_run_folder(run))
    card = json.loads((run / "model_card.json").read_text())
    assert card["performance"]["sites"]["basel"] == cell
    text = (run / "model_card.md").read_text()
    assert "| basel | 120 | 40 | 0.710 (0.660 to 0.760) |" in text
    assert "c-index, all hospitals: 0.710 (95% interval 0.660 to 0.760)" in text
    assert "AUROC – (" not in text


class Finished:
    weights = None


def test_missing_predecessor_is_named(run, tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        write_report(run, predecessor=tmp_path / "gone")


def test_difference_of_two_symmetric_intervals_adds_their_variances():
    before, after = Metric(value=0.7, low=0.6, high=0.8), Metric(value=0.75, low=0.7, high=0.8)
    found = difference(before, after)
    half = math.hypot(0.1, 0.05)
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.05 - half, 0.05 + half))
    assert difference(before, Metric(reason="only one class")).value is None
    assert difference(before, Metric(value=0.8)).low is None
