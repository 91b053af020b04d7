"""Score summaries: exact at the grid, additive, checked on arrival, never finer than allowed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.metrics.grid import BINS, ECE_BINS, EDGES, PLAIN, THRESHOLDS
from federation.metrics.summary import ScoreSummary, merge

patients = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=80)


def summary_of(drawn):
    return ScoreSummary.from_scores([p for p, _ in drawn], [y for _, y in drawn])


@given(patients, st.sampled_from(THRESHOLDS))
def test_confusion_at_a_threshold_equals_that_of_the_scores(drawn, threshold):
    scores, labels = np.array(drawn).T
    counted = summary_of(drawn).confusion(threshold)
    called = scores >= threshold
    assert counted.tp == (called & (labels == 1)).sum()
    assert counted.fp == (called & (labels == 0)).sum()
    assert counted.fn == (~called & (labels == 1)).sum()
    assert counted.tn == (~called & (labels == 0)).sum()


def test_score_on_a_threshold_is_called_positive():
    for threshold in THRESHOLDS:
        assert ScoreSummary.from_scores([threshold], [1]).confusion(threshold).tp == 1
        below = ScoreSummary.from_scores([np.nextafter(threshold, 0)], [1])
        assert below.confusion(threshold).fn == 1


def test_grid_holds_every_threshold_and_every_ece_edge():
    assert all(PLAIN.index(k / ECE_BINS) >= 0 for k in range(ECE_BINS + 1))
    assert 0.5 in THRESHOLDS
    assert (np.diff(EDGES) > 1e-9).all()
    assert BINS > 400


def test_threshold_off_the_grid_is_refused():
    with pytest.raises(ValueError, match="not an edge"):
        ScoreSummary.empty().confusion(0.123)


@given(patients, patients)
def test_sum_of_two_sites_equals_their_patients_together(left, right):
    both, pooled = summary_of(left) + summary_of(right), summary_of(left + right)
    assert np.array_equal(both.counts, pooled.counts)
    assert both.score_square_sum == pytest.approx(pooled.score_square_sum, abs=1e-12)
    assert both.positive_score_sum == pytest.approx(pooled.positive_score_sum, abs=1e-12)


@given(patients)
def test_order_of_patients_cannot_change_a_bit(drawn):
    assert summary_of(drawn) == summary_of(drawn[::-1])


@given(patients)
def test_json_round_trip_is_exact(drawn):
    summary = summary_of(drawn)
    text = json.dumps(summary.to_json(), allow_nan=False)
    assert ScoreSummary.from_json(json.loads(text)) == summary


@given(patients, st.integers(1, 15))
def test_every_occupied_bin_of_a_merged_summary_holds_the_minimum(drawn, minimum):
    summary = summary_of(drawn)
    if summary.n < minimum:
        with pytest.raises(ValueError, match="withheld"):
            summary.merged(minimum)
        return
    merged = summary.merged(minimum)
    sizes = merged.counts.sum(axis=0)
    assert sizes[sizes > 0].min() >= minimum
    assert (merged.n, merged.positives) == (summary.n, summary.positives)


def test_merging_to_one_patient_leaves_the_bins_as_they_are():
    rng = np.random.default_rng(0)
    summary = ScoreSummary.from_scores(rng.random(300), rng.integers(0, 2, 300))
    assert np.array_equal(summary.merged(1).counts, summary.counts)


@given(st.floats(0, 1), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_merged_summary_does_not_tell_one_patient_set_apart_by_a_crafted_model(score, label, seed):
    """Weights that give everybody the same score but one, whose record then decides the rest."""
    others = np.full(39, 0.3)
    labels = np.random.default_rng(seed).integers(0, 2, 39)
    apart = ScoreSummary.from_scores([*others, score], [*labels, label]).merged(10)
    alike = ScoreSummary.from_scores([*others, 0.3], [*labels, label]).merged(10)
    assert apart == alike


def test_merged_summary_keeps_the_confusion_at_one_half():
    rng = np.random.default_rng(0)
    summary = ScoreSummary.from_scores(rng.random(90), rng.integers(0, 2, 90))
    assert summary.merged(10).confusion(0.5) == summary.confusion(0.5)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([float("nan")], [1]),
        ([float("inf")], [1]),
        ([1.01], [1]),
        ([-0.01], [0]),
        ([0.5], [2]),
        ([0.5], [float("nan")]),
        ([0.5, 0.6], [1]),
        ([[0.5]], [[1]]),
    ],
)
def test_scores_or_labels_out_of_range_are_refused(scores, labels):
    with pytest.raises(ValueError, match=r"score|label"):
        ScoreSummary.from_scores(scores, labels)


@pytest.mark.parametrize(
    "change",
    [
        {"grid": "uniform"},
        {"bins": [0]},
        {"bins": [5, 5]},
        {"bins": [5, BINS]},
        {"bins": [-1, 5]},
        {"negatives": [1, -1]},
        {"negatives": [1.5, 0]},
        {"negatives": [True, 0]},
        {"positives": None},
        {"score_sum": float("nan")},
        {"score_sum": 1e9},
        {"score_square_sum": 5.0},
        {"positive_score_sum": -1.0},
        {"score_sum": "1"},
    ],
)
def test_summary_that_no_patients_can_have_is_refused_on_arrival(change):
    document = ScoreSummary.from_scores([0.2, 0.9], [0, 1]).to_json()
    assert ScoreSummary.from_json(document).n == 2
    with pytest.raises(ValueError, match=r"grid|bins|whole|number|sums"):
        ScoreSummary.from_json({**document, **change})


def test_summary_cannot_be_changed_after_it_was_counted():
    summary = ScoreSummary.from_scores([0.2], [0])
    with pytest.raises(ValueError, match="read-only"):
        summary.counts[0, 0] = 7


def test_empty_summary_adds_nothing():
    summary = ScoreSummary.from_scores([0.2, 0.9], [0, 1])
    assert merge([ScoreSummary.empty(), summary]) == summary
    assert ScoreSummary.empty().merged(10).n == 0
