"""Withheld cells cannot be found by adding and subtracting what is published."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.metrics.suppression import withheld_cells, withheld_levels

MINIMUM = 10
LEVELS = ("a", "b", "c", "d", "e")


@st.composite
def sites(draw):
    """Patients of a site by sex, age band and ethnicity, none of which rules out another."""
    shape = (draw(st.integers(2, 3)), draw(st.integers(2, 5)), draw(st.integers(2, 3)))
    size = int(np.prod(shape))
    counts = draw(st.lists(st.integers(0, 12), min_size=size, max_size=size))
    return np.array(counts).reshape(shape)


def attributes_of(joint):
    total = int(joint.sum())
    return total, {
        f"attribute{axis}": {
            LEVELS[k]: int(n)
            for k, n in enumerate(joint.sum(axis=tuple(set(range(joint.ndim)) - {axis})))
        }
        for axis in range(joint.ndim)
    }


@given(sites())
def test_no_withheld_cell_is_a_combination_of_published_ones(joint):
    """The attacker may add and subtract every published cell of all attributes, with any weight."""
    total, attributes = attributes_of(joint)
    withheld = withheld_cells(total, attributes, MINIMUM)
    if "" in withheld:
        assert total < MINIMUM
        return
    # each cell as the set of joint categories it counts; published ones span what can be computed
    indicators = {"": np.ones(joint.size)}
    for axis, attribute in enumerate(attributes):
        for k, level in enumerate(attributes[attribute]):
            chosen = np.zeros(joint.shape)
            chosen[(slice(None),) * axis + (k,)] = 1
            indicators[f"{attribute}={level}"] = chosen.ravel()
    empty = {f"{a}={level}" for a, ns in attributes.items() for level, n in ns.items() if n == 0}
    # what is absent is known to be zero, so the attacker need not tell those categories apart
    known = np.ones(joint.size, bool)
    for name in empty:
        known &= indicators[name] == 0
    published = np.array([v[known] for name, v in indicators.items() if name not in withheld])
    rank = np.linalg.matrix_rank(published)
    for name in withheld:
        assert np.linalg.matrix_rank(np.vstack([published, indicators[name][known]])) == rank + 1


@given(st.dictionaries(st.sampled_from(LEVELS), st.integers(0, 40), min_size=1))
def test_withheld_levels_together_are_never_a_small_group(patients):
    total = sum(patients.values())
    withheld = withheld_levels(patients, MINIMUM)
    small = {level for level, n in patients.items() if 0 < n < MINIMUM}
    assert small <= set(withheld)
    if total < MINIMUM:
        return
    left = total - sum(n for level, n in patients.items() if level not in withheld)
    assert left == 0 or left >= MINIMUM
    assert len(withheld) != 1


@given(st.dictionaries(st.sampled_from(LEVELS), st.integers(1, 12), min_size=2))
def test_sum_of_withheld_levels_leaves_each_of_them_open(patients):
    """Who knows the sum, and that each withheld level has patients, cannot name a number."""
    total = sum(patients.values())
    withheld = withheld_levels(patients, MINIMUM)
    if total < MINIMUM or not withheld:
        return
    left = sum(patients[level] for level in withheld)
    published = len(patients) > len(withheld)
    assert left > len(withheld) or not published
    small = [level for level in withheld if patients[level] < MINIMUM]
    if published and len(small) == len(withheld):
        assert left < len(withheld) * (MINIMUM - 1)


def test_nothing_more_is_withheld_than_needed():
    assert withheld_levels({"female": 30, "male": 40}, MINIMUM) == []
    assert withheld_levels({"female": 30, "male": 40, "unknown": 0}, MINIMUM) == []
    for a, b in itertools.product((4, 5, 8), (6, 7)):
        assert withheld_levels({"a": a, "b": b, "c": 40, "d": 12}, MINIMUM) == ["a", "b"]


def test_guard_is_the_smallest_level_left_and_gives_the_same_reason():
    withheld = withheld_cells(96, {"sex": {"female": 50, "male": 42, "unknown": 4}}, MINIMUM)
    assert set(withheld) == {"sex=male", "sex=unknown"}
    assert len(set(withheld.values())) == 1


def test_small_site_is_withheld_whole():
    assert withheld_cells(9, {"sex": {"female": 9}}, MINIMUM) == {"": "fewer than 10 patients"}


def test_levels_that_do_not_split_the_site_are_refused():
    with pytest.raises(ValueError, match="do not add up"):
        withheld_cells(50, {"sex": {"female": 20, "male": 20}}, MINIMUM)
