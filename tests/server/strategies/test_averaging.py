"""FedAvg, FedProx, FedNova and q-FedAvg against plain loops written from the papers."""

import numpy as np
import pytest
from flwr.serverapp.strategy.qfedavg import compute_delta_and_h
from hypothesis import given
from hypothesis import strategies as st
from quadratics import (
    LR,
    PARTS,
    Consortium,
    common_optimum,
    local_path,
    sites_that_differ,
    strategy_of,
    with_,
)

from federation.bodies import TrainBody
from federation.collect import UpdateSum
from federation.layout import Layout
from federation.messages import Reply
from server.strategies import Gathered, rule_of


@pytest.fixture
def sites():
    """Four sites of unequal steps and patients; only one of them has many of the images."""
    found = sites_that_differ()
    sizes = {"site-0": (3, 40), "site-1": (9, 10), "site-2": (5, 25), "site-3": (1, 80)}
    return {
        name: with_(
            site,
            steps=sizes[name][0],
            patients={"ehr": sizes[name][1], "image": 0, "fusion": sizes[name][1]}
            if name in ("site-1", "site-3")
            else {"ehr": sizes[name][1], "image": 12, "fusion": sizes[name][1]},
        )
        for name, site in found.items()
    }


SUBSETS = (None, ["site-0", "site-3"], ["site-1", "site-2"], ["site-1", "site-3"])


def asked(round_):
    return SUBSETS[(round_ - 1) % len(SUBSETS)]


def by_part(sites, names, make):
    """Apply ``make(weights by site, stretch)`` to each part that one of the sites moves."""
    for part in PARTS:
        weights = {n: sites[n].patients[part.name] for n in names if sites[n].patients[part.name]}
        if weights:
            make(weights, slice(part.start, part.stop))


def test_fedavg_weighs_each_part_by_the_patients_that_have_it(sites, tmp_path):
    ours, x = Consortium(strategy_of("fedavg"), sites, tmp_path), np.zeros(6)
    for round_ in range(1, 9):
        names = asked(round_) or sorted(sites)
        ends, after = {n: local_path(sites[n], x) for n in names}, x.copy()

        def mean(weights, here, ends=ends, after=after):
            after[here] = np.average(
                [ends[n][here] for n in weights], axis=0, weights=list(weights.values())
            )

        by_part(sites, names, mean)
        x = after
        assert ours.round(names) == pytest.approx(x, abs=1e-5)


def test_fedprox_is_descent_on_the_loss_with_its_proximal_term(sites, tmp_path):
    ours, x = Consortium(strategy_of("fedprox", mu=0.6, weighting="uniform"), sites, tmp_path), None
    sites = {n: with_(s, patients=dict.fromkeys(s.patients, 1)) for n, s in sites.items()}
    ours.sites, x = sites, np.zeros(6)
    for _ in range(5):
        ends = [local_path(s, x, correction=lambda y, x=x: 0.6 * (y - x)) for s in sites.values()]
        x = np.mean(ends, axis=0)
        assert ours.round() == pytest.approx(x, abs=1e-5)


def test_fednova_is_its_papers_sixth_equation(sites, tmp_path):
    ours, x = Consortium(strategy_of("fednova"), sites, tmp_path), np.zeros(6)
    for round_ in range(1, 9):
        names = asked(round_) or sorted(sites)
        per_step = {n: (local_path(sites[n], x) - x) / sites[n].steps for n in names}
        after = x.copy()

        def step(weights, here, per_step=per_step, after=after):
            total = sum(weights.values())
            steps = sum(w / total * sites[n].steps for n, w in weights.items())
            mean = sum(w / total * per_step[n][here] for n, w in weights.items())
            after[here] += steps * mean

        by_part(sites, names, step)
        x = after
        assert ours.round(names) == pytest.approx(x, abs=1e-5)


