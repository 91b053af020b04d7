"""Epsilon agrees with exact formulas and with the accountants of dp-accounting and Opacus."""

import math
import tracemalloc

import pytest
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from federation.privacy.accounting import (
    Segment,
    calibrated_noise,
    composed,
    epsilon,
    epsilons,
    tightest,
)

DELTA = 1e-5
MIXED = [Segment(0.05, 1.2, 300), Segment(0.2, 3.0, 80), Segment(1.0, 12.0, 10)]

segments = st.builds(
    Segment,
    sampling_rate=st.sampled_from([0.02, 0.1, 0.4, 1.0]),
    noise_multiplier=st.sampled_from([0.8, 1.5, 4.0, 20.0]),
    steps=st.integers(1, 300),
)
few = settings(max_examples=12, deadline=None)


def solve(delta_of, delta=DELTA):
    return brentq(lambda eps: delta_of(eps) - delta, 0, 600) if delta_of(0) > delta else 0.0


def exact_gaussian(noise):
    """Analytic Gaussian mechanism: Balle, Wang, ICML 2018."""
    return solve(
        lambda eps: (
            norm.cdf(1 / (2 * noise) - eps * noise)
            - math.exp(eps + norm.logcdf(-1 / (2 * noise) - eps * noise))
        )
    )


def exact_step(rate, noise):
    """One sampled step, both directions: normal tails beyond where the ratio passes e^eps."""

    def tails(ratio):
        z = 0.5 + noise**2 * math.log((ratio - 1 + rate) / rate)
        return z, rate * norm.sf((z - 1) / noise) + (1 - rate) * norm.sf(z / noise)

    def removed(eps):
        z, sampled = tails(math.exp(eps))
        return sampled - math.exp(eps) * norm.sf(z / noise)

    def added(eps):
        if math.exp(-eps) <= 1 - rate:
            return 0.0
        z, sampled = tails(math.exp(-eps))
        return norm.cdf(z / noise) - math.exp(eps) * (1 - sampled)

    return max(solve(removed), solve(added))


def event(segment):
    gaussian = dp_event.GaussianDpEvent(segment.noise_multiplier)
    return dp_event.PoissonSampledDpEvent(segment.sampling_rate, gaussian)


@pytest.mark.parametrize(
    ("noise", "steps"), [(0.5, 1), (1.0, 1), (1.0, 50), (30.0, 1), (30.0, 500), (400.0, 2000)]
)
def test_epsilon_without_sampling_is_just_above_the_exact_one_of_the_gaussian(noise, steps):
    exact = exact_gaussian(noise / math.sqrt(steps))
    assert exact <= epsilon([Segment(1.0, noise, steps)], DELTA) <= exact * 1.005
    assert epsilon([Segment(1.0, noise, steps)], DELTA, "rdp") >= exact


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("noise", [0.4, 1.0, 3.0])
def test_epsilon_of_one_sampled_step_is_just_above_the_exact_one(rate, noise):
    exact = exact_step(rate, noise)
    assert exact <= epsilon([Segment(rate, noise, 1)], DELTA) <= exact * 1.005
    assert epsilon([Segment(rate, noise, 1)], DELTA, "rdp") >= exact


@pytest.mark.parametrize(
    ("segment", "rdp", "prv", "pld"),
    [
        (Segment(0.01, 1.0, 1000), 2.10, 1.838, 1.829),
        (Segment(0.05, 1.0, 5000), 31.5, 29.45, 29.44),
    ],
)
def test_epsilons_are_the_known_ones_and_not_the_lower_one_of_gaussian_dp(segment, rdp, prv, pld):
    figures = epsilons([segment], DELTA)
    assert list(figures) == ["pld", "rdp", "prv"]
    assert figures == pytest.approx({"pld": pld, "rdp": rdp, "prv": prv}, rel=1e-3)


def test_mixed_segments_cost_what_dp_accounting_says():
    library = PLDAccountant(value_discretization_interval=1e-3)
    for segment in MIXED:
        library.compose(event(segment), segment.steps)
    assert epsilon(MIXED, DELTA) == pytest.approx(library.get_epsilon(DELTA), rel=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("oracle", [RDPAccountant, PRVAccountant])
def test_mixed_segments_cost_what_opacus_says(oracle):
    library = oracle()
    library.history = [(s.noise_multiplier, s.sampling_rate, s.steps) for s in MIXED]
    own = epsilon(MIXED, DELTA, library.mechanism())
    assert own == pytest.approx(library.get_epsilon(delta=DELTA), rel=2e-3)


def test_prv_is_none_where_it_would_take_minutes_and_the_others_remain():
    figures = epsilons([Segment(0.5, 1.0, 5000)], DELTA)
    assert figures["prv"] is None
    assert figures["pld"] == pytest.approx(871, rel=1e-3)
    assert figures["rdp"] == pytest.approx(891.5, rel=1e-3)


@pytest.mark.parametrize(
    "spent",
    [
        [Segment(0.5, 0.3, 10_000)],
        [Segment(1e-4, 0.3, 1)],
        [Segment(0.01, 1e4, 100_000_000)],
        [Segment(0.5, 0.01, 1_000_000), Segment(0.01, 1e4, 1)],
    ],
)
def test_extreme_schedules_are_bounded_within_little_memory(spent):
    tracemalloc.start()
    name, value = tightest(spent, DELTA)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 <= value < math.inf
    assert value == epsilon(spent, DELTA) == min(epsilon(spent, DELTA, "rdp"), value)
    assert name in {"pld", "rdp"}
    assert peak < 100e6


def test_nothing_spent_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], DELTA) == 0.0
    assert epsilons([], DELTA) == {"pld": 0.0, "rdp": 0.0, "prv": 0.0}
    assert math.isinf(epsilon([Segment(0.5, 1e-200, 1)], DELTA))


