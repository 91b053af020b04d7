"""Calibration from counts agrees with the patients' own scores."""

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from federation.metrics.calibration import (
    brier,
    calibration_curve,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
)
from federation.metrics.grid import ECE_BINS
from federation.metrics.summary import ScoreSummary, merge
from server.cells import cell


def logit(scores):
    return np.log(scores / (1 - scores))


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_calibration_agrees_with_patient_level_oracles(simulated, scale, shift):
    rng = np.random.default_rng(4)
    sites = [simulated(rng, 400, scale=scale, shift=shift) for _ in range(5)]
    scores, labels = (np.concatenate(part) for part in zip(*sites, strict=True))
    merged = merge(ScoreSummary.from_scores(*site) for site in sites)

    assert brier(merged).value == pytest.approx(brier_score_loss(labels, scores), abs=1e-9)
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(scores)[:, None], labels)
    assert calibration_slope(merged).value == pytest.approx(fitted.coef_[0, 0], abs=0.0125)

    # in the large: at the intercept, predicted events equal observed ones
    moved = 1 / (1 + np.exp(-(logit(scores) + calibration_intercept(merged).value)))
    assert moved.mean() == pytest.approx(labels.mean(), abs=0.002)

    group = np.minimum((scores * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(group, labels - scores, ECE_BINS)
    assert expected_calibration_error(merged).value == pytest.approx(
        np.abs(gaps).sum() / len(scores), abs=0.002
    )


def test_brier_of_merged_bins_is_near_the_exact_one(simulated):
    scores, labels = simulated(np.random.default_rng(5), 90)
    merged = ScoreSummary.from_scores(scores, labels).merged(10)
    assert brier(merged).value == pytest.approx(brier_score_loss(labels, scores), abs=0.01)


def test_brier_and_ece_are_defined_for_one_class():
    summary = ScoreSummary.from_scores([0.2, 0.4], [0, 0])
    assert brier(summary).value == pytest.approx(0.1)
    assert expected_calibration_error(summary).value == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([0.2, 0.3], [0, 0], "only one class"),
        ([0.2] * 20 + [0.3] * 4, [0] * 20 + [1] * 4, "fewer than 5"),
        ([0.2] * 9 + [0.8] * 9, [0] * 9 + [1] * 9, "separate"),
        ([0.8] * 9 + [0.2] * 9, [0] * 9 + [1] * 9, "separate"),
        ([0.2] * 9 + [0.5] * 9 + [0.8] * 9, [0] * 9 + [0, 1, 1] * 3 + [1] * 9, "separate"),
        ([0.2] * 18, [0, 1] * 9, "do not vary"),
    ],
)
def test_slope_that_cannot_be_fitted_has_a_reason(scores, labels, reason):
    found = calibration_slope(ScoreSummary.from_scores(scores, labels))
    assert found.value is None
    assert reason in found.reason


def test_slope_is_found_however_far_from_one(simulated):
    for scale in (0.1, 3.0, -1.0):
        scores, labels = simulated(np.random.default_rng(6), 3000, scale=scale)
        fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(scores)[:, None], labels)
        found = calibration_slope(ScoreSummary.from_scores(scores, labels)).value
        assert found == pytest.approx(fitted.coef_[0, 0], rel=0.1)


def test_calibration_curve_shares_the_patients_among_its_groups(simulated):
    summary = ScoreSummary.from_scores(*simulated(np.random.default_rng(7), 1000))
    points = calibration_curve(summary)
    assert sum(size for _, _, size in points) == 1000
    assert [score for score, _, _ in points] == sorted(score for score, _, _ in points)
    assert sum(risk * size for _, risk, size in points) == pytest.approx(summary.positives)
    assert calibration_curve(ScoreSummary.empty()) == []


@pytest.mark.parametrize("seed", range(20))
def test_scores_that_are_nearly_all_0_or_1_have_a_slope_or_a_reason(seed):
    """As those of a model that the noise of differential privacy has wrecked."""
    rng = np.random.default_rng(seed)
    scores = rng.choice([0.0, 1e-4, 0.5, 1.0 - 1e-9, 1.0], 300, p=[0.4, 0.08, 0.02, 0.1, 0.4])
    summary = ScoreSummary.from_scores(scores, rng.integers(0, 2, 300))
    slope = calibration_slope(summary)
    assert slope.reason or math.isfinite(slope.value)
    json.dumps(cell(summary), allow_nan=False)
