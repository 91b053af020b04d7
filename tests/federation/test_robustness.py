"""How many sites the robust rules ask for."""

from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from federation.robustness import Rule, fewest_sites, trimmed_at_each_end


@pytest.mark.parametrize("rule", get_args(Rule))
@given(hostile=st.integers(0, 50), chosen=st.integers(1, 50))
def test_hostile_sites_are_always_fewer_than_half(rule, hostile, chosen):
    needed = fewest_sites(rule, hostile, chosen)
    assert needed > 2 * hostile
    assert needed < fewest_sites(rule, hostile + 1, chosen) or rule == "multi_krum"


@given(hostile=st.integers(0, 50), chosen=st.integers(1, 50))
def test_multi_krum_never_has_to_choose_a_hostile_site(hostile, chosen):
    honest = fewest_sites("multi_krum", hostile, chosen) - hostile
    assert chosen <= honest - 2


@pytest.mark.parametrize(("hostile", "chosen"), [(-1, 1), (0, 0)])
def test_numbers_that_mean_nothing_are_refused(hostile, chosen):
    with pytest.raises(ValueError, match="at least"):
        fewest_sites("multi_krum", hostile, chosen)


@given(places=st.integers(0, 499), sites=st.integers(1, 1000))
@example(places=290, sites=100)
def test_a_fraction_written_in_full_is_not_lost_to_rounding(places, sites):
    assert trimmed_at_each_end(places / 1000, sites) == places * sites // 1000


@given(fraction=st.floats(0, 0.5, exclude_max=True), sites=st.integers(1, 1000))
def test_trimming_leaves_at_least_one_value(fraction, sites):
    assert sites - 2 * trimmed_at_each_end(fraction, sites) >= 1


@pytest.mark.parametrize(("fraction", "sites"), [(0.5, 10), (-0.1, 10), (float("nan"), 10), (0, 0)])
def test_trimming_nonsense_is_refused(fraction, sites):
    with pytest.raises(ValueError, match=r"fraction|at least one site"):
        trimmed_at_each_end(fraction, sites)
