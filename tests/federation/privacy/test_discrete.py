"""The discrete Gaussian is drawn as defined, and costs what its exact formula says."""

import math
import random

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.stats import chisquare

from federation.privacy.accounting import Segment, calibrated_noise, epsilon, epsilons
from federation.privacy.discrete import discrete_gaussian
from federation.privacy.filter import RdpFilter
from federation.privacy.noise import OperatingSystem, Seeded

DELTA = 1e-5


def probabilities(scale, reach=60):
    k = np.arange(-reach, reach + 1)
    p = np.exp(-(k**2) / (2 * scale**2))
    return k, p / p.sum()


@pytest.mark.parametrize("scale", [0.7, 3.2])
def test_draws_have_the_probabilities_of_the_definition(scale):
    drawn = discrete_gaussian(4000, scale, random.Random(5).randrange)
    k, p = probabilities(scale)
    common = 4000 * p > 5
    seen = np.array([(drawn == value).sum() for value in k])
    seen, expected = (np.append(part[common], part[~common].sum()) for part in (seen, 4000 * p))
    assert chisquare(seen, expected).pvalue > 0.001


def test_deployed_draws_differ_and_seeded_ones_repeat():
    system = [discrete_gaussian(200, 50.0, OperatingSystem().below).tolist() for _ in range(2)]
    assert system[0] != system[1]
    again = [discrete_gaussian(200, 50.0, Seeded(3, "a").below).tolist() for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] != discrete_gaussian(200, 50.0, Seeded(3, "b").below).tolist()


def exact_epsilon(scale, counts):
    """From the definition: of so many numbers only the sum matters to the privacy loss."""
    k, one = probabilities(scale, reach=int(14 * scale) + 5)
    total = one
    for _ in range(counts - 1):
        total = np.convolve(total, one)
    sums = np.arange(len(total)) + counts * k[0]
    loss = (2 * sums + counts) / (2 * scale**2)  # of noise k against noise k + 1, added up

    def excess(eps):
        return (total * np.maximum(-np.expm1(eps - loss), 0)).sum() - DELTA

    return brentq(excess, 0, 500)


@pytest.mark.parametrize(("scale", "counts"), [(1.0, 1), (4.0, 3), (6.465, 12)])
def test_epsilon_is_that_of_the_exact_formula(scale, counts):
    found = epsilon([Segment(1.0, scale, counts, "discrete")], DELTA)
    exact = exact_epsilon(scale, counts)
    assert exact <= found + 1e-9
    assert found == pytest.approx(exact, rel=0.01)


def test_rdp_is_the_bound_of_the_gaussian_and_prv_is_not_attempted():
    accountant = RdpAccountant()
    accountant.compose(dp_event.GaussianDpEvent(4.0 / math.sqrt(3)))
    figures = epsilons([Segment(1.0, 4.0, 3, "discrete")], DELTA)
    assert figures["rdp"] == pytest.approx(accountant.get_epsilon(DELTA), rel=0.01)
    assert figures["prv"] is None


def test_evaluation_and_training_compose_to_more_than_either_and_less_than_their_sum():
    training, evaluation = Segment(0.1, 1.2, 100), Segment(1.0, 6.0, 8, "discrete")
    apart = [epsilon([one], DELTA) for one in (training, evaluation)]
    both = epsilon([training, evaluation], DELTA)
    assert max(apart) < both < sum(apart)
    cap = RdpFilter(8.0, DELTA)
    assert cap.rdp([training, evaluation]) == pytest.approx(
        cap.rdp([training]) + 8 * cap.order / (2 * 36)
    )


def test_noise_is_calibrated_to_the_discrete_mechanism():
    scale = calibrated_noise(1.0, DELTA, 1.0, 6, "pld", "discrete")
    assert epsilon([Segment(1.0, scale, 6, "discrete")], DELTA) <= 1.0
    assert epsilon([Segment(1.0, scale * 0.999, 6, "discrete")], DELTA) > 1.0


def test_discrete_noise_knows_no_sampling():
    with pytest.raises(ValueError, match="everybody"):
        Segment(0.5, 1.0, 1, "discrete")
