"""Net benefit from counts equals its definition on the pooled scores."""

import numpy as np
import pytest

from federation.metrics.grid import THRESHOLDS
from federation.metrics.stack import stack_of
from federation.metrics.summary import ScoreSummary
from federation.metrics.utility import benefit_curves, net_benefit


def test_net_benefit_equals_its_definition(simulated):
    scores, labels = simulated(np.random.default_rng(8), 700)
    points = net_benefit(ScoreSummary.from_scores(scores, labels))
    assert [point.threshold for point in points] == list(THRESHOLDS)
    for point in points:
        odds = point.threshold / (1 - point.threshold)
        called = scores >= point.threshold
        gain = np.mean(called & (labels == 1)) - odds * np.mean(called & (labels == 0))
        assert point.estimate.value == pytest.approx(gain, abs=1e-12)
        assert point.treat_all == pytest.approx(labels.mean() - odds * (1 - labels.mean()))


def test_threshold_that_is_not_on_the_grid_is_refused():
    with pytest.raises(ValueError, match="not an edge"):
        net_benefit(ScoreSummary.from_scores([0.2], [1]), [0.123])


def test_no_patients_have_no_net_benefit():
    assert benefit_curves(stack_of(ScoreSummary.empty()), [0.5]).to_json()[0][0] == {
        "threshold": 0.5,
        "value": None,
        "low": None,
        "high": None,
        "reason": "no patients",
        "treat_all": None,
    }
