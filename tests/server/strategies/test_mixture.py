"""AFL: the mixture of sites on which the model is worst."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratics import LR, PARTS, Consortium, sites_that_differ, strategy_of, with_
from scipy.optimize import minimize

from federation.bodies import TrainBody
from federation.layout import Layout
from server.strategies import rule_of
from server.strategies.mixture import on_simplex

RATE = 0.05


@pytest.fixture
def sites():
    return {
        n: with_(s, steps=1, curvature=s.curvature * 0.3) for n, s in sites_that_differ(3).items()
    }


def nearest_on_simplex(point):
    """The projection, by a general solver."""
    found = minimize(
        lambda w: np.sum(np.square(w - point)),
        np.full(len(point), 1 / len(point)),
        bounds=[(0, 1)] * len(point),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_projection_is_the_nearest_point_of_the_simplex(point):
    point = np.array(point)
    found = on_simplex(point)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    # the nearest point of a convex set: from it no corner lies in the direction of the point
    towards = point - found
    assert (towards - towards @ found).max() <= 1e-9


def test_afl_is_its_papers_descent_and_ascent(sites, tmp_path):
    """The ascent of a round follows its descent, by the losses before it, as in algorithm 1."""
    ours = Consortium(strategy_of("afl", mixture_lr=RATE), sites, tmp_path)
    x, mixture = np.zeros(6), np.full(3, 1 / 3)
    for _ in range(10):
        losses = np.array([site.loss(x) for site in sites.values()])
        gradients = np.array([site.gradient(x) for site in sites.values()])
        counted = np.maximum(mixture, mixture.max() * 1e-3)  # nobody is forgotten altogether
        x = x - LR * counted @ gradients / counted.sum()
        mixture = nearest_on_simplex(mixture + RATE * losses)
        assert ours.round() == pytest.approx(x, abs=1e-4)
        assert ours.rule.notes["mixture"] == pytest.approx(
            dict(zip(sites, mixture, strict=True)), abs=1e-4
        )


def test_afl_makes_the_worst_sites_equal(sites, tmp_path):
    worst = {}
    for name, options in (("fedavg", {}), ("afl", {"mixture_lr": RATE})):
        x = Consortium(strategy_of(name, **options), sites, tmp_path / name).run(500)
        worst[name] = sorted(site.loss(x) for site in sites.values())
    assert worst["afl"][-1] < 0.95 * worst["fedavg"][-1]
    assert worst["afl"][-1] == pytest.approx(worst["afl"][-2], rel=1e-2)


def told(**losses):
    behind = dict.fromkeys(("ehr", "image", "fusion"), 20)
    return {
        site: TrainBody(loss=1.0, steps=1, patients=behind, initial_loss=loss)
        for site, loss in losses.items()
    }


def agnostic():
    strategy = strategy_of("afl", mixture_lr=0.1)
    return rule_of(strategy, Layout.of(strategy, PARTS))


def test_a_site_that_is_not_asked_neither_gains_nor_loses(tmp_path):
    """Or a hospital that is seldom drawn would be forgotten for it."""
    rule = agnostic()
    rule.note(told(ash=1.0, birch=1.0, cedar=1.0))
    for _ in range(20):
        rule.note(told(ash=1.0, birch=1.2))
    mixture = rule.notes["mixture"]
    assert mixture["cedar"] == pytest.approx(1 / 3)
    assert mixture["birch"] > 1 / 3 > mixture["ash"]


def test_a_site_that_joins_enters_with_the_mean_weight():
    rule = agnostic()
    rule.note(told(ash=1.0, birch=3.0))
    before = dict(rule.notes["mixture"])
    assert rule.factors(["cedar", *before])["cedar"] == pytest.approx(0.5 / max(before.values()))
    rule.note(told(ash=1.0, birch=1.0, cedar=1.0))
    mixture = rule.notes["mixture"]
    assert mixture["cedar"] == pytest.approx(1 / 3)
    assert mixture["birch"] / mixture["ash"] == pytest.approx(before["birch"] / before["ash"])
