"""Metrics of times, from counts: against lifelines and scikit-survival on the times themselves."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.metrics.survival import CENSORED, EVENT, SurvivalSummary
from federation.metrics.time_to_event import (
    NO_PAIRS,
    NOBODY_LEFT,
    auroc_at,
    brier_at,
    c_index,
    integrated_brier,
    risk_at,
)

INTERVALS = tuple(np.linspace(0, 180, 13)[1:])
HORIZONS = (60.0, 120.0, 180.0)


def patients(count, seed=0, effect=0.8):
    """Risks by each horizon, days, and whether the outcome ended them: exponential times."""
    rng = np.random.default_rng(seed)
    scale = 100 * np.exp(-effect * rng.normal(size=count))
    times, left = rng.exponential(scale), rng.uniform(20, 300, count)
    risks = np.stack([1 - np.exp(-h / scale) for h in HORIZONS], 1)
    return risks, np.minimum(times, left), times <= left


def summary(count=600, seed=0, **more):
    return SurvivalSummary.of(*patients(count, seed, **more), INTERVALS, HORIZONS)


@pytest.mark.parametrize("seed", range(3))
def test_c_index_is_that_of_lifelines_on_the_times(seed):
    from lifelines.utils import concordance_index

    risks, days, events = patients(3000, seed)
    followed = np.minimum(days, INTERVALS[-1])
    seen = events & (days <= INTERVALS[-1])
    exact = concordance_index(followed, -risks[:, -1], seen)
    found = c_index(SurvivalSummary.of(risks, days, events, INTERVALS, HORIZONS))
    assert found.value == pytest.approx(exact, abs=0.005)
    assert found.low < exact < found.high


@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_brier_are_those_of_scikit_survival_on_the_times(seed):
    from sksurv.metrics import brier_score, cumulative_dynamic_auc, integrated_brier_score

    risks, days, events = patients(3000, seed)
    outcome = np.array(
        list(zip(events, days, strict=True)), dtype=[("event", bool), ("time", float)]
    )
    found = SurvivalSummary.of(risks, days, events, INTERVALS, HORIZONS)
    aucs, _ = cumulative_dynamic_auc(outcome, outcome, risks, HORIZONS)
    _, briers = brier_score(outcome, outcome, 1 - risks, HORIZONS)
    for k in range(len(HORIZONS)):
        assert auroc_at(found, k).value == pytest.approx(aucs[k], abs=0.005)
        assert brier_at(found, k).value == pytest.approx(briers[k], abs=0.005)
    whole = integrated_brier_score(outcome, outcome, 1 - risks, HORIZONS)
    assert integrated_brier(found).value == pytest.approx(whole, abs=0.005)


def test_observed_risk_is_that_of_kaplan_and_meier():
    from lifelines import KaplanMeierFitter

    risks, days, events = patients(3000)
    curve = KaplanMeierFitter().fit(days, events)
    found = SurvivalSummary.of(risks, days, events, INTERVALS, HORIZONS)
    for k, horizon in enumerate(HORIZONS):
        one = risk_at(found, k)
        assert one.observed == pytest.approx(1 - curve.predict(horizon), abs=0.01)
        assert one.predicted == pytest.approx(risks[:, k].mean(), abs=0.002)


def test_summaries_add_up_to_the_patients_together_in_any_order():
    risks, days, events = patients(200)
    whole = SurvivalSummary.of(risks, days, events, INTERVALS, HORIZONS)
    order = np.random.default_rng(1).permutation(200)
    parts = [
        SurvivalSummary.of(risks[rows], days[rows], events[rows], INTERVALS, HORIZONS)
        for rows in (order[:70], order[70:])
    ]
    assert parts[0] + parts[1] == parts[1] + parts[0] == whole
    assert SurvivalSummary.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_risks_that_tell_nothing_have_no_order():
    _, days, events = patients(100)
    alike = SurvivalSummary.of(np.full((100, 3), 0.4), days, events, INTERVALS, HORIZONS)
    assert c_index(alike).value is None
    assert auroc_at(alike, 0).value is None
    nobody = SurvivalSummary.of(np.full((5, 3), 0.4), [9.0] * 5, [False] * 5, INTERVALS, HORIZONS)
    assert c_index(nobody).reason == NO_PAIRS
    assert brier_at(nobody, 2).reason == NOBODY_LEFT


@settings(max_examples=60)
@given(count=st.integers(10, 90), minimum=st.integers(1, 10), seed=st.integers(0, 99))
def test_merged_summary_tells_of_no_small_bin_and_no_small_interval(count, minimum, seed):
    found = summary(count, seed)
    merged = found.merged(minimum)
    assert merged.n == count
    assert not merged.too_small(minimum, merged=True)
    for along in (merged.by_interval().sum(axis=0), *(merged.by_bin(k) for k in range(3))):
        assert along[along > 0].min() >= minimum


def test_nobody_moves_a_merged_summary_alone_within_a_group():
    """An attacker who knows all others learns an interval only as far as its group reaches."""
    risks, days, events = patients(40, 3)
    merged = SurvivalSummary.of(risks, days, events, INTERVALS, HORIZONS).merged(10)
    groups = np.flatnonzero(merged.by_interval().sum(axis=0))
    assert len(groups) <= 4
    median = np.sort(days)
    target = int(np.argsort(days)[2])  # among the ten first to end
    moved = days.copy()
    moved[target] = median[1]
    again = SurvivalSummary.of(risks, moved, events, INTERVALS, HORIZONS).merged(10)
    assert again == merged


def test_merging_costs_little_where_sites_are_large():
    found = summary(600)
    merged = found.merged(10)
    assert c_index(merged).value == pytest.approx(c_index(found).value, abs=0.003)
    for k in range(3):
        assert auroc_at(merged, k).value == pytest.approx(auroc_at(found, k).value, abs=0.003)
        assert brier_at(merged, k).value == pytest.approx(brier_at(found, k).value, abs=0.003)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layout": "survival/9"}, "layout"),
        ({"intervals": [60, 30]}, "increasing"),
        ({"horizons": [61.0]}, "table for each horizon"),
        ({"tables": [{"places": [2, 1], "counts": [1, 1]}] * 3}, "increasing"),
        ({"tables": [{"places": [1], "counts": [0]}] * 3}, "whole numbers"),
        ({"tables": [{"places": [10**9], "counts": [1]}] * 3}, "whole numbers"),
        ({"tables": [{"places": [25], "counts": [1]}] * 3}, "after the last interval"),
        ({"dates": ["2024-01-01"]}, "more or less"),
    ],
)
def test_what_a_site_claims_is_checked(change, told):
    with pytest.raises(ValueError, match=told):
        SurvivalSummary.from_json(summary(50).to_json() | change)


def test_horizons_of_different_patients_are_refused():
    document = summary(50).to_json()
    document["tables"][1] = summary(50, 1).to_json()["tables"][1]
    with pytest.raises(ValueError, match="different patients"):
        SurvivalSummary.from_json(document)


def test_time_beyond_the_last_interval_is_no_event():
    one = SurvivalSummary.of([[0.5] * 3] * 2, [180.0, 180.1], [True, True], INTERVALS, HORIZONS)
    assert one.events == 1
    assert one.by_interval()[CENSORED, -1] == 1
    assert one.by_interval()[EVENT, -2] == 1
