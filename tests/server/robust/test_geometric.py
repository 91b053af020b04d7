"""Geometric median and norm bounding."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from updates_of_rounds import attacked, gaussian, updates

from federation.robustness import fewest_sites
from server.robust import geometric_median, norms


def distance_sum(point, rows):
    return np.linalg.norm(rows - point, axis=1).sum()


@pytest.mark.parametrize("sites", [3, 4, 10])
def test_geometric_median_has_the_least_sum_of_distances(sites):
    rows = gaussian(sites, 4, seed=sites).astype(np.float64)
    best = minimize(distance_sum, rows.mean(axis=0), args=(rows,), options={"gtol": 1e-10})
    found = geometric_median(rows.astype(np.float32), 1e-6, 500)
    assert distance_sum(found.astype(np.float64), rows) <= best.fun * (1 + 1e-6)


@given(updates(most=8), st.integers(1, 6), st.sampled_from([1e-3, 1.0, 10.0]))
def test_geometric_median_is_the_papers_iteration(rows, iterations, smoothing):
    exact = rows.astype(np.float64)
    point = exact.mean(axis=0)
    for _ in range(iterations):
        weights = 1 / np.maximum(smoothing, np.linalg.norm(exact - point, axis=1))
        point = weights @ exact / weights.sum()
    found = geometric_median(rows, smoothing, iterations)
    assert np.allclose(found, point, rtol=1e-5, atol=1e-3)


def test_geometric_median_of_a_majority_in_one_place_is_that_place():
    rows = np.array([[1, 2], [1, 2], [1, 2], [-90, 4], [7, 100]], np.float32)
    assert np.allclose(geometric_median(rows, 1e-6, 100), [1, 2], atol=1e-4)


@given(attacked(partial(fewest_sites, "geometric_median")))
def test_geometric_median_stays_near_the_honest(round_):
    rows, hostile, honest = round_
    exact = rows[honest].astype(np.float64)
    centre = exact.mean(axis=0)
    spread = np.linalg.norm(exact - centre, axis=1).max()
    good = len(exact)
    found = geometric_median(rows, 1e-6, 500).astype(np.float64)
    # Lopuhaa and Rousseeuw 1991: 2 (n - f) / (n - 2 f) times the honest updates' radius
    bound = 2 * good / (good - hostile) * spread
    assert np.linalg.norm(found - centre) <= bound * 1.01 + 1e-3


@given(updates())
def test_norms_are_euclidean(rows):
    assert np.allclose(norms(rows), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-12)


@given(st.randoms(use_true_random=False), st.integers(0, 1000))
def test_order_of_the_sites_does_not_matter(random, seed):
    rows, order = gaussian(9, 6, seed), list(range(9))
    random.shuffle(order)
    found = geometric_median(rows[order], smoothing=1e-6, iterations=50)
    expected = geometric_median(rows, smoothing=1e-6, iterations=50)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: geometric_median(rows[:0], 1e-6, 3),
        lambda rows: geometric_median(rows, 0.0, 3),
        lambda rows: geometric_median(rows, 1e-6, 0),
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"needs|must"):
        wrong(gaussian(3, 2, seed=0))
