"""Fates of sites: at the declared rates, from the seed alone, and recorded."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from federation.errors import UserError
from federation.faults import FaultsSection, StragglersSection
from simulations.faults import Fate, Faults, delay, record

SITES = {f"site-{i:02}": 40 * (i + 1) for i in range(20)}
ROUNDS = range(1, 201)
DRAWS = len(SITES) * len(ROUNDS)

EVERYTHING = {
    "dropout": {"kind": "by_size", "probability": 0.5},
    "stragglers": {"median_seconds": 30, "spread": 0.8, "probability": 0.5},
    "crash": {"probability": 0.2},
    "lost_replies": {"probability": 0.2},
    "duplicated_replies": {"probability": 0.3},
    "corrupted": {"probability": 0.3, "kind": "bits"},
    "hostile": [{"attack": "sign_flip", "count": 3}, {"attack": "backdoor", "sites": ["site-04"]}],
    "clock_skew": {"spread_seconds": 60},
}


def faults(seed=7, sites=SITES, **section):
    return Faults(FaultsSection.model_validate(section), sites, seed)


def fates(plan, sites=SITES, rounds=ROUNDS, model="federated"):
    return {(site, r): plan.fate(site, r, model) for r in rounds for site in sites}


def plausible(count, draws, probability):
    """Whether a count is one that a binomial gives but for one time in a million."""
    return stats.binomtest(count, draws, probability).pvalue > 1e-6


@pytest.mark.parametrize("probability", [0.0, 0.03, 0.3, 1.0])
@pytest.mark.parametrize(
    ("fault", "more", "struck"),
    [
        ("dropout", {}, lambda fate: not fate.asked),
        ("crash", {}, lambda fate: fate.crashes),
        ("lost_replies", {}, lambda fate: fate.reply_lost),
        ("duplicated_replies", {}, lambda fate: fate.duplicated),
        ("corrupted", {"kind": "bits"}, lambda fate: fate.corruption == "bits"),
        ("stragglers", {"median_seconds": 9, "spread": 1}, lambda fate: fate.delay_seconds > 0),
    ],
)
def test_fault_strikes_at_its_rate(fault, more, struck, probability):
    found = fates(faults(**{fault: {"probability": probability, **more}}))
    assert plausible(sum(map(struck, found.values())), DRAWS, probability)


def test_fault_strikes_only_the_sites_that_it_names():
    named = ["site-03", "site-11"]
    for fault in ("dropout", "crash", "lost_replies", "duplicated_replies", "corrupted"):
        found = fates(faults(**{fault: {"probability": 1.0, "sites": named}}))
        assert {site for (site, _), fate in found.items() if fate != Fate()} == set(named)


@given(every=st.integers(2, 9), count=st.integers(1, 20))
def test_periodic_dropout_takes_each_site_once_in_every_so_many_rounds_in_turn(every, count):
    sites = dict(list(SITES.items())[:count])
    plan = faults(sites=sites, dropout={"kind": "periodic", "every": every})
    away = {r: [s for s in sites if not plan.fate(s, r, "federated").asked] for r in ROUNDS}
    for site in sites:
        rounds = [r for r in ROUNDS if site in away[r]]
        assert set(np.diff(rounds)) == {every}
        assert rounds[0] <= every
    shares = {len(gone) for gone in away.values()}
    assert shares <= {math.floor(count / every), math.ceil(count / every)}


def test_dropout_by_size_is_rarer_the_larger_a_site_is():
    sites = {"small": 20, "middle": 80, "large": 320}
    rounds = range(1, 4001)
    plan = faults(sites=sites, dropout={"kind": "by_size", "probability": 0.6})
    away = {site: sum(not plan.fate(site, r, "federated").asked for r in rounds) for site in sites}
    assert away["small"] > away["middle"] > away["large"] > 0
    for site, expected in {"small": 0.6, "middle": 0.15, "large": 0.0375}.items():
        assert plausible(away[site], len(rounds), expected)


def test_dropout_by_size_bears_a_site_without_training_patients():
    plan = faults(sites={"none": 0, "some": 50}, dropout={"kind": "by_size", "probability": 1.0})
    assert not plan.fate("none", 1, "federated").asked


@given(order=st.permutations(range(40)), seed=st.integers(0, 2**63 - 1))
def test_fates_depend_on_neither_the_order_of_asking_nor_on_who_asks(order, seed):
    keys = [(site, r) for site in list(SITES)[:8] for r in range(1, 6)]
    expected = [faults(seed, **EVERYTHING).fate(*key, "federated") for key in keys]
    plan = faults(seed, sites=dict(reversed(SITES.items())), **EVERYTHING)
    assert {i: plan.fate(*keys[i], "federated") for i in order} == dict(enumerate(expected))


def test_fates_follow_the_seed():
    assert fates(faults(1, **EVERYTHING)) != fates(faults(2, **EVERYTHING))


def test_declaring_another_fault_leaves_the_draws_of_the_first():
    alone = fates(faults(crash={"probability": 0.2}))
    both = fates(faults(crash={"probability": 0.2}, duplicated_replies={"probability": 1.0}))
    assert {k for k, f in alone.items() if f.crashes} == {k for k, f in both.items() if f.crashes}


def test_different_faults_strike_independently():
    found = fates(faults(corrupted={"probability": 0.3}, duplicated_replies={"probability": 0.3}))
    both = sum(fate.corruption is not None and fate.duplicated for fate in found.values())
    assert plausible(both, DRAWS, 0.09)


def test_nothing_more_happens_to_a_reply_that_never_comes():
    for fate in fates(faults(**EVERYTHING)).values():
        if not fate.asked:
            assert fate == Fate(asked=False)
        if fate.crashes or fate.reply_lost:
            assert not (fate.crashes and fate.reply_lost)
            assert (fate.delay_seconds, fate.duplicated, fate.corruption) == (0.0, False, None)


@pytest.mark.parametrize("model", ["local:site-03", "pooled"])
def test_models_that_are_not_federated_meet_no_fault(model):
    assert set(fates(faults(**EVERYTHING), model=model).values()) == {Fate()}


def test_single_modality_federations_meet_the_faults_of_the_federated_model():
    plan = faults(**EVERYTHING)
    assert fates(plan, model="only:ehr") == fates(plan, model="federated")


ORACLES = {
    "lognormal": stats.lognorm(s=0.8, scale=30),
    "exponential": stats.expon(scale=30 / math.log(2)),
    "pareto": stats.pareto(b=1 / 0.8, scale=30 / 2**0.8),
}


@pytest.mark.parametrize("distribution", ORACLES)
def test_delays_have_the_declared_median_and_distribution(distribution):
    spread = {} if distribution == "exponential" else {"spread": 0.8}
    stragglers = {"distribution": distribution, "median_seconds": 30, **spread}
    found = fates(faults(stragglers=stragglers))
    delays = [fate.delay_seconds for fate in found.values()]
    assert plausible(sum(one > 30 for one in delays), DRAWS, 0.5)
    assert stats.kstest(delays, ORACLES[distribution].cdf).pvalue > 1e-6
    section = StragglersSection.model_validate(stragglers)
    quantiles = np.array([1e-12, 0.01, 0.25, 0.5, 0.9, 0.9999])
    exact = ORACLES[distribution].ppf(quantiles)
    np.testing.assert_allclose([delay(section, q) for q in quantiles], exact, rtol=1e-4)


def test_constant_delay_is_that_of_every_straggler():
    found = fates(faults(stragglers={"distribution": "constant", "median_seconds": 45}))
    assert {fate.delay_seconds for fate in found.values()} == {45.0}


def test_clock_of_a_site_is_wrong_by_the_same_time_in_all_rounds():
    sites = {f"site-{i}": 50 for i in range(2000)}
    plan = faults(sites=sites, clock_skew={"spread_seconds": 60})
    skews = {s: {plan.fate(s, r, "federated").skew_seconds for r in (1, 2, 9)} for s in sites}
    assert {len(found) for found in skews.values()} == {1}
    assert stats.kstest([min(s) for s in skews.values()], stats.norm(0, 60).cdf).pvalue > 1e-6


def test_hostile_sites_are_as_many_as_said_the_same_in_all_rounds_and_begin_when_said():
    hostile = [
        {"attack": "sign_flip", "count": 3, "from_round": 5},
        {"attack": "backdoor", "sites": ["site-04"]},
        {"attack": "label_flip", "count": 2},
    ]
    found = fates(faults(hostile=hostile), rounds=range(1, 9))
    by_round = {
        r: {s: found[s, r].attack.attack for s in SITES if found[s, r].attack} for r in range(1, 9)
    }
    assert {r: len(at) for r, at in by_round.items()} == {r: 3 if r < 5 else 6 for r in by_round}
    assert by_round[1] == by_round[4]
    assert by_round[5] == by_round[8]
    assert by_round[5].items() >= by_round[4].items()
    assert by_round[1]["site-04"] == "backdoor"
    assert sorted(by_round[5].values()) == [
        "backdoor",
        *["label_flip"] * 2,
        *["sign_flip"] * 3,
    ]


def test_every_site_is_equally_likely_to_be_hostile():
    chosen = np.zeros(len(SITES))
    for seed in range(1000):
        plan = faults(seed, hostile=[{"attack": "sign_flip", "count": 5}])
        chosen += [plan.fate(site, 1, "federated").attack is not None for site in SITES]
    assert chosen.sum() == 5000
    assert all(plausible(int(count), 1000, 0.25) for count in chosen)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"crash": {"probability": 1, "sites": ["sites-10"]}},
            (
                'crash.sites: there is no site "sites-10"',
                'Did you mean "site-10"?',
                "site-11 and 8 more.",
            ),
        ),
        (
            {"hostile": [{"attack": "sign_flip", "sites": ["elsewhere"]}]},
            ("hostile.sites", 'there is no site "elsewhere"'),
        ),
        (
            {"hostile": [{"attack": "sign_flip", "count": 21}]},
            ("hostile.count: 21 hostile sites are wanted, 20 are left to choose from",),
        ),
        (
            {
                "hostile": [
                    {"attack": "sign_flip", "sites": ["site-01"]},
                    {"attack": "label_flip", "count": 20},
                ]
            },
            ("hostile.count: 20 hostile sites are wanted, 19 are left",),
        ),
    ],
)
def test_faults_of_sites_that_are_not_there_are_refused(section, words):
    with pytest.raises(UserError) as caught:
        faults(**section)
    for word in words:
        assert word in str(caught.value)


def test_generators_of_damage_and_poison_differ_by_site_and_repeat():
    plan, again = faults(**EVERYTHING), faults(**EVERYTHING)
    draw = lambda p, *key: p.corruption_generator(*key).integers(2**62)  # noqa: E731
    keys = [("site-01", 1), ("site-01", 2), ("site-02", 1)]
    assert [draw(plan, *k) for k in keys] == [draw(again, *k) for k in keys]
    assert len({draw(plan, *k) for k in keys}) == 3
    assert plan.poison_seed("site-01") == again.poison_seed("site-01")
    assert plan.poison_seed("site-01") != plan.poison_seed("site-02")


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (Fate(), ""),
        (Fate(asked=False), "dropped out"),
        (Fate(crashes=True), "crashed"),
        (Fate(reply_lost=True), "reply lost"),
        (Fate(delay_seconds=600.0), ""),
        (Fate(delay_seconds=600.1), "too late"),
        (Fate(skew_seconds=-605.0), ""),
        (Fate(skew_seconds=605.1), "out of date by its clock"),
        (Fate(skew_seconds=-605.1), "out of date by its clock"),
        (Fate(corruption="nan"), "refused by screening"),
        (Fate(corruption="shape"), "refused by screening"),
        (Fate(corruption="bits"), ""),
        (Fate(corruption="zeros", duplicated=True), ""),
    ],
)
def test_reply_is_missing_for_its_reason(fate, why):
    assert fate.missing(600.0) == why


def test_record_names_what_struck_and_leaves_out_what_did_not():
    (attack,) = FaultsSection.model_validate(
        {"hostile": [{"attack": "sign_flip", "count": 1}]}
    ).hostile
    found = {
        "h": Fate(),
        "a": Fate(asked=False),
        "b": Fate(crashes=True, attack=attack),
        "c": Fate(reply_lost=True, skew_seconds=-3.00049),
        "d": Fate(delay_seconds=12.34567, duplicated=True, corruption="nan"),
    }
    assert record(found) == {
        "dropped": ["a"],
        "delays": {"d": 12.346},
        "crashed": ["b"],
        "lost": ["c"],
        "duplicated": ["d"],
        "corrupted": {"d": "nan"},
        "hostile": {"b": "sign_flip"},
        "skewed": {"c": -3.0},
    }
    assert record({"h": Fate()}) == {}


def test_record_tells_every_fault_that_was_drawn():
    plan = faults(**EVERYTHING)
    for r in range(1, 30):
        drawn = {site: plan.fate(site, r, "federated") for site in SITES}
        told = record(drawn)
        struck = {site for sites in told.values() for site in sites}
        assert struck == {site for site, fate in drawn.items() if fate != Fate()}
