"""Arrival over rounds: who has come by when."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.arrival import ArrivalSection, arrived, places

ORDERS = st.lists(st.integers(0, 30), min_size=1, max_size=60).map(np.array)
SECTIONS = st.builds(
    ArrivalSection, kind=st.sampled_from(["growing", "window"]), fraction=st.floats(0.05, 1.0)
)


@given(ORDERS, st.integers(1, 8))
def test_all_have_always_arrived(order, rounds):
    assert all(
        arrived(places(order), r, rounds, ArrivalSection()).all() for r in range(1, rounds + 1)
    )


@given(ORDERS, st.integers(1, 8), st.floats(0.05, 1.0))
def test_growing_loses_nobody_and_ends_with_everybody(order, rounds, fraction):
    section = ArrivalSection(kind="growing", fraction=fraction)
    by_round = [arrived(places(order), r, rounds, section) for r in range(1, rounds + 1)]
    assert all((later >= earlier).all() for earlier, later in pairwise(by_round))
    assert by_round[-1].all()


@given(ORDERS, st.integers(1, 8), SECTIONS)
def test_patients_of_one_time_arrive_together_and_none_before_an_earlier_one(
    order, rounds, section
):
    for number in range(1, rounds + 1):
        here = arrived(places(order), number, rounds, section)
        for time in np.unique(order):
            assert len(set(here[order == time])) == 1
        if section.kind == "growing" and here.any():
            assert here[order <= order[here].max()].all()


@pytest.mark.parametrize(("rounds", "fraction"), [(5, 0.2), (9, 0.4), (2, 0.5)])
def test_window_moves_from_the_earliest_to_the_latest_at_its_width(rounds, fraction):
    order = np.random.default_rng(0).permutation(1000)
    section = ArrivalSection(kind="window", fraction=fraction)
    starts = []
    for number in range(1, rounds + 1):
        here = np.sort(order[arrived(places(order), number, rounds, section)])
        assert len(here) == pytest.approx(1000 * fraction, abs=1)
        assert (np.diff(here) == 1).all()
        starts.append(here[0])
    expected = np.linspace(0, 1000 * (1 - fraction), rounds)
    assert starts == pytest.approx(expected, abs=1)


def test_times_and_ranks_say_the_same():
    times = np.array(["2024-05-01", "2023-01-01", "2024-02-02", "2022-07-07"], "datetime64[us]")
    section = ArrivalSection(kind="growing", fraction=0.3)
    for number in (1, 2, 3):
        by_time = arrived(places(times), number, 3, section)
        assert (by_time == arrived(places(times.argsort().argsort()), number, 3, section)).all()


def test_study_of_one_round_is_at_its_end():
    order = np.arange(10)
    growing = arrived(places(order), 1, 1, ArrivalSection(kind="growing", fraction=0.2))
    window = arrived(places(order), 1, 1, ArrivalSection(kind="window", fraction=0.2))
    assert growing.all()
    assert np.flatnonzero(window).tolist() == [8, 9]


def test_round_outside_the_study_is_an_error():
    for number in (0, 4):
        with pytest.raises(ValueError, match="between 1 and 3"):
            arrived(places(np.arange(3)), number, 3, ArrivalSection())
