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
    import models_synthetic

    yield models_bench, models_synthetic
    for name in ("models_bench", "models_synthetic"):
        sys.modules.pop(name)


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
