"""Two models on the same patients: the correlation is DeLong's, and the difference covers."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from federation.metrics.discrimination import auroc
from federation.metrics.grid import bins_of
from federation.metrics.paired import auroc_correlation, auroc_difference
from federation.metrics.summary import ScoreSummary


def two_models(rng, patients, shared=0.8, first=1.2, second=0.9):
    """Scores of two models that err on the same patients, and labels."""
    labels = (rng.random(patients) < 0.4).astype(int)
    common = rng.normal(size=patients)
    own = rng.normal(size=(2, patients))
    noise = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    logits = noise + np.array([[first], [second]]) * labels - 0.6
    return *(1 / (1 + np.exp(-logits))), labels


def test_correlation_is_that_of_all_pairs_of_patients():
    a, b, labels = two_models(np.random.default_rng(1), 90)
    kernels = []
    for scores in (np.round(a, 1), np.round(b, 1)):  # with ties
        positive, negative = scores[labels == 1][:, None], scores[labels == 0]
        kernels.append((positive > negative) + 0.5 * (positive == negative))
    covariance = np.cov([k.mean(axis=1) for k in kernels]) / (labels == 1).sum()
    covariance += np.cov([k.mean(axis=0) for k in kernels]) / (labels == 0).sum()
    exact = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    found = auroc_correlation(np.round(a, 1), np.round(b, 1), labels)
    assert 0 <= exact - found < 0.01
    assert found == round(found, 2)


def test_paired_interval_covers_and_is_much_narrower_than_the_unpaired():
    rng, covered, narrower = np.random.default_rng(2), 0, []
    truth = norm.cdf(1.2 / math.sqrt(2)) - norm.cdf(0.9 / math.sqrt(2))
    for _ in range(200):
        a, b, labels = two_models(rng, 150)
        first, second = (ScoreSummary.from_scores(scores, labels) for scores in (a, b))
        correlation = auroc_correlation(bins_of(a), bins_of(b), labels)
        paired = auroc_difference(first, second, correlation)
        apart = auroc_difference(first, second, None)
        covered += paired.low <= truth <= paired.high
        narrower.append((paired.high - paired.low) / (apart.high - apart.low))
    assert 0.91 <= covered / 200 <= 0.99
    assert np.mean(narrower) < 0.6


def test_same_model_twice_does_not_differ_and_has_no_interval():
    a, _, labels = two_models(np.random.default_rng(3), 60)
    summary = ScoreSummary.from_scores(a, labels)
    assert auroc_correlation(a, a, labels) == 1.0
    found = auroc_difference(summary, summary, 1.0)
    assert (found.value, found.low) == (0.0, None)
    assert "alike" in found.reason


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0]])
def test_too_few_of_a_class_have_no_correlation(labels):
    assert auroc_correlation([0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.2, 0.3], labels) is None


def test_model_without_a_ranking_has_none_either():
    assert auroc_correlation([0.5] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 1] * 3) is None
    one_class = ScoreSummary.from_scores([0.1, 0.2], [0, 0])
    assert auroc_difference(one_class, one_class, None).reason == "only one class"


def test_opposite_models_correlate_negatively():
    a, _, labels = two_models(np.random.default_rng(4), 80)
    assert auroc_correlation(a, 1 - a, labels) == -1.0
    first, second = (ScoreSummary.from_scores(s, labels) for s in (a, 1 - a))
    assert auroc_difference(first, second, -1.0).value == pytest.approx(
        2 * auroc(first).value - 1, abs=0.01
    )
