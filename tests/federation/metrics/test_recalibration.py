"""A line fitted to counts is that of the patients' own scores, and moves risks but not ranks."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from federation.metrics.calibration import (
    brier,
    calibration_curve,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
    risk_gap,
)
from federation.metrics.grid import (
    BINS,
    ECE_BINS,
    EDGES,
    LARGEST_LOGIT,
    SCORES,
    UNCHANGED,
    Line,
    Scale,
    bins_of,
    logit,
)
from federation.metrics.recalibration import fitted
from federation.metrics.summary import ScoreSummary, merge
from federation.metrics.threshold import choose_threshold
from federation.metrics.utility import net_benefit
from server.cells import cell, cells

RANKED = ("auroc", "auprc", "sensitivity_at_90_specificity", "specificity_at_90_sensitivity")
LINES = st.builds(Line, st.floats(0.05, 8), st.floats(-4, 4))


def moved(line, scores):
    return 1 / (1 + np.exp(-(line.slope * logit(scores) + line.intercept)))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("shift", [-1.0, 0.7])
def test_fit_is_the_logistic_regression_of_the_pooled_logits(simulated, scale, shift):
    rng = np.random.default_rng(4)
    sites = [simulated(rng, 400, scale=scale, shift=shift) for _ in range(5)]
    scores, labels = (np.concatenate(part) for part in zip(*sites, strict=True))
    merged = merge(ScoreSummary.from_scores(*site) for site in sites)
    x = logit(scores)

    exact = LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], labels)
    platt = fitted(merged, "platt").line
    assert platt.slope == pytest.approx(exact.coef_[0, 0], rel=0.02)
    assert platt.intercept == pytest.approx(exact.intercept_[0], rel=0.02, abs=0.01)

    def loss(slope):
        return np.logaddexp(0, slope * x).sum() - slope * x[labels == 1].sum()

    best = minimize_scalar(loss, bounds=(1e-3, 20), method="bounded", options={"xatol": 1e-9})
    temperature = fitted(merged, "temperature").line
    if shift > 0 and scale < 1:  # turned around were best, so none is told
        assert temperature is None
        assert best.x < 0.002
        return
    assert temperature.slope == pytest.approx(best.x, rel=0.02, abs=1e-4)
    assert temperature.intercept == 0.0


@pytest.mark.parametrize("method", ["platt", "temperature"])
@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([], [], "no patients"),
        ([0.2, 0.3] * 20, [0] * 40, "only one class"),
        ([0.2, 0.3] * 20, [0] * 31 + [1] * 9, "fewer than 10"),
        ([0.3] * 40, [0, 1] * 20, "share one score bin"),
        ([0.2] * 20 + [0.8] * 20, [0] * 20 + [1] * 20, "separate"),
        ([0.8] * 20 + [0.2] * 20, [0] * 20 + [1] * 20, "no slope above 0"),
        ([0.8] * 20 + [0.2] * 20, [0] * 15 + [1] * 20 + [0] * 5, "no slope above 0"),
    ],
)
def test_line_that_cannot_be_fitted_has_a_reason(method, scores, labels, reason):
    found = fitted(ScoreSummary.from_scores(scores, labels), method)
    assert found.line is None
    assert reason in found.reason


def test_temperature_can_be_told_where_slope_and_intercept_cannot():
    """All risks are below a half, so that a steeper slope wrongs those with the outcome."""
    summary = ScoreSummary.from_scores([0.1] * 20 + [0.4] * 20, [0] * 20 + [1] * 20)
    assert "separate" in fitted(summary, "platt").reason
    line = fitted(summary, "temperature").line
    # where the likelihood is flat: the missed events weigh as much as the spared alarms
    low, high = logit(SCORES[bins_of(np.array([0.1, 0.4]))])
    p, q = moved(line, SCORES[bins_of(np.array([0.1, 0.4]))])
    assert -p * low + (1 - q) * high == pytest.approx(0.0, abs=1e-5)


def test_what_goes_by_ranks_stays_and_what_goes_by_risks_is_that_of_the_moved_scores(simulated):
    scores, labels = simulated(np.random.default_rng(5), 3000, scale=2.5, shift=1.0)
    raw = ScoreSummary.from_scores(scores, labels)
    line = fitted(raw, "platt").line
    found = raw.recalibrated(line)
    before, after = cell(raw), cell(found)
    assert {name: before[name] for name in RANKED} == {name: after[name] for name in RANKED}
    assert (after["n"], after["positives"]) == (before["n"], before["positives"])

    p = moved(line, scores)
    assert brier(found).value == pytest.approx(brier_score_loss(labels, p), abs=5e-4)
    assert risk_gap([found]).value == pytest.approx(labels.mean() - p.mean(), abs=1e-3)
    group = np.minimum((p * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.abs(np.bincount(group, labels - p, ECE_BINS)).sum() / len(p)
    assert expected_calibration_error(found).value == pytest.approx(gaps, abs=0.005)
    assert expected_calibration_error(raw).value > 3 * expected_calibration_error(found).value
    for at in net_benefit(found, [0.05, 0.2, 0.5, 0.8]):
        odds = at.threshold / (1 - at.threshold)
        called = p >= at.threshold
        exact = (labels[called] - (1 - labels[called]) * odds).sum() / len(p)
        assert at.estimate.value == pytest.approx(exact, abs=0.005 * (1 + odds))
    for score, risk, _ in calibration_curve(found):
        assert risk == pytest.approx(score, abs=0.08)


def test_recalibrated_scores_need_no_further_line(simulated):
    raw = ScoreSummary.from_scores(*simulated(np.random.default_rng(6), 900, scale=3.0))
    found = raw.recalibrated(fitted(raw, "platt").line)
    assert calibration_slope(found).value == pytest.approx(1.0, abs=1e-5)
    assert calibration_intercept(found).value == pytest.approx(0.0, abs=1e-5)
    assert risk_gap([found]).value == pytest.approx(0.0, abs=1e-6)


def test_same_patients_are_called_positive_at_the_chosen_threshold(simulated):
    raw = ScoreSummary.from_scores(*simulated(np.random.default_rng(7), 500))
    found = raw.recalibrated(Line(0.3, -1.2))
    for rule, value in (("youden", None), ("sensitivity", 0.9)):
        one, other = choose_threshold(raw, rule, value), choose_threshold(found, rule, value)
        assert raw.confusion(one.value) == found.confusion(other.value)
        assert other.value == pytest.approx(float(moved(Line(0.3, -1.2), np.array(one.value))))


@given(LINES, st.floats(0.001, 0.999))
def test_bin_is_called_positive_where_its_risk_is_at_or_above_the_threshold(line, threshold):
    scale = Scale(line)
    k = scale.index(threshold)
    assert (scale.scores[k:] >= threshold).all()
    assert (scale.scores[:k] < threshold).all()
    assert (np.diff(scale.scores) >= 0).all()
    assert (np.diff(scale.edges) >= 0).all()
    assert (scale.edges[:-1] <= scale.scores).all()
    assert (scale.scores <= scale.edges[1:]).all()


@given(LINES)
def test_bin_stands_for_what_the_documented_formula_makes_of_its_midpoint(line):
    limited = np.clip(logit(SCORES), -LARGEST_LOGIT, LARGEST_LOGIT)
    expected = 1 / (1 + np.exp(-(line.slope * limited + line.intercept)))
    np.testing.assert_allclose(Scale(line).scores, expected, atol=1e-12)
    outside = bins_of(np.array([1e-9, 1 - 1e-9]))
    assert outside.tolist() == [0, BINS - 1]
    assert EDGES[1] == pytest.approx(1 / (1 + np.exp(7)), abs=1e-9)


def test_cells_of_different_scales_stand_side_by_side_and_are_never_added(simulated):
    rng = np.random.default_rng(8)
    raw = [ScoreSummary.from_scores(*simulated(rng, 200)) for _ in range(3)]
    mixed = [raw[0], raw[1].recalibrated(Line(0.5, 0.1)), raw[2].recalibrated(Line(2.0, 0.0))]
    assert cells(mixed) == [cell(one) for one in mixed]
    assert merge([mixed[1], raw[0].recalibrated(Line(0.5, 0.1))]).n == raw[0].n + raw[1].n
    with pytest.raises(ValueError, match="different scales"):
        merge(mixed)
    with pytest.raises(ValueError, match="not told"):
        mixed[1].to_json()
    with pytest.raises(ValueError, match="already"):
        mixed[1].recalibrated(Line(0.5, 0.1))
    with pytest.raises(ValueError, match="above 0"):
        raw[0].recalibrated(Line(-1.0, 0.0))
    assert raw[0].recalibrated(UNCHANGED) == raw[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("line", [Line(1e-6, 3.0), Line(40.0, -90.0), Line(1e6, 0.0), Line(9, 1e9)])
def test_extreme_line_leaves_figures_or_reasons(simulated, line):
    """As one fitted to classes that all but one patient separate."""
    raw = ScoreSummary.from_scores(*simulated(np.random.default_rng(9), 300))
    found = cell(raw.recalibrated(line))
    json.dumps(found, allow_nan=False)
    assert found["auroc"] == cell(raw)["auroc"]
    assert 0 <= found["brier"]["value"] <= 1
