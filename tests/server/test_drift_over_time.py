"""Drift of a run: windows against the oldest one told, and no window among the subgroups."""

import json

import numpy as np
import pytest

from federation.metrics.summary import ScoreSummary
from federation.metrics.threshold import Threshold
from federation.windows import WindowsSection
from server.drift import drift, drift_warnings
from server.evaluator import evaluate_model
from server.operating import Operating
from server.report.documents import Drift
from server.report.glossary import GLOSSARY
from server.report.sections.drift import inputs_table, windows_table
from server.site_evaluation import SiteEvaluation

WINDOWS = WindowsSection(number=3)


def scored(rng, patients, prevalence):
    labels = (rng.random(patients) < prevalence).astype(int)
    logits = rng.normal(size=patients) + labels - 0.7
    return ScoreSummary.from_scores(1 / (1 + np.exp(-logits)), labels)


@pytest.fixture(scope="module")
def evaluations():
    """Of three sites: nothing changes at one, the outcome and an input at another, one is small."""
    rng = np.random.default_rng(3)
    found = []
    for site, last in (("basel", 0.3), ("chur", 0.7), ("zug", 0.3)):
        parts = [scored(rng, 200, 0.3), scored(rng, 200, 0.3), scored(rng, 200, last)]
        cells = {f"window={k}": one for k, one in enumerate(parts, 1)}
        cells[""] = sum(parts, ScoreSummary.empty())
        cells["sex=female"] = parts[0]
        levels = [{"absent": 50, "within": 150}] * 2
        levels.append({"absent": 150, "within": 50} if last > 0.5 else levels[0])
        inputs = {f"window={k}": {"LAB//CRP": one} for k, one in enumerate(levels, 1)}
        withheld = {}
        if site == "zug":
            withheld = {"window=1": "withheld to protect fewer than 10 patients"}
            del cells["window=1"], inputs["window=1"]
        found.append(SiteEvaluation(site, cells, withheld, inputs=inputs))
    return found


def test_what_changed_raises_its_alarm_where_it_changed(evaluations):
    found = drift(list(reversed(evaluations)), WINDOWS, pooled=True)
    json.dumps(found, allow_nan=False)
    assert found == drift(evaluations, WINDOWS, pooled=True)
    assert found["sites"]["basel"]["alarms"] == []
    raised = {(one["window"], one["measure"]) for one in found["sites"]["chur"]["alarms"]}
    assert {(3, "prevalence"), (3, "input:LAB//CRP")} <= raised
    assert all(window == 3 for window, _ in raised)
    assert found["overall"]["reference"] == 1
    assert found["overall"]["windows"]["1"]["n"] == 400
    assert any("chur, window 3" in line for line in drift_warnings(found))


def test_a_withheld_window_is_said_and_the_next_one_is_the_reference(evaluations):
    zug = drift(evaluations, WINDOWS, pooled=True)["sites"]["zug"]
    assert "withheld to protect" in zug["windows"]["1"]["suppressed"]
    assert zug["reference"] == 2
    assert "changes" not in zug["windows"]["2"]


def test_models_of_the_sites_own_are_not_pooled(evaluations):
    assert "overall" not in drift(evaluations, WINDOWS, pooled=False)


def test_windows_are_no_subgroups(evaluations):
    found = evaluate_model(evaluations, Operating(Threshold(0.5)))
    assert set(found["subgroups"]) == {"sex=female"}
    assert set(found["fairness"]) == {"sex"}
    assert set(found["site_subgroups"]["zug"]) == {"sex=female"}


def test_report_shows_every_window_and_explains_its_columns(evaluations):
    found = Drift.model_validate(drift(evaluations, WINDOWS, pooled=True))
    windows = windows_table({"All hospitals": found.overall, **found.sites}, "c", found.rule)
    inputs = inputs_table(found.sites)
    assert len(windows.rows) == 12
    assert {len(windows.columns), *(sum(td.span for td in row) for row in windows.rows)} == {9}
    assert inputs.rows[0][0].text == "chur"
    assert (inputs.rows[0][2].text, inputs.rows[0][4].text) == ("LAB//CRP", "yes")
    columns = {*windows.columns, *inputs.columns} - {"Hospital", "Window", "Input"}
    assert columns <= set(GLOSSARY)
