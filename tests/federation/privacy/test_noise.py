"""Where noise comes from: nobody's seed at a deployed site, one's own in a simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from federation.privacy.noise import GRID_BITS, OperatingSystem, Seeded, noised

SOURCES = [OperatingSystem(), Seeded(3, "site-a", 1)]


@pytest.mark.parametrize("source", SOURCES)
def test_draws_follow_the_distributions_they_claim(source):
    normal = source.normal(40_000)
    assert normal.dtype == (torch.float32 if source.seeded else torch.float64)
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-4
    uniform = source.uniform(40_000).numpy()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4


def test_a_seed_does_not_reach_the_operating_system_s_draws():
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        draws.append(OperatingSystem().normal(8))
    assert not torch.equal(*draws)


def test_seeded_draws_repeat_for_the_same_purpose_alone():
    first = Seeded(3, "site-a", 1).normal(8)
    assert torch.equal(first, Seeded(3, "site-a", 1).normal(8))
    for other in (Seeded(3, "site-b", 1), Seeded(3, "site-a", 2), Seeded(4, "site-a", 1)):
        assert not torch.equal(first, other.normal(8))
    assert Seeded(1).seeded and not OperatingSystem().seeded


@pytest.mark.parametrize("deviation", [0.013, 1.0, 700.0])
def test_a_noised_sum_has_the_noise_asked_for_and_betrays_no_bits_below_its_grid(deviation):
    total = torch.linspace(-3, 3, 50_000) * 1.2345
    found = noised(total, deviation, OperatingSystem())
    spread = (found - total.double()).numpy() / deviation
    assert stats.kstest(spread, "norm").pvalue > 1e-4
    grid = 2.0 ** (math.floor(math.log2(deviation)) - GRID_BITS)
    assert deviation / 2 ** (GRID_BITS + 1) < grid <= deviation / 2**GRID_BITS
    assert torch.equal(torch.round(found / grid) * grid, found)


def test_noise_of_a_sum_survives_the_way_to_float32():
    """What leaves is float32: the grid must not be finer than that resolves."""
    found = noised(torch.full((1000,), 40.0), 1.0, OperatingSystem())
    assert torch.equal(found.float().double(), found)
