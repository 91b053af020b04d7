"""Central privacy: clipping, noise on the sum, and what adapting the norm costs."""

import math

import numpy as np
import pytest

from federation.bodies import TrainBody
from federation.collect import UpdateSum
from federation.messages import Reply
from federation.privacy.accounting import Segment, epsilon
from federation.reduce import Part, WeightedSum, clipped
from server.central import COUNT_SHARE, CentralPrivacy

SIZE = 4000
PARTS = (Part("ehr", 0, SIZE // 2), Part("fusion", SIZE // 2, SIZE))


@pytest.fixture
def study(make_study):
    def study(**privacy):
        terms = {"mechanism": "central", "epsilon": 4.0, **privacy}
        return make_study(privacy=terms, strategy={"weighting": "uniform"}, training={"rounds": 8})

    return study


def reply(update, patients=50):
    body = TrainBody(loss=0.5, steps=1, patients={"ehr": patients, "fusion": patients})
    return Reply("ok", body, update=update.astype(np.float32))


def collected(study, updates, clip):
    total = UpdateSum(PARTS, study.strategy, clip=clip)
    for update in updates:
        assert total.take(reply(update), "ash") == ""
    return total.total


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_one_hospital_moves_the_sum_by_the_norm_at_most(study, scale):
    rng = np.random.default_rng(1)
    updates = [rng.normal(size=SIZE) * scale / math.sqrt(SIZE) for _ in range(5)]
    with_all = collected(study(), updates, 0.5).total()
    without = collected(study(), updates[1:], 0.5).total()
    assert np.linalg.norm(with_all - without) <= 0.5


def test_clipping_leaves_short_updates_alone_and_shortens_long_ones():
    short, long = np.full(4, 0.1, np.float32), np.full(4, 10, np.float32)
    assert clipped(short, 1.0)[0] is short
    found, within = clipped(long, 1.0)
    assert not within
    assert 1 - 1e-5 < np.linalg.norm(found) <= 1
    assert np.allclose(found / np.linalg.norm(found), 0.5)


def test_every_hospital_counts_once_whatever_it_claims(study):
    total = UpdateSum(PARTS, study().strategy, clip=10.0)
    for patients, value in ((10, 0.0), (5000, 0.002), (0, 0.004)):
        total.take(reply(np.full(SIZE, value), patients), "ash")
    assert total.total.weights == {"ehr": 3, "fusion": 3}
    assert total.total.mean() == pytest.approx(0.002, abs=1e-6)


def test_the_rounds_together_cost_the_study_s_epsilon(study):
    central = CentralPrivacy(study(), "federated", seeded=True)
    assert 3.9 < epsilon([central.segment] * 8, 1e-5) <= 4.0


def test_the_noise_on_the_sum_is_the_multiplier_times_the_norm(study):
    central = CentralPrivacy(study(max_grad_norm=0.3), "federated", seeded=False)
    total = collected(study(), [np.zeros(SIZE)] * 3, central.clip)
    told = central.release(total, 1)
    expected = central.segment.noise_multiplier * 0.3
    assert total.total().std() == pytest.approx(expected, rel=0.05)
    assert told == {
        "clip": 0.3,
        "noise_multiplier": central.segment.noise_multiplier,
        "next_clip": 0.3,
    }


def test_seeded_noise_repeats_and_that_of_a_deployed_coordinator_does_not(study):
    def released(seeded, round_=1):
        total = WeightedSum.zeros(PARTS)
        total.members = 3
        CentralPrivacy(study(), "federated", seeded).release(total, round_)
        return total.values

    assert np.array_equal(released(True), released(True))
    assert not np.array_equal(released(True), released(True, 2))
    assert not np.array_equal(released(False), released(False))


def test_the_adapted_norm_follows_the_median_of_the_updates(study):
    central = CentralPrivacy(study(adaptive_clipping=True, epsilon=5000.0), "federated", False)
    rng = np.random.default_rng(2)
    norms = np.linspace(0.02, 0.38, 19)
    for round_ in range(1, 60):
        updates = [rng.normal(size=SIZE) for _ in norms]
        scaled = [u / np.linalg.norm(u) * n for u, n in zip(updates, norms, strict=True)]
        central.release(collected(study(), scaled, central.clip), round_)
    assert central.clip == pytest.approx(0.2, rel=0.35)


def test_sum_and_count_together_cost_one_gaussian_of_the_multiplier(study):
    """Andrew et al., theorem 1: the inverse variances add up."""
    noise = CentralPrivacy(study(), "federated", True).segment.noise_multiplier
    on_sum, on_count = noise / math.sqrt(1 - COUNT_SHARE), noise / math.sqrt(COUNT_SHARE)
    together = 1 / math.sqrt(1 / on_sum**2 + 1 / on_count**2)
    assert together == pytest.approx(noise)
    assert epsilon([Segment(1.0, together, 8)], 1e-5) <= 4.0
