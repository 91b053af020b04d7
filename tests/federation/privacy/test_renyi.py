"""The divergence of one step is that of two libraries, where they are right."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from federation.privacy.renyi import ORDERS, from_epsilon, step_curve, step_rdp, to_epsilon

RATES = [0.001, 0.05, 0.5, 0.99]


def pairs(*sides):
    return list(itertools.product(*sides))


@pytest.mark.parametrize(("rate", "noise"), pairs(RATES, [0.3, 1.0, 5.0]))
def test_divergence_equals_opacus_at_fractional_orders(rate, noise):
    for order in (1.1, 1.7, 2.5, 5.7, 17.3):
        opacus = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=order)
        assert step_rdp(rate, noise, order) == pytest.approx(opacus, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(("rate", "noise"), pairs([*RATES, 1.0], [0.3, 1.0, 50.0]))
def test_divergence_equals_dp_accounting_at_whole_orders(rate, noise):
    orders = [2, 3, 8, 40, 200, 700]
    library = RdpAccountant(orders)
    library.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)))
    own = [step_rdp(rate, noise, float(order)) for order in orders]
    assert own == pytest.approx(list(library.rdp), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("noise", [100.0, 1000.0, 1e4])
def test_divergence_holds_where_the_series_of_opacus_turns_negative(noise):
    assert compute_rdp(q=0.5, noise_multiplier=noise, steps=1, orders=63.7) < 0
    # with so much noise, sampling half the patients is as good as half the sensitivity
    assert step_rdp(0.5, noise, 63.7) == pytest.approx(63.7 * 0.5**2 / (2 * noise**2), rel=0.01)


@pytest.mark.parametrize(("rate", "noise"), pairs([*RATES, 1.0], [1e-3, 0.02, 0.3, 3.0, 1e3]))
def test_divergence_never_falls_with_the_order_nor_exceeds_that_without_sampling(rate, noise):
    curve = step_curve(rate, noise)
    assert (np.diff(curve) >= -1e-12).all()
    assert (curve <= np.array(ORDERS) / (2 * noise**2) * (1 + 1e-9) + 1e-12).all()


def test_noise_too_small_for_a_float_gives_an_infinite_divergence():
    assert math.isinf(step_rdp(0.5, 1e-200, 2.0))
    assert math.isinf(step_rdp(1.0, 1e-200, 2.0))


def test_conversion_between_divergence_and_epsilon_is_its_own_inverse():
    for order in (1.003, 3.3, 900.0):
        assert to_epsilon(from_epsilon(2.0, 1e-6, order), 1e-6, order) == pytest.approx(2.0)
