"""Gaps between groups: fairlearn's of the pooled scores, with intervals that cover together."""

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    true_positive_rate,
)
from sklearn.metrics import roc_auc_score

from federation.metrics.fairness import Group, fairness
from federation.metrics.intervals import delong
from federation.metrics.summary import Confusion, ScoreSummary

LEVELS = ("black", "other", "white")


def group_of(scores, labels, threshold=0.5):
    summary = ScoreSummary.from_scores(scores, labels)
    return Group(lambda z: delong(summary, z), [summary], summary.confusion(threshold))


def test_gaps_are_fairlearns(simulated):
    scores, labels = simulated(np.random.default_rng(3), 900)
    level = np.random.default_rng(4).choice(LEVELS, 900)
    called = scores >= 0.5
    found = fairness({k: group_of(scores[level == k], labels[level == k]) for k in LEVELS})
    rates = {"tpr": true_positive_rate, "fpr": false_positive_rate}
    frame = MetricFrame(metrics=rates, y_true=labels, y_pred=called, sensitive_features=level)
    gaps = frame.difference()
    assert found["sensitivity"].estimate.value == pytest.approx(gaps["tpr"], abs=1e-12)
    assert found["false_positive_rate"].estimate.value == pytest.approx(gaps["fpr"], abs=1e-12)
    assert found["sensitivity"].lowest == frame.by_group["tpr"].idxmin()
    assert found["false_positive_rate"].highest == frame.by_group["fpr"].idxmax()
    odds = equalized_odds_difference(labels, called, sensitive_features=level)
    both = (found["sensitivity"], found["false_positive_rate"])
    assert max(gap.estimate.value for gap in both) == pytest.approx(odds, abs=1e-12)
    parity = demographic_parity_difference(labels, called, sensitive_features=level)
    assert found["selection_rate"].estimate.value == pytest.approx(parity, abs=1e-12)

    areas = MetricFrame(
        metrics=roc_auc_score, y_true=labels, y_pred=scores, sensitive_features=level
    )
    assert found["auroc"].estimate.value == pytest.approx(areas.difference(), abs=0.003)
    residual = [(labels - scores)[level == k].mean() for k in LEVELS]
    gap = max(residual) - min(residual)
    assert found["calibration"].estimate.value == pytest.approx(gap, abs=1e-9)


def test_interval_of_a_gap_covers_the_true_one_95_times_in_100():
    rng, n, covered = np.random.default_rng(5), 120, 0
    truth = {"a": 0.8, "b": 0.7, "c": 0.62}
    for _ in range(400):
        groups = {}
        for name, share in truth.items():
            tp, fp = (int(x) for x in rng.binomial(n, [share, 0.2]))
            confusion = Confusion(tp, fp, n - fp, n - tp)
            groups[name] = Group(lambda z: None, [ScoreSummary.empty()], confusion)
        gap = fairness(groups)["sensitivity"].estimate
        covered += gap.low <= 0.18 <= gap.high
    assert 0.92 <= covered / 400 <= 0.995


def test_gap_that_chance_explains_begins_at_zero():
    alike = Confusion(40, 10, 40, 10)
    groups = {k: Group(lambda z: None, [ScoreSummary.empty()], alike) for k in "ab"}
    gap = fairness(groups)["sensitivity"].estimate
    assert gap.value == gap.low == 0.0
    assert gap.high > 0.1


def test_group_without_the_measure_is_named_and_one_alone_has_no_gap(simulated):
    scores, labels = simulated(np.random.default_rng(6), 60)
    full, healthy = group_of(scores, labels), group_of([0.2, 0.4, 0.6], [0, 0, 0])
    found = fairness({"a": full, "b": full, "c": healthy})
    assert found["sensitivity"].to_json()["undefined"] == {"c": "only one class"}
    assert found["auroc"].to_json()["undefined"] == {"c": "only one class"}
    alone = fairness({"a": full, "c": healthy})["auroc"].to_json()
    assert alone["value"] is None
    assert alone["reason"] == "fewer than two groups can be compared"


def test_without_a_threshold_only_scores_are_compared(simulated):
    scores, labels = simulated(np.random.default_rng(7), 200)
    summary = ScoreSummary.from_scores(scores, labels)
    group = Group(lambda z: delong(summary, z), [summary], None)
    assert set(fairness({"a": group, "b": group})) == {"calibration", "auroc"}


def test_gap_between_five_equal_groups_is_seldom_called_more_than_chance():
    rng, called = np.random.default_rng(8), 0
    for _ in range(400):
        groups = {}
        for name in "abcde":
            tp = int(rng.binomial(150, 0.7))
            groups[name] = Group(
                lambda z: None, [ScoreSummary.empty()], Confusion(tp, 9, 99, 150 - tp)
            )
        called += fairness(groups)["sensitivity"].estimate.low > 0
    assert called / 400 <= 0.08
