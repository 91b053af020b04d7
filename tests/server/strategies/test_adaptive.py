"""Momentum and adaptive optimisers at the coordinator against Flower's own strategies."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from quadratics import PARTS, strategy_of

from federation.bodies import TrainBody
from federation.collect import UpdateSum
from federation.flower import stamp, take_simulated_identity
from federation.layout import Layout
from federation.messages import Reply
from server.strategies import Gathered, rule_of

ROUNDS, SITES = 6, 3
PATIENTS = (10, 25, 40)
OPTIONS = {"server_lr": 0.05, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}


@pytest.fixture
def updates():
    """Updates of three sites in six rounds, those of the second round near zero."""
    found = np.random.default_rng(3).normal(0, 0.2, (ROUNDS, SITES, 6)).astype(np.float32)
    found[1] *= 1e-3
    return found


def ours(strategy, updates):
    """Yield the model after each round."""
    layout = Layout.of(strategy, PARTS)
    rule, weights = rule_of(strategy, layout), np.full(6, 0.5, np.float32)
    for of_round in updates:
        total, told = UpdateSum(PARTS, strategy), {}
        for site, (update, patients) in enumerate(zip(of_round, PATIENTS, strict=True)):
            behind = dict.fromkeys(("ehr", "image", "fusion"), patients)
            body = TrainBody(loss=1, steps=1, patients=behind)
            assert not total.take(Reply("ok", body, update=update), str(site))
            told[str(site)] = body
        weights = rule.next_weights(weights, Gathered(told, SITES, total.total))
        yield weights


def flowers(strategy, updates, before=lambda strategy, round_: None):
    """Yield the model after each round, as Flower's strategy makes it of the same updates."""
    take_simulated_identity()
    weights = np.full(6, 0.5)
    for round_, of_round in enumerate(updates, 1):
        before(strategy, round_)
        if isinstance(strategy, flower.FedAvgM):
            strategy.current_arrays = ArrayRecord({"flat": Array(weights)})
        else:
            strategy.current_arrays = {"flat": weights}
        replies = []
        for update, patients in zip(of_round, PATIENTS, strict=True):
            asked = Message(RecordDict(), dst_node_id=1, message_type="train")
            stamp(asked, "m")
            content = {
                "arrays": ArrayRecord({"flat": Array(weights + update.astype(np.float64))}),
                "metrics": MetricRecord({"num-examples": patients}),
            }
            replies.append(Message(RecordDict(content), reply_to=asked))
        arrays, _ = strategy.aggregate_train(round_, replies)
        weights = arrays["flat"].numpy()
        yield weights


@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.9), (0.3, 0.5), (0.7, 0.0)])
def test_fedavgm_is_flowers(updates, lr, momentum):
    strategy = strategy_of("fedavgm", server_lr=lr, server_momentum=momentum)
    other = flower.FedAvgM(server_learning_rate=lr, server_momentum=momentum)
    for mine, theirs in zip(ours(strategy, updates), flowers(other, updates), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_fedyogi_is_flowers(updates):
    strategy = strategy_of("fedyogi", **OPTIONS)
    other = flower.FedYogi(eta=0.05, beta_1=0.8, beta_2=0.95, tau=0.01)
    for mine, theirs in zip(ours(strategy, updates), flowers(other, updates), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_fedadagrad_is_flowers(updates):
    strategy = strategy_of("fedadagrad", server_lr=0.05, tau=0.01)
    other = flower.FedAdagrad(eta=0.05, tau=0.01)
    for mine, theirs in zip(ours(strategy, updates), flowers(other, updates), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_fedadam_is_flowers_without_its_correction_of_the_first_rounds(updates):
    """Flower scales the rate as Kingma & Ba do; Reddi et al., whom both name, do not."""

    def uncorrected(strategy, round_):
        corrected = np.sqrt(1 - 0.95 ** (round_ + 1)) / (1 - 0.8 ** (round_ + 1))
        strategy.eta = 0.05 / corrected

    strategy = strategy_of("fedadam", **OPTIONS)
    other = flower.FedAdam(eta=0.05, beta_1=0.8, beta_2=0.95, tau=0.01)
    both = zip(ours(strategy, updates), flowers(other, updates, uncorrected), strict=True)
    for mine, theirs in both:
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_momentum_of_nothing_at_rate_one_is_fedavg_to_the_last_bit(updates):
    plain = list(ours(strategy_of("fedavg"), updates))
    still = list(ours(strategy_of("fedavgm", server_momentum=0.0), updates))
    assert all(np.array_equal(a, b) for a, b in zip(plain, still, strict=True))
