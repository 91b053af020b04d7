"""Decisions at a threshold: scikit-learn's rates of the pooled scores, with scipy's intervals."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from federation.metrics.decisions import at_threshold, rate
from federation.metrics.grid import EDGES
from federation.metrics.summary import Confusion, ScoreSummary
from federation.metrics.utility import benefit


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, float(EDGES[200])])
def test_rates_from_counts_are_those_of_the_scores(simulated, threshold):
    scores, labels = simulated(np.random.default_rng(1), 500)
    called = scores >= threshold
    summary = ScoreSummary.from_scores(scores, labels)
    found = {k: v.value for k, v in at_threshold(summary.confusion(threshold), threshold).items()}
    odds = threshold / (1 - threshold)
    tn, fp, _, tp = confusion_matrix(labels, called).ravel()
    assert found == pytest.approx(
        {
            "sensitivity": recall_score(labels, called),
            "specificity": recall_score(labels, called, pos_label=0),
            "ppv": precision_score(labels, called),
            "npv": precision_score(labels, called, pos_label=0),
            "alert_rate": called.mean(),
            "f1": f1_score(labels, called),
            "number_needed_to_evaluate": called.sum() / tp,
            "net_benefit": (tp - odds * fp) / 500,
        },
        abs=1e-12,
    )
    assert rate("false_positive_rate", summary.confusion(threshold)).value == fp / (fp + tn)


def test_interval_of_a_rate_is_wilsons_of_its_own_patients():
    found = rate("ppv", Confusion(tp=12, fp=8, tn=70, fn=10))
    expected = binomtest(12, 20).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    hits = at_threshold(Confusion(tp=12, fp=8, tn=70, fn=10), 0.5)["number_needed_to_evaluate"]
    assert (hits.low, hits.high) == pytest.approx((1 / expected.high, 1 / expected.low))


def test_intervals_of_f1_and_net_benefit_are_as_wide_as_their_bootstrap():
    counts = np.array([60, 40, 160, 30])
    drawn = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), 20_000)
    tp, fp, _, fn = drawn.T
    confusion = Confusion(*(int(n) for n in counts))
    for found, values in (
        (at_threshold(confusion, 0.2)["f1"], 2 * tp / (2 * tp + fp + fn)),
        (benefit(confusion, 0.2), (tp - 0.25 * fp) / counts.sum()),
    ):
        low, high = np.quantile(values, [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_what_has_no_support_says_so():
    nobody_called = at_threshold(Confusion(tp=0, fp=0, tn=8, fn=2), 0.9)
    assert nobody_called["ppv"].reason == "nobody is called positive"
    assert nobody_called["number_needed_to_evaluate"].value is None
    assert nobody_called["sensitivity"].value == 0.0
    all_called = at_threshold(Confusion(tp=2, fp=8, tn=0, fn=0), 0.01)
    assert all_called["npv"].reason == "everybody is called positive"
    one_class = at_threshold(Confusion(tp=0, fp=3, tn=7, fn=0), 0.5)
    assert one_class["sensitivity"].reason == one_class["f1"].reason == "only one class"
    assert one_class["specificity"].value == 0.7
    assert one_class["number_needed_to_evaluate"].reason.startswith("nobody who is called")
    empty = at_threshold(Confusion(0, 0, 0, 0), 0.5)
    assert {one.reason for one in empty.values()} == {"no patients"}


def test_sites_with_thresholds_of_their_own_have_rates_together_and_no_net_benefit():
    together = Confusion(5, 1, 3, 1) + Confusion(2, 2, 5, 1)
    assert together == Confusion(7, 3, 8, 2)
    assert "net_benefit" not in at_threshold(together, None)
