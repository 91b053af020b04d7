"""Ranking metrics from counts agree with scikit-learn on the pooled scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from federation.metrics.discrimination import (
    auprc,
    auroc,
    auroc_of,
    sensitivity_at_specificity,
)
from federation.metrics.discrimination import precision_recall_curve as precision_of
from federation.metrics.discrimination import roc_curve as curve_of
from federation.metrics.grid import EDGES, SCORES, THRESHOLDS, bins_of
from federation.metrics.summary import ScoreSummary, merge

MODELS = [
    {},
    {"separation": 3.0},
    {"separation": 0.3},
    {"scale": 4.0},
    {"scale": 0.2},
    {"shift": -3.0, "prevalence": 0.05},
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("patients", "near"), [(240, 0.008), (2000, 0.002), (20_000, 0.001)])
def test_merged_sites_agree_with_scikit_learn_on_pooled_scores(simulated, model, patients, near):
    """The bins' ties weigh less the more patients there are; with few, less than the interval."""
    rng = np.random.default_rng(1)
    sites = [simulated(rng, patients // 4, **model) for _ in range(4)]
    scores, labels = (np.concatenate(part) for part in zip(*sites, strict=True))
    merged = merge(ScoreSummary.from_scores(*site) for site in sites)
    assert np.array_equal(merged.counts, ScoreSummary.from_scores(scores, labels).counts)
    assert auroc(merged).value == pytest.approx(roc_auc_score(labels, scores), abs=near)
    assert auprc(merged).value == pytest.approx(average_precision_score(labels, scores), abs=0.01)
    fp, tp, _ = roc_curve(labels, scores)
    oracle = np.interp(0.1, fp, tp)
    assert sensitivity_at_specificity(merged).value == pytest.approx(oracle, abs=0.03)
    for threshold in THRESHOLDS:
        tn, fp, fn, tp = confusion_matrix(labels, scores >= threshold, labels=[0, 1]).ravel()
        counted = merged.confusion(threshold)
        assert (counted.tn, counted.fp, counted.fn, counted.tp) == (tn, fp, fn, tp)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), min_size=2, max_size=60))
def test_auroc_of_scores_that_sit_on_bins_is_exact_with_ties(drawn):
    bins, labels = np.array(drawn).T
    scores = SCORES[bins * 7]
    found = auroc(ScoreSummary.from_scores(scores, labels))
    if len(set(labels)) == 1:
        assert found.value is None
        assert found.reason == "only one class"
    elif len(set(bins)) == 1:
        assert found.value is None
        assert found.reason == "all patients share one score bin"
    else:
        assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(st.permutations(list(range(12))), st.integers(1, 11))
def test_average_precision_of_scores_in_bins_of_their_own_is_exact(order, positives):
    scores = SCORES[np.array(order) * 15]
    labels = (np.arange(12) < positives).astype(int)
    found = auprc(ScoreSummary.from_scores(scores, labels)).value
    assert found == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_average_precision_of_a_tie_is_its_mean_over_orders():
    rng = np.random.default_rng(0)
    labels = np.array([1] * 60 + [0] * 90 + [1] * 20 + [0] * 30)
    scores = np.array([0.61] * 150 + [0.91] * 50)
    untied = [
        average_precision_score(labels, scores + 1e-6 * rng.random(len(scores))) for _ in range(500)
    ]
    found = auprc(ScoreSummary.from_scores(scores, labels)).value
    assert found == pytest.approx(np.mean(untied), abs=0.01)


@pytest.mark.parametrize("metric", [auroc, auprc, sensitivity_at_specificity])
def test_constant_scores_rank_nobody(metric):
    found = metric(ScoreSummary.from_scores([0.3] * 400, [1] * 100 + [0] * 300))
    assert found.value is None
    assert found.reason == "all patients share one score bin"


def test_patients_joined_into_one_bin_cannot_be_ranked(simulated):
    merged = ScoreSummary.from_scores(*simulated(np.random.default_rng(2), 15)).merged(10)
    assert merged.counts.any(axis=0).sum() == 1
    assert auroc(merged).value is None
    assert auroc(merged).reason == "all patients share one score bin"


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("metric", [auroc, auprc, sensitivity_at_specificity])
def test_one_class_is_undefined_and_never_one_half(metric, label):
    found = metric(ScoreSummary.from_scores([0.2, 0.7], [label, label]))
    assert found.value is None
    assert found.reason == "only one class"
    assert metric(ScoreSummary.empty()).reason == "no patients"


def test_sensitivity_takes_all_positives_that_cost_no_further_negative():
    scores = [0.05] * 9 + [0.35, 0.45, 0.65]
    labels = [0] * 10 + [1, 1]
    assert sensitivity_at_specificity(ScoreSummary.from_scores(scores, labels)).value == 1.0


def test_roc_curve_has_the_auroc_as_its_area(simulated):
    summary = ScoreSummary.from_scores(*simulated(np.random.default_rng(2), 500))
    fp, tp = curve_of(summary)
    assert np.trapezoid(tp, fp) == pytest.approx(auroc(summary).value)
    assert (fp[0], tp[0], fp[-1], tp[-1]) == (0, 0, 1, 1)


def test_many_tables_at_once_equal_one_at_a_time(simulated):
    rng = np.random.default_rng(3)
    summaries = [ScoreSummary.from_scores(*simulated(rng, 50)) for _ in range(5)]
    together = auroc_of(np.stack([one.counts for one in summaries]))
    assert together.tolist() == [auroc(one).value for one in summaries]
    assert len(EDGES) == len(SCORES) + 1


def test_precision_recall_curve_is_that_of_the_scores_at_their_bins(simulated):
    scores, labels = simulated(np.random.default_rng(4), 400)
    summary = ScoreSummary.from_scores(scores, labels)
    precision, recall, _ = precision_recall_curve(labels, SCORES[bins_of(scores)])
    found, reached = precision_of(summary)[::-1]
    np.testing.assert_allclose(reached[1:], recall[-2::-1], atol=1e-12)
    np.testing.assert_allclose(found[1:], precision[-2::-1], atol=1e-12)
    assert (reached[0], found[0]) == (0.0, found[1])