def test_fednova_does_not_favour_those_who_take_more_steps(tmp_path):
    """Same curvature, one site with eight times the steps: FedAvg ends near its optimum."""
    a, b = sites_that_differ(2).values()
    sites = {"a": with_(a, steps=2), "b": with_(b, steps=16, curvature=a.curvature)}
    optimum = common_optimum(sites)
    far = {
        name: np.abs(Consortium(strategy_of(name), sites, tmp_path / name).run(200) - optimum).max()
        for name in ("fedavg", "fednova")
    }
    assert far["fednova"] < 0.4 * far["fedavg"]


def test_qfedavg_is_its_papers_second_algorithm_and_flowers(tmp_path):
    q, sites, x = 0.7, sites_that_differ(3), np.zeros(6)
    strategy = strategy_of("qfedavg", q=q, weighting="uniform")
    ours = Consortium(strategy, sites, tmp_path)
    for _ in range(8):
        deltas, curvatures = [], []
        for site in sites.values():
            end = local_path(site, x)
            delta, h = compute_delta_and_h([x.copy()], [end], q, 1 / LR, site.loss(x))
            apart = x - local_path(site, x)
            weighed = site.loss(x) ** q * apart / LR
            assert delta[0] == pytest.approx(weighed)
            norm = np.sum(np.square(apart / LR))
            assert h == pytest.approx(q * site.loss(x) ** (q - 1) * norm + site.loss(x) ** q / LR)
            deltas.append(weighed)
            curvatures.append(h)
        x = x - np.sum(deltas, axis=0) / np.sum(curvatures)
        assert ours.round() == pytest.approx(x, abs=1e-5)


def test_qfedavg_helps_the_worst_site(tmp_path):
    found = sites_that_differ(3)
    sites = {n: with_(s, curvature=0.1 * s.curvature) for n, s in found.items()}
    worst = {}
    for q in (0.0, 5.0):
        strategy = strategy_of("qfedavg", q=q, weighting="uniform")
        x = Consortium(strategy, sites, tmp_path / str(q)).run(150)
        worst[q] = max(site.loss(x) for site in sites.values())
    assert worst[5.0] < 0.95 * worst[0.0]


@pytest.mark.parametrize("q", [2.0, 10.0])
def test_a_high_power_of_small_losses_is_not_nothing(tmp_path, q):
    """Sums are in fixed point: 0.02^10 would be zero, and the mean nothing divided by nothing."""
    sites = {n: with_(s, steps=1) for n, s in sites_that_differ(3).items()}
    start = np.mean([s.best for s in sites.values()], axis=0)
    near = {n: with_(s, best=start + 0.02 * (s.best - start)) for n, s in sites.items()}
    losses = [site.loss(start) for site in near.values()]
    assert 0 < max(losses) ** q < 2**-10
    strategy = strategy_of("qfedavg", q=q, weighting="uniform")
    ours, x = Consortium(strategy, near, tmp_path, start), start
    for _ in range(5):
        gradients = [site.gradient(x) for site in near.values()]
        losses = np.array([site.loss(x) for site in near.values()])
        h = q * losses ** (q - 1) * np.sum(np.square(gradients), 1) + losses**q / LR
        x = x - (losses**q) @ gradients / h.sum()
        after = ours.round()
        if ours.rounds == 1:  # nobody was heard before it, and it may pass
            assert np.isfinite(after).all()
            x = after.astype(np.float64)
        else:
            assert after == pytest.approx(x, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedprox", {"mu": 0.0}),
        ("qfedavg", {"q": 0.0}),
        ("fednova", {}),
        ("fedavgm", {"server_momentum": 0.0}),
        ("scaffold", {}),
    ],
)
def test_limits_are_fedavg(tmp_path, name, options):
    """With equal steps; SCAFFOLD in its first round, before it knows of any drift."""
    sites, rounds = sites_that_differ(), 1 if name == "scaffold" else 4
    plain = Consortium(strategy_of("fedavg"), sites, tmp_path / "a").run(rounds)
    other = Consortium(strategy_of(name, **options), sites, tmp_path / "b").run(rounds)
    exact = name in ("fedprox", "fedavgm", "scaffold")
    assert np.array_equal(plain, other) if exact else other == pytest.approx(plain, abs=1e-6)


