"""Sampling and the noised mean: who takes part in a step, and what a step hands on."""

import numpy as np
import pytest
import torch

from federation.privacy.accounting import Segment
from federation.privacy.engine import poisson_sample, private_mean
from federation.privacy.noise import Seeded


class Silent:
    """Randomness without noise: what is left is the clipped sum."""

    seeded = True

    def uniform(self, size):
        return torch.zeros(size, dtype=torch.float64)

    def normal(self, size):
        return torch.zeros(size, dtype=torch.float64)


class Counting:
    """Adds one for each patient, as if each had the gradient (1, 1)."""

    def __init__(self, gradient):
        self.gradient = gradient

    def add(self, values, present, labels):
        self.gradient += len(labels)


def batches(*sizes):
    return [({}, {}, torch.zeros(size)) for size in sizes]


def mean_of(*sizes, randomness=None, noise=1.0):
    gradient = torch.full((2,), 99.0)
    private_mean(
        Counting(gradient), gradient, batches(*sizes), Segment(0.1, noise, 1), 1.0, 200,
        randomness or Silent(),
    )  # fmt: skip
    return gradient


def test_each_patient_is_sampled_by_itself_at_the_rate():
    rows, source = torch.arange(1000), Seeded(1)
    sizes = [len(poisson_sample(rows, 0.03, source)) for _ in range(400)]
    assert np.mean(sizes) == pytest.approx(30, abs=1.0)
    # binomial, not a fixed size
    assert np.var(sizes) == pytest.approx(1000 * 0.03 * 0.97, rel=0.25)


def test_at_rate_one_everybody_is_in_every_step():
    rows = torch.arange(50)
    assert torch.equal(poisson_sample(rows, 1.0, Seeded(1)), rows)


def test_the_sum_is_divided_by_the_expected_size_whoever_was_drawn():
    assert mean_of(10).tolist() == [0.5, 0.5]  # 10 drawn of 20 expected
    assert mean_of(40).tolist() == [2.0, 2.0]


def test_physical_batches_do_not_change_the_step():
    assert torch.equal(mean_of(10, 10, 3), mean_of(23))


def test_a_step_that_drew_nobody_is_noise_alone():
    empty = mean_of(0, randomness=Seeded(7), noise=3.0)
    nothing = mean_of(randomness=Seeded(7), noise=3.0)
    assert torch.equal(empty, nothing)
    assert (empty != 0).all()


def test_noise_is_that_of_the_multiplier_times_the_clipping_norm():
    gradient = torch.zeros(50_000)
    segment = Segment(0.1, 2.0, 1)
    private_mean(Counting(gradient), gradient, [], segment, 5.0, 10, Seeded(1))
    assert float(gradient.std()) == pytest.approx(2.0 * 5.0 / (0.1 * 10), rel=0.02)
