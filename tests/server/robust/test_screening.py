"""Which updates are screened out, and for which reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from updates_of_rounds import gaussian, updates

from server.robust import ASTRAY, FAR, screened


@given(updates(), st.floats(1, 5), st.floats(-1, 1))
def test_each_site_is_judged_by_its_norm_and_its_cosine(rows, ratio, least):
    exact = rows.astype(np.float64)
    lengths, middle = np.linalg.norm(exact, axis=1), np.median(exact, axis=0)
    found = screened(rows, largest_norm_ratio=ratio, least_cosine=least)
    assert list(found) == sorted(found)
    for site, (row, length) in enumerate(zip(exact, lengths, strict=True)):
        limit = ratio * np.median(lengths) or np.inf
        if length > limit * (1 + 1e-9):
            assert found[site] == FAR
        elif length < limit * (1 - 1e-9) and row.any() and middle.any():
            angle = 1 - cosine(row, middle)
            if abs(angle - least) > 1e-5:
                assert (found.get(site) == ASTRAY) == (angle < least)


def test_scaled_and_flipped_updates_are_left_out_and_honest_ones_stay():
    rows = 1 + gaussian(10, 500, seed=2) / 2
    rows[3] *= 10
    rows[8] *= -1
    assert screened(rows, largest_norm_ratio=3.0, least_cosine=0.0) == {3: FAR, 8: ASTRAY}
    assert screened(rows, largest_norm_ratio=3.0, least_cosine=None) == {3: FAR}
    assert screened(rows, largest_norm_ratio=None, least_cosine=0.0) == {8: ASTRAY}
    assert screened(rows, largest_norm_ratio=None, least_cosine=None) == {}


def test_a_site_that_did_not_move_stays():
    rows = np.array([[0, 0], [1, 1], [1, 2]], np.float32)
    assert screened(rows, largest_norm_ratio=2.0, least_cosine=0.9) == {}


def test_nobody_is_far_or_astray_where_most_did_not_move():
    rows = np.array([[0, 0], [0, 0], [-1, 2]], np.float32)
    assert screened(rows, largest_norm_ratio=2.0, least_cosine=0.9) == {}


@pytest.mark.parametrize(
    ("ratio", "least", "sites"),
    [(0.5, None, 3), (None, 1.5, 3), (float("nan"), None, 3), (2.0, 0.0, 0)],
)
def test_limits_out_of_range_are_refused(ratio, least, sites):
    with pytest.raises(ValueError, match=r"must be|no update"):
        screened(gaussian(sites, 2, seed=0), largest_norm_ratio=ratio, least_cosine=least)