OUTLANDISH = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-12, 1e6]), st.floats(0, 1e6, allow_nan=False)
)


@given(
    st.sampled_from(["fednova", "qfedavg", "afl", "inverse_variance"]),
    OUTLANDISH,
    st.one_of(st.integers(0, 2**40), st.sampled_from([0, 1, 10**6])),
    st.sampled_from([0.0, 1e-20, 1.0, 128.0]),
    st.sampled_from([5e-324, 1e-30, 1.0, 1e30]),
    st.floats(0, 10),
)
def test_no_number_beside_an_update_poisons_the_sum(name, loss, steps, size, variance, q):
    """Whatever one site claims, it is refused or the model stays finite; the others count."""
    if name == "inverse_variance":
        strategy = strategy_of("fedavg", weighting=name)
    else:
        strategy = strategy_of(name, **({"q": q} if name == "qfedavg" else {}))
    rule = rule_of(strategy, Layout.of(strategy, PARTS))
    behind = dict.fromkeys(("ehr", "image", "fusion"), 20)
    weights = np.zeros(6, np.float32)
    for _ in range(2):
        sites = ("honest", "odd")
        total, told = UpdateSum(PARTS, strategy, LR, factors=rule.factors(sites)), {}
        for site in sites:
            odd = site == "odd"
            body = TrainBody(
                loss=0.5,
                steps=steps if odd else 4,
                patients=behind,
                initial_loss=loss if odd else 0.6,
                gradient_variance=variance if odd else 0.01,
            )
            update = np.full(6, size if odd else 0.1, np.float32)
            refused = total.take(Reply("ok", body, update=update), site)
            assert refused in ("", "out of range", "an update of no steps")
            if not refused:
                told[site] = body
        assert "honest" in told
        weights = rule.next_weights(weights, Gathered(told, 2, total.total))
        rule.note(told)
        assert np.isfinite(weights).all()


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("fednova", {"steps": 0}, "an update of no steps"),
        ("fednova", {"steps": 10**6}, "out of range"),
        ("qfedavg", {"initial_loss": None}, "the loss is missing"),
        ("afl", {"initial_loss": None}, "the loss is missing"),
        ("qfedavg", {"initial_loss": 1e6}, "out of range"),
    ],
)
def test_numbers_out_of_range_are_refused_with_a_reason(name, changes, reason):
    strategy = strategy_of(name, **({"q": 2.0} if name == "qfedavg" else {}))
    total = UpdateSum(PARTS, strategy, LR)
    behind = dict.fromkeys(("ehr", "image", "fusion"), 20)
    body = TrainBody(**{"loss": 1.0, "steps": 5, "patients": behind, "initial_loss": 1.0} | changes)
    reply = Reply("ok", body, update=np.full(6, 0.1, np.float32))
    assert total.take(reply, "ash") == reason
    assert not total.total.values.any()
    assert not any(total.total.weights.values())


def test_a_hospital_of_a_hundred_thousand_patients_can_train_with_fednova():
    total = UpdateSum(PARTS, strategy_of("fednova"))
    patients = dict.fromkeys(("ehr", "image", "fusion"), 100_000)
    body = TrainBody(loss=1.0, steps=10 * 100_000 // 32, patients=patients)
    assert total.take(Reply("ok", body, update=np.full(6, 0.1, np.float32)), "ash") == ""


def test_a_variance_next_to_nothing_makes_no_site_s_factor_nonsense():
    strategy = strategy_of("fedavg", weighting="inverse_variance")
    rule = rule_of(strategy, Layout.of(strategy, PARTS))
    told = {
        site: TrainBody(loss=0.5, steps=1, patients={}, gradient_variance=variance)
        for site, variance in (("honest", 0.01), ("odd", 5e-324))
    }
    rule.note(told)
    factors = rule.factors(["honest", "odd", "unheard"])
    assert all(0 < factor <= 1 for factor in factors.values())
