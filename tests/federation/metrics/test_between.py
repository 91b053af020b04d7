"""Random effects over hospitals: statsmodels' figures of a known trial collection, and coverage."""

import numpy as np
import pytest

from federation.metrics.between import auroc_between, logit_auroc, random_effects
from federation.metrics.discrimination import auroc
from federation.metrics.intervals import delong_variance
from federation.metrics.summary import ScoreSummary

# Log relative risks of the thirteen trials of BCG vaccine (Colditz et al., JAMA 1994).
BCG = np.array(
    [
        (-0.8893, 0.3256),
        (-1.5854, 0.1946),
        (-1.3481, 0.4154),
        (-1.4416, 0.0200),
        (-0.2175, 0.0512),
        (-0.7861, 0.0069),
        (-1.6209, 0.2230),
        (0.0120, 0.0040),
        (-0.4694, 0.0564),
        (-1.3713, 0.0730),
        (-0.3394, 0.0124),
        (0.4459, 0.5325),
        (-0.0173, 0.0714),
    ]
)


def test_vaccine_trials_give_the_figures_of_statsmodels():
    """``combine_effects(method_re="iterated", use_t=True)`` of statsmodels 0.15."""
    found = random_effects(*BCG.T)
    assert found.mean == pytest.approx(-0.714970, abs=1e-6)
    assert found.tau**2 == pytest.approx(0.318082, abs=1e-6)
    assert found.interval == pytest.approx((-1.109106, -0.320835), abs=1e-6)
    assert found.i_squared == pytest.approx(0.920956, abs=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.4])
def test_mean_and_a_further_hospital_are_covered_about_95_times_in_100(tau):
    rng, mean, further = np.random.default_rng(8), 0, 0
    for _ in range(600):
        variances = rng.uniform(0.02, 0.15, 8)
        values = rng.normal(1.4, np.sqrt(tau**2 + variances))
        found = random_effects(values, variances)
        mean += found.interval[0] <= 1.4 <= found.interval[1]
        further += found.prediction[0] <= rng.normal(1.4, tau) <= found.prediction[1]
    assert 0.92 <= mean / 600 <= 1.0
    # eight hospitals tell little of how hospitals differ: the method is known to fall short
    assert 0.89 <= further / 600 <= 1.0
    if tau:
        assert mean / 600 <= 0.975
        assert further / 600 <= 0.98


def site(rng, patients=80, separation=1.2):
    labels = (np.arange(patients) % 3 == 0).astype(int)
    return ScoreSummary.from_scores(
        1 / (1 + np.exp(-(rng.normal(size=patients) + separation * labels))), labels
    )


def test_hospitals_that_differ_have_a_prediction_wider_than_the_mean():
    rng = np.random.default_rng(9)
    sites = {f"s{k}": site(rng, 300, 0.3 + 0.4 * k) for k in range(7)}
    found = auroc_between(sites)
    low, high = found.prediction
    assert low < found.estimate.low < found.estimate.value < found.estimate.high < high < 1
    assert found.effects.tau > 0.3
    areas = [auroc(one).value for one in sites.values()]
    assert min(areas) < found.estimate.value < max(areas)


def test_hospital_of_too_few_events_is_left_out_and_named():
    rng = np.random.default_rng(10)
    sites = {f"s{k}": site(rng) for k in range(5)}
    sites["few"] = ScoreSummary.from_scores([0.1] * 20 + [0.9] * 3, [0] * 20 + [1] * 3)
    sites["one"] = ScoreSummary.from_scores([0.1, 0.2], [0, 0])
    document = auroc_between(sites).to_json()
    assert document["hospitals"] == 5
    assert set(document["left_out"]) == {"few", "one"}
    del sites["s0"]
    document = auroc_between(sites).to_json()
    assert document["auroc"]["reason"] == "fewer than 5 hospitals can be compared"
    assert "prediction" not in document


def test_perfect_ranking_stays_finite_and_weighs_as_little_as_its_patients():
    perfect = ScoreSummary.from_scores([0.1] * 10 + [0.9] * 10, [0] * 10 + [1] * 10)
    value, variance = logit_auroc(perfect)
    assert 4 < value < 7
    assert 0 < variance < 15
    rng = np.random.default_rng(11)
    ordinary = site(rng)
    area, spread = auroc(ordinary).value, delong_variance(ordinary)
    assert logit_auroc(ordinary) == pytest.approx(
        (np.log(area / (1 - area)), spread / (area * (1 - area)) ** 2)
    )
