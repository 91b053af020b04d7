"""What a rule keeps from round to round, and how sites are weighed by it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratics import PARTS, Consortium, sites_that_differ, strategy_of
from safetensors.numpy import load_file, save_file

from federation.bodies import TrainBody
from federation.collect import UpdateSum
from federation.layout import Layout
from federation.messages import Reply
from server.strategies import Gathered, rule_of

STRATEGIES = [
    ("fedavg", {}),
    ("fedavg", {"weighting": "inverse_variance"}),
    ("fedavgm", {}),
    ("fedadam", {}),
    ("fedyogi", {}),
    ("fedadagrad", {}),
    ("fednova", {}),
    ("scaffold", {}),
    ("feddyn", {"alpha": 0.3}),
    ("qfedavg", {"q": 2.0}),
    ("afl", {}),
]


@pytest.mark.parametrize(("name", "options"), STRATEGIES)
def test_a_restored_rule_goes_on_to_the_last_bit(tmp_path, name, options):
    strategy, sites = strategy_of(name, **options), sites_that_differ()
    sites = {n: s.__class__(0.2 * s.curvature, s.best) for n, s in sites.items()}
    whole = Consortium(strategy, sites, tmp_path / "sites")
    whole.run(3, lambda round_: sorted(sites)[round_ % 2 :])
    noted = {
        site: TrainBody(loss=1, steps=2, patients={}, initial_loss=1, gradient_variance=i + 0.1)
        for i, site in enumerate(sites)
    }
    if strategy.wants_variance:
        whole.rule.note(noted)
    save_file(dict(whole.rule.state()), tmp_path / "state.safetensors")
    rule = rule_of(strategy, whole.layout)
    rule.restore(load_file(tmp_path / "state.safetensors"))
    resumed = Consortium(strategy, sites, tmp_path / "sites", whole.weights)
    resumed.rule, resumed.rounds, resumed.counted = rule, whole.rounds, dict(whole.counted)
    whole.run(1)
    resumed.run(1)
    assert np.array_equal(whole.weights, resumed.weights)
    fresh = Consortium(strategy, sites, tmp_path / "sites", whole.weights)
    if rule.state() and name != "qfedavg":  # whose state is a scale that cancels out
        fresh.rounds, fresh.counted = whole.rounds, dict(whole.counted)
        whole.run(1)
        fresh.run(1)
        assert not np.array_equal(whole.weights, fresh.weights), "the state does nothing"


def body(variance=None, steps=3, patients=20):
    behind = dict.fromkeys(("ehr", "image", "fusion"), patients)
    return TrainBody(loss=1.0, steps=steps, patients=behind, gradient_variance=variance)


def gathered(rule, updates, told):
    total = UpdateSum(PARTS, rule.strategy, factors=rule.factors(told))
    for site, update in updates.items():
        assert total.take(Reply("ok", told[site], update=update), site) == ""
    return Gathered(told, len(told), total.total)


@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=5), st.integers(0, 99))
def test_inverse_variance_is_the_mean_with_the_least_variance(variances, seed):
    """Each site's weight is one over the variance of its mean gradient, told the round before."""
    strategy = strategy_of("fedavg", weighting="inverse_variance")
    rule = rule_of(strategy, Layout.of(strategy, PARTS))
    told = {f"site-{i}": body(variance) for i, variance in enumerate(variances)}
    rule.note(told)
    rows = np.random.default_rng(seed).normal(0, 1, (len(told), 6)).astype(np.float32)
    found = rule.next_weights(
        np.zeros(6, np.float32), gathered(rule, dict(zip(told, rows, strict=True)), told)
    )
    expected = np.average(rows, axis=0, weights=1 / np.array(variances))
    assert found == pytest.approx(expected, abs=2e-6)


def test_a_site_that_never_told_its_variance_counts_as_the_others_on_average():
    strategy = strategy_of("fedavg", weighting="inverse_variance")
    rule = rule_of(strategy, Layout.of(strategy, PARTS))
    assert rule.factors(["ash", "birch"]) == {"ash": 1.0, "birch": 1.0}
    rule.note({"ash": body(1.0), "birch": body(0.5), "cedar": body(None), "elm": body(0.0)})
    assert rule.factors(["ash", "birch", "cedar", "elm"]) == pytest.approx(
        {"ash": 0.5, "birch": 1.0, "cedar": 0.75, "elm": 0.75}
    )


@pytest.mark.parametrize(("name", "options"), STRATEGIES)
def test_the_sum_does_not_depend_on_the_order_or_grouping_of_sites(tmp_path, name, options):
    strategy, rng = strategy_of(name, **options), np.random.default_rng(1)
    layout = Layout.of(strategy, PARTS)
    replies = {}
    for i in range(5):
        told = body(steps=i + 1, patients=10 + i).model_copy(update={"initial_loss": 0.3 + i})
        update = rng.normal(0, 0.1, layout.size).astype(np.float32)
        replies[f"site-{i}"] = Reply("ok", told, update=update)
    factors = {site: 1 / (i + 1) for i, site in enumerate(replies)}

    def total(sites):
        found = UpdateSum(PARTS, strategy, factors=factors)
        for site in sites:
            assert found.take(replies[site], site) == ""
        return found.total

    whole, turned = total(replies), total(reversed(replies))
    halves = total(list(replies)[:2])
    halves.merge(total(list(replies)[2:]))
    for other in (turned, halves):
        assert np.array_equal(whole.values, other.values)
        assert whole.weights == other.weights
