"""Changes over time: rarely an alarm without drift, surely one with it; oracles are SciPy's."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from federation.metrics.drift import (
    changes,
    holm,
    homogeneity,
    input_change,
    prevalence_change,
    score_groups,
    stability_index,
)
from federation.metrics.summary import ScoreSummary


def summary_of(simulated, seed, patients, **model):
    return ScoreSummary.from_scores(*simulated(np.random.default_rng(seed), patients, **model))


def test_stability_index_is_its_definition_and_homogeneity_is_scipys():
    reference, later = np.array([40, 30, 0, 30]), np.array([10, 50, 5, 35])
    p, q = ((part + 0.5) / (part + 0.5).sum() for part in (reference, later))
    assert stability_index(reference, later) == pytest.approx(((q - p) * np.log(q / p)).sum())
    expected = chi2_contingency([reference, later], correction=False).pvalue
    assert homogeneity(reference, later) == pytest.approx(expected)
    assert homogeneity([10, 0], [20, 0]) is None
    assert homogeneity([10, 5], [0, 0]) is None


def test_prevalence_change_has_the_p_of_a_table_of_two_by_two():
    first = ScoreSummary.from_scores([0.5] * 100, [1] * 20 + [0] * 80)
    second = ScoreSummary.from_scores([0.5] * 60, [1] * 24 + [0] * 36)
    found = prevalence_change(first, second)
    assert found.estimate.value == pytest.approx(0.2)
    assert found.estimate.low < 0.2 < found.estimate.high
    expected = chi2_contingency([[20, 80], [24, 36]], correction=False).pvalue
    assert found.p == pytest.approx(expected)


def test_holm_never_lowers_p_and_keeps_their_order():
    rng = np.random.default_rng(1)
    chances = {str(k): float(p) for k, p in enumerate(rng.random(20) ** 3)}
    adjusted = holm(chances)
    assert all(adjusted[name] >= p for name, p in chances.items())
    ordered = sorted(chances, key=chances.get)
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())
    assert adjusted[ordered[0]] == pytest.approx(min(20 * chances[ordered[0]], 1))


@pytest.mark.parametrize(("patients", "sites", "minimum"), [(40, 1, 1), (50, 10, 10)])
def test_without_drift_alarms_are_rare(simulated, patients, sites, minimum):
    """Of few patients, and of many sites whose bins were joined."""
    rng, alarmed = np.random.default_rng(7), 0
    for _ in range(100):
        first, second = (
            [
                ScoreSummary.from_scores(*simulated(rng, patients)).merged(minimum)
                for _ in range(sites)
            ]
            for _ in range(2)
        )
        found = changes(first, second)
        adjusted = holm({name: one.p for name, one in found.items()})
        alarmed += any(one.alarms(adjusted[name]) for name, one in found.items())
    assert alarmed / 100 < 0.12


def test_a_shift_of_the_scores_and_of_the_outcome_raise_their_alarms(simulated):
    first = summary_of(simulated, 1, 400, prevalence=0.3)
    scores, labels = simulated(np.random.default_rng(2), 400, prevalence=0.5)
    second = ScoreSummary.from_scores(scores**3, labels)
    found = changes([first], [second])
    adjusted = holm({name: one.p for name, one in found.items()})
    raised = {name for name, one in found.items() if one.alarms(adjusted[name])}
    assert {"scores", "prevalence", "calibration_intercept"} <= raised
    assert found["scores"].to_json(adjusted["scores"])["alarm"] is True


def test_groups_of_scores_hold_all_patients_and_are_few_where_patients_are(simulated):
    first, second = summary_of(simulated, 3, 25), summary_of(simulated, 4, 35)
    one, other = score_groups([first], [second])
    assert (one.sum(), other.sum()) == pytest.approx((25, 35))
    assert len(one) == 3
    many = [summary_of(simulated, 5, 900)]
    assert len(score_groups([first], many)[0]) == 8
    assert len(score_groups(many, many)[0]) == 10


def test_inputs_differ_by_their_levels():
    same = {"absent": 40, "within": 160}
    assert input_change(same, same).estimate.value == pytest.approx(0)
    moved = input_change(same, {"absent": 150, "within": 50})
    assert moved.alarms(moved.p)
    assert input_change({"within": 10}, {"within": 12}).p is None


def test_one_class_has_no_calibration_to_change_and_says_so(simulated):
    one_class = ScoreSummary.from_scores([0.1, 0.2] * 10, [0] * 20)
    found = changes([summary_of(simulated, 6, 100)], [one_class])
    assert found["calibration_slope"].estimate.reason == "only one class"
    assert found["calibration_slope"].to_json(None)["alarm"] is False
