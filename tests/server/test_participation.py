"""Which sites a round asks: distributions, losses, and that the seed decides."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from server.participation import Known, participants

NODES = {f"site-{i}": 100 + i for i in range(6)}
ROUNDS = 3000


@pytest.fixture(scope="session")
def asking(make_study):
    def asking(seed=1, minimum_sites=1, **participation):
        strategy = {
            "participation": participation,
            "minimum_sites": minimum_sites,
            "weighting": "uniform",
        }
        return make_study(study={"name": "s", "seed": seed}, strategy=strategy)

    return asking


def times(study, known=None):
    """How often each site is asked."""
    asked = (participants(study, NODES, round_, known) for round_ in range(1, ROUNDS + 1))
    return Counter(itertools.chain.from_iterable(asked))


def likely(count, probability):
    return binomtest(count, ROUNDS, probability).pvalue > 1e-5


def test_random_asks_each_site_alike(asking):
    found = times(asking(kind="random", sites=2))
    assert all(likely(found[name], 2 / 6) for name in NODES)
    assert sum(found.values()) == 2 * ROUNDS


def test_poisson_asks_each_by_its_own_draw(asking):
    study = asking(kind="poisson", fraction=0.4)
    asked = [set(participants(study, NODES, r)) for r in range(1, ROUNDS + 1)]
    some = 1 - 0.6**6  # rounds of nobody are drawn again
    for name in NODES:
        assert likely(sum(name in one for one in asked), 0.4 / some)
    for size in range(1, 7):
        ways = len(list(itertools.combinations(NODES, size)))
        probability = ways * 0.4**size * 0.6 ** (6 - size) / some
        assert likely(sum(len(one) == size for one in asked), probability)


def test_poisson_rounds_never_have_fewer_sites_than_count(asking):
    study = asking(kind="poisson", fraction=0.3, minimum_sites=3)
    assert min(len(participants(study, NODES, r)) for r in range(300)) == 3


def drawn_one_by_one(sizes, wanted):
    """Probability of each site to be among so many drawn without replacement, exactly."""
    found = Counter()
    for order in itertools.permutations(sizes, wanted):
        probability, left = 1.0, sum(sizes.values())
        for name in order:
            probability *= sizes[name] / left
            left -= sizes[name]
        for name in order:
            found[name] += probability
    return found


def test_by_size_draws_like_the_numbers_of_patients(asking):
    sizes = {"site-0": 10, "site-1": 20, "site-2": 40, "site-3": 80, "site-4": 160}
    found = times(asking(kind="by_size", sites=2), Known(sizes))
    expected = drawn_one_by_one({**sizes, "site-5": 10}, 2)  # untold: as the smallest that is
    assert all(likely(found[name], expected[name]) for name in NODES)


def test_power_of_choice_takes_the_largest_losses_of_its_candidates(asking):
    losses = {f"site-{i}": 0.1 * i for i in range(6)}
    study = asking(kind="power_of_choice", sites=2, candidates=6)
    assert list(participants(study, NODES, 1, Known({}, losses))) == ["site-4", "site-5"]
    del losses["site-0"]
    assert list(participants(study, NODES, 1, Known({}, losses))) == ["site-0", "site-5"], (
        "who was never heard comes first"
    )
    some = asking(kind="power_of_choice", sites=1, candidates=3)
    found = times(some, Known({}, {**losses, "site-0": 0.0}))
    # The site with the k-th largest loss is asked if it is drawn and no larger one is.
    for place, name in enumerate(reversed(NODES)):
        without = len(list(itertools.combinations(range(5 - place), 2))) if place < 5 else 0
        assert likely(found[name], without / 20) if without else not found[name]


kinds = st.sampled_from(
    [
        {"kind": "all"},
        {"kind": "random", "fraction": 0.5},
        {"kind": "random", "sites": 4},
        {"kind": "poisson", "fraction": 0.5},
        {"kind": "by_size", "sites": 3},
        {"kind": "power_of_choice", "sites": 2, "candidates": 4},
    ]
)


@given(kinds, st.integers(0, 2**31), st.integers(1, 50))
def test_seed_and_round_decide_and_sites_come_in_order(asking, kind, seed, round_):
    known = Known({"site-1": 50}, {"site-2": 0.5, "site-3": 0.1})
    study = asking(seed, minimum_sites=2, **kind)
    found = participants(study, NODES, round_, known)
    assert found == participants(study, dict(NODES), round_, known)
    assert list(found) == sorted(found)
    assert found.items() <= NODES.items()
    assert len(found) >= 2


def test_another_seed_or_round_draws_others(asking):
    def drawn(seed, rounds):
        study = asking(seed, kind="random", sites=3)
        return [tuple(participants(study, NODES, r)) for r in rounds]

    assert drawn(1, range(20)) != drawn(2, range(20))
    assert len(set(drawn(1, range(20)))) > 5


def test_more_sites_than_there_are_means_all_of_them(asking):
    for kind in ("random", "by_size"):
        assert participants(asking(kind=kind, sites=9), NODES, 1) == NODES
    assert np.isclose(len(participants(asking(kind="random", fraction=1.0), NODES, 1)), 6)
