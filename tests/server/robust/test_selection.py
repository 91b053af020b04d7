"""Krum, Multi-Krum and Bulyan, next to Flower's and to what the papers promise."""

from functools import partial

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate_bulyan, aggregate_krum
from hypothesis import given
from hypothesis import strategies as st
from updates_of_rounds import as_flower, attacked, gaussian

from federation.robustness import fewest_sites
from server.robust import bulyan, krum, multi_krum

CASES = [(3, 0), (5, 1), (10, 2), (11, 2), (50, 10)]


@pytest.mark.parametrize(("sites", "hostile"), CASES)
def test_krum_chooses_what_flower_chooses(sites, hostile):
    rows = gaussian(sites, 4_001, seed=sites)
    expected = aggregate_krum(as_flower(rows), hostile, to_keep=0)[0]
    assert np.array_equal(rows[krum(rows, hostile)], expected)


@pytest.mark.parametrize(("sites", "hostile"), CASES)
def test_multi_krum_averages_what_flower_averages(sites, hostile):
    rows, chosen = gaussian(sites, 4_001, seed=sites), sites - hostile - 2
    expected = aggregate_krum(as_flower(rows), hostile, to_keep=chosen)[0]
    found = multi_krum(rows, hostile, chosen)
    assert found == sorted(set(found)) and len(found) == chosen
    assert np.allclose(rows[found].mean(axis=0, dtype=np.float64), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("sites", "hostile"), [(3, 0), (7, 1), (8, 1), (11, 2), (14, 2), (15, 3)])
def test_bulyan_is_flowers(sites, hostile):
    rows = gaussian(sites, 4_001, seed=sites)
    expected = aggregate_bulyan(as_flower(rows), hostile, aggregate_krum, to_keep=0)[0]
    assert np.allclose(bulyan(rows, hostile), expected, rtol=1e-6, atol=1e-7)


@given(attacked(partial(fewest_sites, "krum")))
def test_krum_scores_are_those_of_the_paper(round_):
    rows, hostile, _ = round_
    scores = []
    for row in rows.astype(np.float64):
        squared = np.sort(((rows - row) ** 2).sum(axis=1))
        scores.append(squared[1 : len(rows) - hostile - 1].sum())
    assert scores[krum(rows, hostile)] <= min(scores) * (1 + 1e-9)


@given(attacked(partial(fewest_sites, "krum")))
def test_krum_chooses_near_the_honest_whatever_the_hostile_send(round_):
    rows, hostile, honest = round_
    chosen, good = rows[krum(rows, hostile)].astype(np.float64), rows[honest].astype(np.float64)
    widest = max(np.linalg.norm(a - b) for a in good for b in good)
    nearest = min(np.linalg.norm(chosen - row) for row in good)
    # its own neighbours count at least one honest one, and score no worse than an honest update
    assert nearest <= widest * np.sqrt(len(rows) - hostile - 2) * (1 + 1e-6)


@pytest.mark.parametrize("kind", ["sign flip", "far away", "in agreement"])
def test_far_hostile_updates_are_never_chosen(kind):
    rows = 1 + gaussian(10, 200, seed=3) / 10
    rows[[2, 7]] = {
        "sign flip": -10 * rows[[2, 7]],
        "far away": 100 * rows[[2, 7]],
        "in agreement": np.full((2, 200), -50),
    }[kind]
    assert krum(rows, 2) not in (2, 7)
    assert multi_krum(rows, 2, 6) == sorted(set(multi_krum(rows, 2, 6)) - {2, 7})


@given(attacked(partial(fewest_sites, "bulyan")))
def test_bulyan_stays_as_near_to_the_honest_as_they_are_wide(round_):
    rows, hostile, honest = round_
    low, high = rows[honest].min(axis=0), rows[honest].max(axis=0)
    result, width = bulyan(rows, hostile), (high - low) * (1 + 1e-6)
    assert (low - width <= result).all()
    assert (result <= high + width).all()


def test_bulyan_bears_a_single_parameter_that_krum_does_not_see():
    rows = gaussian(11, 5_000, seed=5)
    rows[[0, 1]] = rows[2:].mean(axis=0)
    rows[[0, 1], 17] = 20.0
    assert krum(rows, 2) in (0, 1)
    assert abs(bulyan(rows, 2)[17]) < 4


@given(st.randoms(use_true_random=False), st.integers(0, 1000))
def test_order_of_the_sites_does_not_matter(random, seed):
    rows, order = gaussian(11, 7, seed), list(range(11))
    random.shuffle(order)
    shuffled = rows[order]
    assert order[krum(shuffled, 2)] == krum(rows, 2)
    assert sorted(order[site] for site in multi_krum(shuffled, 2, 5)) == multi_krum(rows, 2, 5)
    assert np.array_equal(bulyan(shuffled, 0), bulyan(rows, 0))


def test_equal_updates_are_chosen_in_the_order_of_the_sites():
    rows = np.tile(gaussian(1, 30_000, seed=1), (7, 1))
    rows[3] += 1
    assert krum(rows, 2) == 0
    assert multi_krum(rows, 2, 3) == [0, 1, 2]
    assert np.array_equal(bulyan(rows, 1), rows[0])


@pytest.mark.parametrize(
    ("rule", "fewest"),
    [
        (partial(krum, hostile=2), 7),
        (partial(multi_krum, hostile=2, chosen=1), 7),
        (partial(multi_krum, hostile=2, chosen=6), 10),
        (partial(bulyan, hostile=2), 11),
    ],
)
def test_too_few_sites_are_refused(rule, fewest):
    rule(gaussian(fewest, 3, seed=0))
    with pytest.raises(ValueError, match=f"needs {fewest} updates: there are {fewest - 1}"):
        rule(gaussian(fewest - 1, 3, seed=0))
