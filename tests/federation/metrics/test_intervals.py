"""Intervals from counts: as wide as patient-level ones, and they cover."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from federation.metrics.calibration import brier, calibration_slope, recalibration
from federation.metrics.decisions import at_threshold
from federation.metrics.discrimination import auroc
from federation.metrics.intervals import (
    bootstrapped,
    delong,
    delong_variance,
    resample,
    wilson_interval,
)
from federation.metrics.summary import ScoreSummary
from federation.metrics.utility import net_benefit


@pytest.mark.parametrize("patients", [60, 400])
def test_auroc_interval_covers_the_truth_about_95_times_in_100(simulated, patients):
    rng = np.random.default_rng(9)
    truth = norm.cdf(1.2 / math.sqrt(2))
    covered = 0
    for _ in range(200):
        found = delong(ScoreSummary.from_scores(*simulated(rng, patients)))
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_delong_variance_equals_that_of_the_scores(simulated):
    scores, labels = simulated(np.random.default_rng(10), 300)
    positive, negative = scores[labels == 1], scores[labels == 0]
    won = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = won.mean(axis=1).var(ddof=1) / len(positive)
    variance += won.mean(axis=0).var(ddof=1) / len(negative)
    found = delong_variance(ScoreSummary.from_scores(scores, labels))
    assert found == pytest.approx(variance, rel=0.02)


def test_perfect_auroc_has_an_interval_that_allows_for_few_patients():
    few = delong(ScoreSummary.from_scores([0.1] * 10 + [0.9] * 10, [0] * 10 + [1] * 10))
    many = delong(ScoreSummary.from_scores([0.1] * 200 + [0.9] * 200, [0] * 200 + [1] * 200))
    assert few.value == few.high == 1.0
    assert 0.7 < few.low < many.low < 1.0
    inverse = delong(ScoreSummary.from_scores([0.9] * 10 + [0.1] * 10, [0] * 10 + [1] * 10))
    assert (inverse.low, inverse.high) == (0.0, pytest.approx(1 - few.low))


def test_tied_scores_and_perfect_ranking_have_no_interval_of_no_width():
    tied = ScoreSummary.from_scores([0.3] * 20, [0, 1] * 10)
    assert (delong(tied).value, delong(tied).low) == (None, None)
    assert "one score bin" in delong(tied).reason
    perfect = ScoreSummary.from_scores([0.1] * 10 + [0.9] * 10, [0] * 10 + [1] * 10)
    found = bootstrapped(perfect, resample(perfect, np.random.default_rng(0)))["auprc"]
    assert (found.value, found.low) == (1.0, None)
    assert "replicate" in found.reason


def test_single_patient_of_a_class_has_a_value_and_no_interval():
    summary = ScoreSummary.from_scores([0.1, 0.6, 0.4], [0, 0, 1])
    drawn = resample(summary, np.random.default_rng(0))
    for found in (delong(summary), bootstrapped(summary, drawn)["auprc"]):
        assert found.value is not None
        assert found.low is None
        assert "single patient" in found.reason


def test_bootstrap_of_counts_is_as_wide_as_that_of_patients(simulated):
    scores, labels = simulated(np.random.default_rng(11), 600)
    rng = np.random.default_rng(0)
    summary = ScoreSummary.from_scores(scores, labels)
    found = bootstrapped(summary, resample(summary, rng, 1000))
    picks = rng.integers(0, 600, (1000, 600))
    losses = ((scores - labels) ** 2)[picks].mean(axis=1)
    low, high = np.quantile(losses, [0.025, 0.975])
    assert found["brier"].low == pytest.approx(low, abs=0.002)
    assert found["brier"].high == pytest.approx(high, abs=0.002)
    assert found["brier"].value == brier(summary).value


def test_one_newton_step_gives_the_interval_of_a_full_refit(simulated):
    summary = ScoreSummary.from_scores(*simulated(np.random.default_rng(12), 150))
    found = bootstrapped(summary, resample(summary, np.random.default_rng(0)))["calibration_slope"]
    rng, flat = np.random.default_rng(1), summary.counts.ravel()
    slopes = []
    for _ in range(300):
        counts = rng.multinomial(summary.n, flat / summary.n).reshape(2, -1)
        replicate = ScoreSummary.empty()
        object.__setattr__(replicate, "counts", counts)
        slopes.append(recalibration(replicate)[1])
    low, high = np.quantile(slopes, [0.025, 0.975])
    assert found.value == calibration_slope(summary).value
    assert found.high - found.low == pytest.approx(high - low, rel=0.2)


@pytest.mark.parametrize("patients", [40, 30_000])
def test_replicates_have_the_patients_of_the_summary_on_average(simulated, patients):
    """Both ways of drawing: patient by patient, and by binomial counts."""
    summary = ScoreSummary.from_scores(*simulated(np.random.default_rng(13), patients))
    drawn = resample(summary, np.random.default_rng(0), 800)
    assert (drawn.tables.sum(axis=(1, 2)) == patients).all()
    expected = summary.counts[:, summary.counts.any(axis=0)]
    error = np.abs(drawn.tables.mean(axis=0) - expected)
    assert (error < 6 * np.sqrt((expected + 0.1) / 800)).all()
    assert (drawn.tables[:, expected == 0] == 0).all()


def test_same_generator_gives_the_same_interval(simulated):
    summary = ScoreSummary.from_scores(*simulated(np.random.default_rng(14), 200))
    first, again = (
        bootstrapped(summary, resample(summary, np.random.default_rng(5))) for _ in range(2)
    )
    assert first == again


def test_every_interval_holds_its_value(simulated):
    rng = np.random.default_rng(15)
    for patients in (12, 30, 500):
        summary = ScoreSummary.from_scores(*simulated(rng, patients))
        drawn = resample(summary, rng)
        found = [*bootstrapped(summary, drawn).values(), delong(summary)]
        found += [point.estimate for point in net_benefit(summary)]
        for one in found:
            if one.low is not None:
                assert one.low <= one.value <= one.high


def test_empty_summary_cannot_be_resampled():
    with pytest.raises(ValueError, match="empty"):
        resample(ScoreSummary.empty(), np.random.default_rng(0))


def test_auroc_point_is_that_of_scikit_learn(simulated):
    scores, labels = simulated(np.random.default_rng(16), 300)
    summary = ScoreSummary.from_scores(scores, labels)
    assert delong(summary).value == auroc(summary).value
    assert auroc(summary).value == pytest.approx(roc_auc_score(labels, scores), abs=0.002)


@pytest.mark.parametrize(("positives", "patients"), [(0, 10), (3, 17), (40, 80), (25, 25)])
def test_wilson_interval_equals_scipys(positives, patients):
    expected = binomtest(positives, patients).proportion_ci(method="wilson")
    found = wilson_interval(positives / patients, patients)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.slow
def test_intervals_of_fifty_events_and_as_many_others_hold_about_95_times_in_100(simulated):
    """benchmarks/coverage.py has ten times the replicates, and more cases."""
    rng, model = np.random.default_rng(21), {"separation": 2.0, "prevalence": 0.45}
    truth = figures(ScoreSummary.from_scores(*simulated(rng, 500_000, **model)), rng)
    held = dict.fromkeys(truth, 0)
    for _ in range(400):
        found = figures(ScoreSummary.from_scores(*simulated(rng, 120, **model)), rng)
        for name, one in found.items():
            held[name] += one.low <= truth[name].value <= one.high
    for name, count in held.items():
        assert 0.92 <= count / 400 <= 0.98, name


def figures(summary, rng):
    sampled = bootstrapped(summary, resample(summary, rng, 300))
    rates = at_threshold(summary.confusion(0.4), 0.4)
    return {
        "auroc": delong(summary),
        **{name: sampled[name] for name in ("auprc", "brier", "calibration_slope")},
        **{name: rates[name] for name in ("sensitivity", "ppv", "alert_rate", "net_benefit")},
    }
