"""A cap holds under any sequence that the filter admits, and is used up where it can be."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

from federation.privacy.accounting import Segment, epsilon
from federation.privacy.calibration import smallest_noise
from federation.privacy.filter import RdpFilter

CAP = RdpFilter(4.0, 1e-5)

segments = st.builds(
    Segment,
    sampling_rate=st.sampled_from([0.02, 0.1, 0.4, 1.0]),
    noise_multiplier=st.sampled_from([0.9, 2.0, 6.0, 20.0]),
    steps=st.integers(1, 100),
)
filters = st.builds(RdpFilter, st.floats(0.2, 20), st.sampled_from([1e-7, 1e-5, 1e-3]))
few = settings(max_examples=15, deadline=None)


@few
@given(filters, st.lists(segments, min_size=3, max_size=12))
def test_what_is_admitted_never_costs_more_than_the_cap(cap, wanted):
    spent = []
    for more in wanted:
        if cap.admits(spent, more):
            spent.append(more)
    assert cap.epsilon_spent(spent) <= cap.epsilon * (1 + 1e-12)
    assert epsilon(spent, cap.delta) <= cap.epsilon
    # the orders of "rdp" do not include the filter's, and miss the best by as much as this
    assert epsilon(spent, cap.delta, "rdp") <= cap.epsilon * 1.002


@pytest.mark.parametrize("cap", [RdpFilter(0.5, 1e-5), CAP, RdpFilter(8.0, 1e-6)])
def test_epsilon_spent_is_that_of_opacus_at_the_filters_order(cap):
    spent = [Segment(0.02, 0.9, 30), Segment(0.1, 3.0, 100), Segment(1.0, 20.0, 40)]
    opacus = sum(
        compute_rdp(
            q=s.sampling_rate, noise_multiplier=s.noise_multiplier, steps=s.steps, orders=cap.order
        )
        for s in spent
    )
    with pytest.warns(UserWarning, match="Optimal order"):
        converted, _ = get_privacy_spent(orders=cap.order, rdp=opacus, delta=cap.delta)
    assert cap.rdp(spent) == pytest.approx(opacus, rel=1e-6)
    assert cap.epsilon_spent(spent) == pytest.approx(converted, rel=1e-6)


def test_filter_admits_exactly_up_to_its_budget():
    one = CAP.rdp([Segment(0.1, 2.0, 1)])
    most = math.floor(CAP.budget / one)
    spent = [Segment(0.1, 2.0, most - 10)]
    assert CAP.admits(spent, Segment(0.1, 2.0, 10))
    assert not CAP.admits(spent, Segment(0.1, 2.0, 11))
    assert CAP.epsilon_spent([Segment(0.1, 2.0, most)]) <= 4.0
    assert CAP.epsilon_spent([Segment(0.1, 2.0, most + 1)]) > 4.0


def test_order_depends_on_the_cap_alone_and_falls_as_the_cap_grows():
    orders = [RdpFilter(cap, 1e-5).order for cap in (1.0, 4.0, 8.0)]
    assert orders == pytest.approx([17.5, 5.4, 3.3], abs=0.1)
    assert all(RdpFilter(cap, 1e-5).budget > 0 for cap in (1e-4, 1.0, 1e4))


@pytest.mark.parametrize("cap", [0.5, 2.0, 8.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.05, 200), (0.1, 60), (0.32, 20), (1.0, 2000)])
def test_one_order_wastes_little_of_the_cap(cap, rate, steps):
    noise = RdpFilter(cap, 1e-5).calibrated_noise([], rate, steps)
    assert epsilon([Segment(rate, noise, steps)], 1e-5, "rdp") >= cap / 1.03


@few
@given(filters, st.lists(segments, max_size=3), st.sampled_from([0.03, 0.3, 1.0]))
def test_calibrated_noise_is_the_least_that_is_admitted(cap, wanted, rate):
    spent = [s for i, s in enumerate(wanted) if cap.rdp(wanted[: i + 1]) < 0.9 * cap.budget]
    noise = cap.calibrated_noise(spent, rate, 50)
    assert noise is not None
    assert float(f"{noise:.4g}") == noise
    assert cap.admits(spent, Segment(rate, noise, 50))
    assert not cap.admits(spent, Segment(rate, noise * 0.99, 50))


def test_nothing_left_leaves_no_noise():
    noise = CAP.calibrated_noise([], 0.2, 100)
    spent = [Segment(0.2, noise, 100)]
    assert CAP.calibrated_noise([*spent, *spent], 0.2, 1) is None
    assert not CAP.admits([*spent, *spent], Segment(0.001, 1e4, 1))
    # a sliver that even the largest noise would overspend
    assert RdpFilter(1e-4, 1e-5).calibrated_noise([], 1.0, 10_000_000) is None


def test_nothing_spent_costs_nothing():
    assert CAP.epsilon_spent([]) == 0.0
    assert CAP.rdp([]) == 0.0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, True])
def test_caps_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="epsilon"):
        RdpFilter(bad, 1e-5)
    with pytest.raises(ValueError, match="delta"):
        RdpFilter(1.0, bad)


@given(st.floats(0.02, 9000), st.floats(0.3, 4), st.floats(0.01, 1e4), st.floats(0.01, 1e4))
def test_smallest_noise_is_found_from_any_guess(true, power, low, high):
    noise = smallest_noise(lambda s: (true / s) ** power, *sorted((low, high)))
    assert true * (1 - 1e-9) <= noise <= true * 1.00101


def test_smallest_noise_copes_with_a_step_and_with_infinity():
    assert smallest_noise(lambda s: 0.0 if s >= 3.21 else math.inf) == 3.21
    assert smallest_noise(lambda s: 0.0) == 0.01
    assert smallest_noise(lambda s: math.inf) is None
