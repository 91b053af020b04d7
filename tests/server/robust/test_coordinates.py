"""Medians and trimmed means of each parameter."""

import tracemalloc
from functools import partial

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate_median, aggregate_trimmed_avg
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean
from updates_of_rounds import as_flower, attacked, gaussian, updates

from federation.robustness import fewest_sites
from server.robust import coordinate_median, trimmed_mean


@given(updates())
def test_median_is_numpys(rows):
    expected = np.median(rows.astype(np.float64), axis=0).astype(np.float32)
    assert np.array_equal(coordinate_median(rows), expected)


@given(updates(), st.integers(0, 49))
def test_trimmed_mean_is_scipys(rows, percent):
    # the least bit more, so that scipy's own rounding of 0.29 * 100 does not decide
    expected = trim_mean(rows.astype(np.float64), percent / 100 + 1e-12)
    assert np.allclose(trimmed_mean(rows, percent / 100), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("sites", [1, 2, 9, 10, 50])
def test_many_parameters_are_those_of_flower(sites):
    rows = gaussian(sites, 10_007, seed=sites)
    median, trimmed = aggregate_median(as_flower(rows)), aggregate_trimmed_avg(as_flower(rows), 0.2)
    assert np.array_equal(coordinate_median(rows), median[0].astype(np.float32))
    assert np.allclose(trimmed_mean(rows, 0.2), trimmed[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", [coordinate_median, partial(trimmed_mean, fraction=0.25)])
@given(rows=updates(), random=st.randoms(use_true_random=False))
def test_order_of_the_sites_does_not_matter(rule, rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    assert np.array_equal(rule(rows[order]), rule(rows))


@given(attacked(partial(fewest_sites, "median")))
def test_median_stays_in_the_range_of_the_honest(round_):
    rows, _, honest = round_
    result = coordinate_median(rows)
    assert (rows[honest].min(axis=0) <= result).all()
    assert (result <= rows[honest].max(axis=0)).all()


@given(attacked(partial(fewest_sites, "trimmed_mean")))
def test_trimmed_mean_stays_in_the_range_of_the_honest(round_):
    rows, hostile, honest = round_
    result = trimmed_mean(rows, hostile / len(rows))
    assert (rows[honest].min(axis=0) <= result).all()
    assert (result <= rows[honest].max(axis=0)).all()


def test_nothing_trimmed_is_the_mean_and_one_too_few_lets_the_hostile_in():
    rows = np.array([[0], [1], [2], [3], [100], [100]], np.float32)
    assert trimmed_mean(rows, 0.0).tolist() == [np.float32(206 / 6)]
    assert trimmed_mean(rows, 0.2)[0] > 3
    assert trimmed_mean(rows, 0.34)[0] <= 3


@pytest.mark.parametrize("rule", [coordinate_median, partial(trimmed_mean, fraction=0.2)])
def test_no_copy_of_the_updates_is_made(rule):
    rows = gaussian(50, 100_000, seed=0)
    tracemalloc.start()
    try:
        rule(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes / 5


@pytest.mark.parametrize("rule", [coordinate_median, partial(trimmed_mean, fraction=0.2)])
def test_a_round_without_updates_is_refused(rule):
    with pytest.raises(ValueError, match="there are 0"):
        rule(np.zeros((0, 3), np.float32))
