"""The threshold that the tuning split chooses is the one that its patients themselves would."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from federation.metrics.decisions import rate
from federation.metrics.grid import EDGES
from federation.metrics.summary import ScoreSummary
from federation.metrics.threshold import choose_threshold


def test_youdens_threshold_reaches_the_best_sum_of_rates_of_the_scores(simulated):
    for seed in range(5):
        scores, labels = simulated(np.random.default_rng(seed), 400)
        summary = ScoreSummary.from_scores(scores, labels)
        chosen = choose_threshold(summary, "youden").value
        confusion = summary.confusion(chosen)
        reached = rate("sensitivity", confusion).value + rate("specificity", confusion).value - 1
        false, true, _ = roc_curve(labels, scores)
        assert reached == pytest.approx((true - false).max(), abs=0.01)
        assert reached == max(
            rate("sensitivity", c).value + rate("specificity", c).value - 1
            for c in (summary.confusion(edge) for edge in EDGES[:-1])
        )


@pytest.mark.parametrize("wanted", [0.5, 0.8, 0.9, 0.99])
def test_threshold_for_a_sensitivity_keeps_it_and_the_next_loses_it(simulated, wanted):
    summary = ScoreSummary.from_scores(*simulated(np.random.default_rng(2), 400))
    chosen = choose_threshold(summary, "sensitivity", wanted).value
    assert rate("sensitivity", summary.confusion(chosen)).value >= wanted
    occupied = EDGES[:-1][summary.counts.any(axis=0)]
    above = occupied[occupied > chosen]
    # the bins between the two hold nobody, or no positive who may be missed
    lost = rate("sensitivity", summary.confusion(float(above[1]))).value
    assert lost < wanted or summary.counts[1, np.searchsorted(EDGES, above[0])] == 0


def test_threshold_lies_in_the_middle_of_those_that_decide_alike():
    summary = ScoreSummary.from_scores([0.2] * 9 + [0.8] * 9, [0] * 9 + [1] * 9)
    for rule, value in (("youden", None), ("sensitivity", 0.9)):
        chosen = choose_threshold(summary, rule, value).value
        assert summary.confusion(chosen).fp == summary.confusion(chosen).fn == 0
        assert 0.4 < chosen < 0.6


def test_fixed_threshold_needs_no_patients():
    assert choose_threshold(ScoreSummary.empty(), "fixed", 0.25).value == 0.25


def test_too_few_patients_choose_no_threshold():
    few = ScoreSummary.from_scores([0.1] * 20 + [0.9] * 4, [0] * 20 + [1] * 4)
    assert "fewer than 5" in choose_threshold(few, "youden").reason
    one = ScoreSummary.from_scores([0.1] * 20, [0] * 20)
    assert choose_threshold(one, "youden").reason == "only one class"
    tied = ScoreSummary.from_scores([0.3] * 20, [0, 1] * 10)
    assert choose_threshold(tied, "youden").value is None
    assert choose_threshold(ScoreSummary.empty(), "youden").reason == "no patients"
