"""Outcomes that are known of different patients do not tell of the few in whom they differ."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from federation.metrics.suppression import apart_enough, withheld_cells, withheld_outcomes

ATTRIBUTES = {"sex": 2, "age_band": 4}


@st.composite
def splits(draw):
    """Who has which of three outcomes, the first of them everybody; and the smallest cell."""
    count, minimum = draw(st.integers(2, 90)), draw(st.integers(1, 10))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    known = rng.random((count, 3)) >= draw(st.floats(0, 0.9))
    known[:, 0] = True
    if draw(st.booleans()):  # nearly the same patients
        known[:, 2] = known[:, 1]
        known[rng.integers(0, count, 3), 2] = False
    return known, minimum, rng


def few(group, minimum):
    return 0 < int(group.sum()) < minimum


@settings(max_examples=200)
@given(splits())
def test_no_two_outcomes_differ_in_a_few_patients(split):
    known, minimum, rng = split
    assume(len(known) >= minimum)  # fewer are withheld whole
    told = apart_enough(known, rng.permutation(len(known)), minimum)
    assert not (told & ~known).any()
    assert told[:, 0].all()
    for first, second in permutations(told.T, 2):
        assert not few(first & ~second, minimum)


def test_patients_who_lack_another_outcome_are_left_out_first():
    known = np.ones((40, 3), bool)
    known[:4, 1] = known[4:10, 2] = False
    told = apart_enough(known, np.arange(40), 10)
    assert (~told).sum(axis=0).tolist() == [0, 10, 10]
    assert (told[:, 1] == told[:, 2]).all()


def test_split_of_fewer_than_the_smallest_cell_ends_too():
    known = np.array([[True, False], [True, True]])
    assert not apart_enough(known, np.arange(2), 10)[:, 1].any()


def test_enough_that_differ_stay_as_they_are():
    known = np.ones((60, 2), bool)
    known[:12, 0] = known[20:35, 1] = False
    assert (apart_enough(known, np.arange(60), 10) == known).all()


@settings(max_examples=200)
@given(splits())
def test_nothing_told_of_outcomes_isolates_a_few_patients(split):
    """Try the differences of what is published of all patients and of each two outcomes."""
    known, minimum, rng = split
    count = len(known)
    levels = {name: rng.integers(0, many, count) for name, many in ATTRIBUTES.items()}
    members = {"": np.ones(count, bool)} | {
        f"{name}={k}": levels[name] == k for name, many in ATTRIBUTES.items() for k in range(many)
    }
    sizes = {
        name: {str(k): int((levels[name] == k).sum()) for k in range(many)}
        for name, many in ATTRIBUTES.items()
    }
    cells = withheld_cells(count, sizes, minimum)
    assume("" not in cells)
    by_name = dict(zip(("whole", "some", "others"), known.T, strict=True))
    held = withheld_outcomes(by_name, members, cells, minimum)
    assert "whole" not in {one for reasons in held.values() for one in reasons}
    everybody = np.ones(count, bool)
    told = {
        cell: [has for name, has in by_name.items() if name not in held.get(cell, {})]
        for cell in members
        if cell not in cells
    }
    for cell, published in told.items():
        inside = members[cell]
        for has in published:
            assert not few(has & inside, minimum)
        for first, second in permutations([everybody, *published], 2):
            assert not few(first & ~second & inside, minimum)
    for name, many in ATTRIBUTES.items():
        parts = [f"{name}={k}" for k in range(many)]
        hidden = np.isin(levels[name], [k for k in range(many) if parts[k] in cells])
        for outcome, has in by_name.items():
            withheld = {outcome in held.get(part, {}) for part in parts}
            assert len(withheld) == 1  # all levels of an attribute, or none
            if withheld == {False}:
                assert has[hidden].all()


@pytest.mark.parametrize("minimum", [2, 10])
def test_outcome_of_a_few_is_withheld_of_the_site(minimum):
    known = {"whole": np.ones(40, bool), "rare": np.arange(40) < minimum - 1}
    held = withheld_outcomes(known, {"": np.ones(40, bool)}, {}, minimum)
    assert held == {"": {"rare": f"withheld to protect fewer than {minimum} patients"}}
