"""The benchmark of models measures what it says."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import models_bench
    import models_cost
    import models_robustness
    import models_synthetic

    found = models_bench, models_synthetic, models_robustness, models_cost
    yield found
    for module in found:
        sys.modules.pop(module.__name__)


def test_auroc_is_scikit_learns_with_ties(bench):
    rng = np.random.default_rng(0)
    label = (rng.random(300) < 0.2).astype(float)
    score = rng.integers(0, 20, 300) + 3 * label
    assert bench[0].auroc(label, score) == pytest.approx(roc_auc_score(label, score))
    assert np.isnan(bench[0].auroc(np.ones(5), np.arange(5)))


def test_folds_hold_each_patient_once_and_each_class_alike(bench):
    rng = np.random.default_rng(1)
    labels = (rng.random(103) < 0.3).astype(float)
    patients = SimpleNamespace(labels=labels, subject_ids=rng.permutation(103))
    cohort = SimpleNamespace(patients=type("P", (), {"__len__": lambda _: 103})())
    cohort.patients.labels, cohort.patients.subject_ids = patients.labels, patients.subject_ids
    fold = bench[0].folds(cohort, 5)
    for label in (0, 1):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_best_possible_score_knows_all_that_is_seen_and_averages_over_what_is_not(bench):
    synthetic, rng = bench[1], np.random.default_rng(2)
    from simulations.hospitals import OWN, SHARED, Effects, sigmoid, signal

    shared = rng.standard_normal(20_000)
    latents = np.stack([SHARED * shared + OWN * rng.standard_normal(20_000) for _ in range(3)], 1)
    years = rng.normal(0, 10, 20_000)
    logit = -1 + signal(latents.T, years + 62, Effects())
    everything = np.ones((20_000, 3), bool)
    whole = synthetic._expected(latents[:50], everything[:50], years[:50], -1.0, 0.0, Effects())
    np.testing.assert_allclose(whole, sigmoid(logit[:50]), atol=1e-9)
    found = synthetic._years(logit + 1, latents, Effects())
    told = np.abs(0.02 + 0.01 * latents[:, 2]) >= 1e-3  # of others the logit says nothing of it
    np.testing.assert_allclose(found[told], years[told], atol=1e-6)
    assert told.mean() > 0.98

    blind = everything[:4000].copy()
    blind[:, 1] = False
    part = synthetic._expected(latents[:4000], blind, years[:4000], -1.0, 0.0, Effects())
    risk = sigmoid(logit[:4000])
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1)):  # calibrated, and less sure
        some = (part >= low) & (part < high)
        assert part[some].mean() == pytest.approx(risk[some].mean(), abs=0.02)
    assert part.std() < risk.std()


def scored(patients=400, trainings=3, seed=0):
    """Labels, and scores with and without an image that some patients never had."""
    rng = np.random.default_rng(seed)
    label = (rng.random(patients) < 0.3).astype(float)
    shown = label + rng.normal(0, 1, (trainings, patients))
    hidden = shown + rng.normal(0.3, 1, shown.shape) * (rng.random(patients) < 0.7)
    return label, shown, hidden


def test_expected_auroc_of_a_removal_is_the_mean_over_many(bench):
    (label, (shown,), (hidden,)), rng = scored(trainings=1), np.random.default_rng(1)
    drawn = [
        roc_auc_score(label, np.where(rng.random(len(label)) < 0.5, shown, hidden))
        for _ in range(2000)
    ]
    within = 4 * np.std(drawn) / len(drawn) ** 0.5
    assert bench[2].half_removed(label, shown, hidden) == pytest.approx(np.mean(drawn), abs=within)


def test_losses_are_means_over_trainings_and_their_intervals_are_paired(bench, monkeypatch):
    robustness = bench[2]
    monkeypatch.setattr(robustness, "RESAMPLES", 200)
    label, shown, hidden = scored()
    one = robustness.Trainings(label, shown, hidden, hidden)
    found = one.figures(*robustness._all(one))
    losses = [
        roc_auc_score(label, a) - robustness.half_removed(label, a, b)
        for a, b in zip(shown, hidden, strict=True)
    ]
    assert found["lost"] == pytest.approx(np.mean(losses))
    assert found["behind"] == 0
    # the same scores lose the same, whoever is drawn: the interval is a point
    rows = robustness._rows("x", dict.fromkeys(("early", "late", "cross_attention"), one), False)
    told = {row.name: row for row in rows}["x/late/loses_less_than_early"]
    assert (told.measured, told.holds) == (0.0, False)
    assert told.note.startswith("+0.0000 to +0.0000")
    # one that loses nothing loses less
    firm = robustness.Trainings(label, shown, shown, shown)
    rows = robustness._rows("x", {"early": one, "late": firm, "cross_attention": one}, False)
    assert {row.name: row.holds for row in rows}["x/late/loses_less_than_early"]


def test_cost_tells_of_every_encoder_and_knows_a_small_ones_parameters(bench):
    from federation.models.registry import ENCODERS

    cost = bench[3]
    names = {name for of_modality in ENCODERS.values() for name in of_modality}
    assert {name for name, _ in cost.CASES} == names
    case = cost.Case("text", "4 words", 2, {"buckets": 8, "width": 4, "max_tokens": 4})
    parameters, time, memory = cost._rows("hashed", case, 1)
    encoder = case.study("hashed").modalities.text.chosen.build(
        case.study("hashed").modalities.text
    )
    assert parameters.measured == sum(p.numel() for p in encoder.parameters())
    assert time.measured > 0
    assert memory.measured > 0
