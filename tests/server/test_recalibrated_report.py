"""What the report and the model card show of recalibrated risks."""

import json

import numpy as np
import pytest
from run_folder import write_run_folder

from federation.metrics.calibration import calibration_curve
from federation.metrics.grid import Line
from federation.metrics.summary import merge
from federation.pages.elements import Pair
from server.report.card.answers import known_answers
from server.report.recalibration import recalibration_words
from server.report.run_folder import read_run_folder
from server.report.sections.curves import BEFORE, curves
from server.report.text import ALL

LINE = Line(0.5, -0.25)
TOLD = {
    "method": "platt",
    "split": "tuning",
    "n": 312,
    "positives": 140,
    "excludes": ["zurich-cantonal"],
    "slope": LINE.slope,
    "intercept": LINE.intercept,
    "before": {"ece": {"value": 0.2}, "calibration_slope": {"value": None, "reason": "none"}},
}


@pytest.fixture
def run(tmp_path):
    """Return a reader of the run folder, with what metrics.json says of recalibration."""
    write_run_folder(tmp_path)

    def read(told):
        document = json.loads((tmp_path / "metrics.json").read_text())
        document["models"]["federated"]["recalibration"] = told
        (tmp_path / "metrics.json").write_text(json.dumps(document))
        return read_run_folder(tmp_path)

    return read


def figures(run):
    pairs = [part.figures for part in curves(run).parts if isinstance(part, Pair)]
    return {figure.name: figure for pair in pairs for figure in pair}


def points(figure, name):
    [trace] = [one for one in figure.spec["data"] if one["name"] == name]
    return trace["x"], trace["y"]


def test_calibration_curve_has_the_risks_of_before_and_of_after(run, tmp_path):
    write_run_folder(tmp_path)
    plain, found = figures(read_run_folder(tmp_path)), figures(run(TOLD))
    whole = merge(read_run_folder(tmp_path).scores["federated"].values())
    for name, summary in ((BEFORE, whole), (ALL, whole.recalibrated(LINE))):
        x, y = points(found["calibration"], name)
        expected = calibration_curve(summary)
        np.testing.assert_allclose(x, [score for score, _, _ in expected], atol=1e-4)
        np.testing.assert_allclose(y, [risk for _, risk, _ in expected], atol=1e-4)
    assert points(found["calibration"], BEFORE) == points(plain["calibration"], ALL)
    assert found["roc"].spec == plain["roc"].spec
    assert found["precision-recall"].spec == plain["precision-recall"].spec
    assert "before the risks were recalibrated" in found["calibration"].words
    assert "before the risks were recalibrated" not in plain["calibration"].words


def test_report_says_in_words_what_was_done_and_what_it_brought(run):
    found = run(TOLD)
    words = recalibration_words(found.model.recalibration, found.model.overall)
    after = found.model.overall.ece.value
    assert "on 312 tuning patients of all hospitals, without zurich-cantonal (withheld)" in words
    assert "the log-odds times 0.500, less 0.250" in words
    assert f"ECE 0.200 before, {after:.3f} after" in words
    assert "calibration slope" not in words, "it had none before"
    assert words in [getattr(part, "text", "") for part in curves(found).parts]
    assert known_answers(found)["updated"] == words


def test_report_says_why_risks_stayed_as_they_were(run):
    reason = "only one class"
    found = run({**TOLD, "slope": None, "intercept": None, "reason": reason})
    words = recalibration_words(found.model.recalibration, found.model.overall)
    assert words == f"Risks were not recalibrated: {reason}. They are as the model gives them."
    names = [one["name"] for one in figures(found)["calibration"].spec["data"]]
    assert ALL in names
    assert BEFORE not in names
