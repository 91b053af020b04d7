"""Intervals from counts: as wide as patient-level ones, and they cover."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from federation.metrics.calibration import briers, calibration_slope, intercepts, slopes
from federation.metrics.decisions import at_threshold
from federation.metrics.discrimination import auprc_of, auprc_variance, auroc
from federation.metrics.grid import SCORES
from federation.metrics.intervals import (
    auprcs,
    aurocs,
    curve_ends,
    delong,
    delong_variance,
    wilson_interval,
)
from federation.metrics.stack import CELLS, stack_of, stacks
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


@pytest.mark.parametrize("seed", range(5))
def test_intervals_of_shares_lie_within_0_and_1_however_few_patients_there_are(simulated, seed):
    rng = np.random.default_rng(seed)
    for patients in range(6, 40, 3):
        ends = curve_ends(stack_of(ScoreSummary.from_scores(*simulated(rng, patients))))
        for found in (one.at(0) for one in vars(ends).values()):
            if found.low is not None:
                assert 0 <= found.low <= found.value <= found.high <= 1


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
    found = auprcs(stack_of(perfect)).at(0)
    assert (found.value, found.low) == (1.0, None)
    assert "whichever" in found.reason


def test_single_patient_of_a_class_has_a_value_and_no_interval():
    summary = ScoreSummary.from_scores([0.1, 0.6, 0.4], [0, 0, 1])
    ends = curve_ends(stack_of(summary))
    for found in (
        delong(summary),
        auprcs(stack_of(summary)).at(0),
        ends.sensitivity_at_90_specificity.at(0),
    ):
        assert found.value is not None
        assert found.low is None
        assert "single patient" in found.reason


def test_auprc_variance_is_that_of_leaving_each_patient_out(simulated):
    counts = ScoreSummary.from_scores(*simulated(np.random.default_rng(3), 60)).counts
    left_out = []
    for label, bin_ in zip(*np.nonzero(counts), strict=True):
        fewer = counts.copy()
        fewer[label, bin_] -= 1
        left_out += [float(auprc_of(fewer))] * counts[label, bin_]
    expected = (59 / 60) * ((np.array(left_out) - np.mean(left_out)) ** 2).sum()
    assert float(auprc_variance(counts)) == pytest.approx(expected)


def test_widths_are_those_of_a_bootstrap_of_the_patients(simulated):
    """Drawing patients anew is the oracle; the slope is refitted in each replicate."""
    rng, scores_of = np.random.default_rng(11), simulated(np.random.default_rng(11), 500)
    scores, labels = scores_of
    stack = stack_of(ScoreSummary.from_scores(scores, labels))
    drawn = [
        ScoreSummary.from_scores(scores[picks], labels[picks])
        for picks in rng.integers(0, 500, (400, 500))
    ]
    for column in (aurocs, auprcs, briers, slopes, intercepts):
        replicates = np.concatenate([column(some).value for _, some in stacks(drawn)])
        spread = math.sqrt(column(stack).at(0).variance)
        assert spread == pytest.approx(replicates.std(), rel=0.12), column.__name__


def test_slope_and_its_variance_are_those_of_statsmodels_formula(simulated):
    """The sandwich of HC2, written out patient by patient."""
    scores, labels = simulated(np.random.default_rng(4), 300)
    summary = ScoreSummary.from_scores(scores, labels)
    rows = [
        (label, one)
        for label in (0, 1)
        for one in np.repeat(np.arange(summary.counts.shape[1]), summary.counts[label])
    ]
    y = np.array([label for label, _ in rows])
    p = SCORES[[bin_ for _, bin_ in rows]]
    design = np.column_stack([np.ones(300), np.log(p / (1 - p))])
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(design[:, 1:], y)
    risk = fitted.predict_proba(design[:, 1:])[:, 1]
    bread = np.linalg.inv(design.T @ (design * (risk * (1 - risk))[:, None]))
    leverage = np.einsum("ij,jk,ik->i", design, bread, design) * risk * (1 - risk)
    meat = design.T @ (design * ((y - risk) ** 2 / (1 - leverage))[:, None])
    found = calibration_slope(summary)
    assert found.value == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert found.variance == pytest.approx((bread @ meat @ bread)[1, 1], rel=1e-3)


def test_cells_side_by_side_have_the_numbers_they_have_alone(simulated):
    rng = np.random.default_rng(14)
    sizes = [0, 1, 2, 7, 30, *rng.integers(5, 900, CELLS + 3)]
    summaries = [
        ScoreSummary.from_scores(*simulated(rng, int(size))) if size else ScoreSummary.empty()
        for size in sizes
    ]
    seen = set()
    for places, stack in stacks(summaries):
        seen |= set(places)
        for column in (aurocs, auprcs, briers, slopes, intercepts):
            together = column(stack)
            for cell, place in enumerate(places):
                assert together.at(cell) == column(stack_of(summaries[place])).at(0)
    assert seen == set(range(len(sizes)))


def test_every_interval_holds_its_value(simulated):
    rng = np.random.default_rng(15)
    for patients in (12, 30, 500):
        summary = ScoreSummary.from_scores(*simulated(rng, patients))
        stack = stack_of(summary)
        found = [one.at(0) for one in vars(curve_ends(stack)).values()]
        found += [one(stack).at(0) for one in (aurocs, auprcs, briers, slopes, intercepts)]
        found += [point.estimate for point in net_benefit(summary)]
        for one in found:
            if one.low is not None:
                assert one.low <= one.value <= one.high


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


def test_intervals_of_fifty_events_and_as_many_others_hold_about_95_times_in_100(simulated):
    """benchmarks/coverage.py has four times the replicates, and more cases."""
    rng, model = np.random.default_rng(21), {"separation": 2.0, "prevalence": 0.45}
    truth = stack_of(ScoreSummary.from_scores(*simulated(rng, 500_000, **model)))
    drawn = [ScoreSummary.from_scores(*simulated(rng, 120, **model)) for _ in range(1000)]
    for column in (aurocs, auprcs, briers, slopes, intercepts):
        true, held = column(truth).value[0], 0
        for _, some in stacks(drawn):
            found = column(some)
            held += int(((found.low <= true) & (true <= found.high)).sum())
        assert 0.93 <= held / 1000 <= 0.97, column.__name__
    decided = at_threshold(
        ScoreSummary.from_scores(*simulated(rng, 500_000, **model)).confusion(0.4), 0.4
    )
    for name in ("sensitivity", "ppv", "alert_rate", "net_benefit"):
        found = [at_threshold(one.confusion(0.4), 0.4)[name] for one in drawn[:400]]
        held = sum(one.low <= decided[name].value <= one.high for one in found)
        assert 0.92 <= held / 400 <= 0.98, name