@few
@given(segments, segments, st.sampled_from(["pld", "rdp"]))
def test_more_steps_less_noise_or_a_larger_rate_never_cost_less(first, second, accountant):
    least = Segment(
        min(first.sampling_rate, second.sampling_rate),
        max(first.noise_multiplier, second.noise_multiplier),
        min(first.steps, second.steps),
    )
    costs = [epsilon([segment], DELTA, accountant) for segment in (least, first, second)]
    assert costs[0] <= min(costs[1:]) * 1.0005
    assert epsilon([first, second], DELTA, accountant) >= max(costs) / 1.0005


@few
@given(st.lists(segments, max_size=4), st.randoms(use_true_random=False))
def test_cost_depends_neither_on_order_nor_on_how_steps_are_cut(spent, random):
    shuffled = [
        part
        for s in spent
        for part in (
            [Segment(s.sampling_rate, s.noise_multiplier, n) for n in (1, s.steps - 1)]
            if s.steps > 1
            else [s]
        )
    ]
    random.shuffle(shuffled)
    assert composed(shuffled) == composed(spent)
    assert epsilon(shuffled, DELTA) == epsilon(spent, DELTA)


@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(8.0, 0.05, 200), (1.0, 0.3, 100), (3.0, 1.0, 40)]
)
def test_calibrated_noise_is_the_least_that_meets_its_target(accountant, target, rate, steps):
    noise = calibrated_noise(target, DELTA, rate, steps, accountant)
    assert float(f"{noise:.4g}") == noise
    assert epsilon([Segment(rate, noise, steps)], DELTA, accountant) <= target
    assert epsilon([Segment(rate, noise * 0.99, steps)], DELTA, accountant) > target
    last_digit = 10.0 ** (math.floor(math.log10(noise)) - 3)
    assert epsilon([Segment(rate, noise - last_digit, steps)], DELTA, accountant) > target


@few
@given(
    st.floats(0.1, 50), st.sampled_from([0.01, 0.2, 1.0]), st.integers(1, 3000), st.floats(-8, -2)
)
def test_rdp_noise_is_calibrated_over_the_whole_range(target, rate, steps, exponent):
    noise = calibrated_noise(target, 10**exponent, rate, steps, "rdp")
    assert epsilon([Segment(rate, noise, steps)], 10**exponent, "rdp") <= target
    assert epsilon([Segment(rate, noise * 0.998, steps)], 10**exponent, "rdp") > target


def test_noise_beyond_the_largest_is_refused_and_the_smallest_is_enough_for_a_huge_target():
    with pytest.raises(ValueError, match=r"needs noise above 10000. Allow a larger"):
        calibrated_noise(1e-3, 1e-10, 1.0, 100_000)
    assert calibrated_noise(1e7, DELTA, 1.0, 1) == 0.01


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan, True, "0.5", None])
def test_sampling_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match="sampling_rate"):
        Segment(rate, 1.0, 1)


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan, True])
def test_noise_out_of_range_is_refused(noise):
    with pytest.raises(ValueError, match="noise_multiplier"):
        Segment(0.5, noise, 1)


@pytest.mark.parametrize("steps", [0, -1, 1.5, math.nan, True])
def test_steps_that_are_no_whole_number_are_refused(steps):
    with pytest.raises(ValueError, match="steps"):
        Segment(0.5, 1.0, steps)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, True])
def test_targets_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="epsilon"):
        calibrated_noise(bad, DELTA, 0.1, 10)
    with pytest.raises(ValueError, match="delta"):
        epsilon([], bad)
    with pytest.raises(ValueError, match="delta"):
        calibrated_noise(1.0, bad, 0.1, 10)


def test_unknown_accountant_is_refused():
    with pytest.raises(ValueError, match="accountant must be one of pld, rdp, prv"):
        epsilon([Segment(0.1, 1.0, 1)], DELTA, "gdp")
    with pytest.raises(ValueError, match="accountant must be one of pld, rdp, prv"):
        calibrated_noise(1.0, DELTA, 0.1, 10, "gdp")
