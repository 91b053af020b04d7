"""Counts with noise: exact without, honest with, and intervals that allow for it."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from federation.metrics.noised import (
    BINS,
    COARSE_THRESHOLDS,
    NoisedSummary,
    choose,
    estimates,
    noised_counts,
    rates,
    together,
)

SMALLEST = 1e-9


def drawn(rng, patients, prevalence=0.35):
    labels = (rng.random(patients) < prevalence).astype(int)
    scores = 1 / (1 + np.exp(-(rng.normal(size=patients) + 1.2 * labels - 1.1)))
    return scores, labels


def with_noise(rng, scores, labels, scale):
    noise = np.rint(rng.normal(scale=scale, size=(2, BINS))).astype(np.int64)
    return NoisedSummary(noised_counts(scores, labels) + noise, scale**2)


def test_without_noise_figures_are_those_of_the_scores_but_for_the_bins():
    scores, labels = drawn(np.random.default_rng(1), 5000)
    exact = NoisedSummary(noised_counts(scores, labels), SMALLEST)
    found = estimates(exact)
    assert (exact.n, exact.positives) == (5000, labels.sum())
    assert found["auroc"].value == pytest.approx(roc_auc_score(labels, scores), abs=0.01)
    assert found["brier"].value == pytest.approx(np.mean((scores - labels) ** 2), abs=0.002)
    for threshold in (0.1, 0.3, 0.5):
        called = scores >= threshold
        told = rates(exact, threshold)
        assert told["sensitivity"].value == pytest.approx(called[labels == 1].mean())
        assert told["specificity"].value == pytest.approx((~called)[labels == 0].mean())
        assert told["ppv"].value == pytest.approx(labels[called].mean())
        assert told["npv"].value == pytest.approx(1 - labels[~called].mean())
        assert told["alert_rate"].value == pytest.approx(called.mean())


@pytest.mark.parametrize(("patients", "sites", "scale"), [(600, 1, 3.0), (400, 6, 4.0)])
def test_intervals_hold_with_the_noise_about_95_times_in_100(patients, sites, scale):
    rng = np.random.default_rng(4)
    scores, labels = drawn(rng, 1_000_000)
    truth = {
        "auroc": roc_auc_score(labels, scores),
        "brier": np.mean((scores - labels) ** 2),
        "sensitivity": (scores[labels == 1] >= 0.3).mean(),
        "ppv": labels[scores >= 0.3].mean(),
    }
    held, turns = dict.fromkeys(truth, 0), 120
    for _ in range(turns):
        summary = together(with_noise(rng, *drawn(rng, patients), scale) for _ in range(sites))
        found = {**estimates(summary), **rates(summary, 0.3)}
        for name, true in truth.items():
            held[name] += found[name].low <= true <= found[name].high
    for name, count in held.items():
        assert 0.89 <= count / turns <= 1.0, name


def test_sites_are_added_before_anything_is_cut_off():
    rng = np.random.default_rng(2)
    nobody = [
        NoisedSummary(np.rint(rng.normal(scale=5, size=(2, BINS))).astype(int), 25.0)
        for _ in range(200)
    ]
    total = together(nobody)
    assert total.variance == pytest.approx(5000)
    assert abs(total.n) < 5 * np.sqrt(2 * BINS * 5000)
    assert estimates(total)["auroc"].reason == "hidden by the noise"


def test_threshold_is_an_edge_by_the_rule():
    scores, labels = drawn(np.random.default_rng(3), 4000)
    summary = NoisedSummary(noised_counts(scores, labels), SMALLEST)
    gains = {
        at: (scores[labels == 1] >= at).mean() - (scores[labels == 0] >= at).mean()
        for at in COARSE_THRESHOLDS
    }
    assert choose(summary, "youden", None).value == max(gains, key=gains.get)
    at = choose(summary, "sensitivity", 0.9).value
    assert (scores[labels == 1] >= at).mean() >= 0.9
    later = COARSE_THRESHOLDS[COARSE_THRESHOLDS.index(at) + 1]
    assert (scores[labels == 1] >= later).mean() < 0.9
    assert choose(summary, "fixed", 0.2).value == 0.2


@pytest.mark.parametrize(
    "change",
    [
        {"grid": "logit400/1"},
        {"negatives": [1] * 15},
        {"positives": [0.5] * BINS},
        {"positives": "many"},
        {"variance": 0.0},
        {"variance": "1"},
        {"variance": float("nan")},
        {"extra": 1},
        {"negatives": [2**40] * BINS},
    ],
)
def test_what_is_no_noised_summary_is_refused(change):
    document = NoisedSummary(np.ones((2, BINS), int), 4.0).to_json()
    assert NoisedSummary.from_json(document).to_json() == document
    with pytest.raises(ValueError, match=r"."):
        NoisedSummary.from_json({**document, **change})
