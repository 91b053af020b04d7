"""SCAFFOLD and FedDyn against plain loops, and where they end on sites that differ."""

import numpy as np
import pytest
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

ALPHA = 0.3
SUBSETS = (["site-0", "site-3"], None, ["site-1"], ["site-1", "site-2", "site-3"])


def asked(round_):
    return SUBSETS[(round_ - 1) % len(SUBSETS)]


@pytest.fixture
def sites():
    """Sites of unequal steps."""
    steps = (3, 9, 5, 1)
    found = sites_that_differ()
    return {n: with_(s, steps=k) for (n, s), k in zip(found.items(), steps, strict=True)}


@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_scaffold_is_its_papers_algorithm_with_option_two(sites, tmp_path, server_lr):
    ours = Consortium(strategy_of("scaffold", server_lr=server_lr), sites, tmp_path)
    x, c, own = np.zeros(6), np.zeros(6), {n: np.zeros(6) for n in sites}
    for round_ in range(1, 13):
        names = asked(round_) or sorted(sites)
        ends, new = {}, {}
        for n in names:
            ends[n] = local_path(sites[n], x, correction=lambda y, by=c - own[n]: by)
            new[n] = own[n] - c + (x - ends[n]) / (sites[n].steps * LR)
        x = x + server_lr * np.mean([ends[n] - x for n in names], axis=0)
        c = c + len(names) / len(sites) * np.mean([new[n] - own[n] for n in names], axis=0)
        own |= new
        assert ours.round(names) == pytest.approx(x, abs=2e-5)
        assert ours.rule.control == pytest.approx(c, abs=2e-4)


def test_feddyn_is_its_papers_algorithm(sites, tmp_path):
    ours = Consortium(strategy_of("feddyn", alpha=ALPHA), sites, tmp_path)
    x, h, kept = np.zeros(6), np.zeros(6), {n: np.zeros(6) for n in sites}
    for round_ in range(1, 13):
        names = asked(round_) or sorted(sites)
        ends = {}
        for n in names:
            ends[n] = local_path(
                sites[n], x, correction=lambda y, n=n, x=x: ALPHA * (y - x) - kept[n]
            )
            kept[n] = kept[n] - ALPHA * (ends[n] - x)
        h = h - ALPHA / len(sites) * sum(ends[n] - x for n in names)
        x = np.mean([ends[n] for n in names], axis=0) - h / ALPHA
        assert ours.round(names) == pytest.approx(x, abs=5e-5)


@pytest.mark.parametrize(("name", "options"), [("scaffold", {}), ("feddyn", {"alpha": ALPHA})])
def test_corrected_sites_meet_at_the_consortiums_optimum_where_fedavg_does_not(
    tmp_path, name, options
):
    sites = sites_that_differ(steps=10)
    optimum = common_optimum(sites)
    corrected = Consortium(strategy_of(name, **options), sites, tmp_path / "c").run(150)
    averaged = Consortium(strategy_of("fedavg"), sites, tmp_path / "a").run(150)
    assert corrected == pytest.approx(optimum, abs=1e-3)
    assert np.abs(averaged - optimum).max() > 0.1


@pytest.mark.parametrize(("name", "options"), [("scaffold", {}), ("feddyn", {"alpha": ALPHA})])
def test_they_do_so_with_part_of_the_sites_in_each_round(tmp_path, name, options):
    sites = sites_that_differ(steps=10)
    rng = np.random.default_rng(5)
    ours = Consortium(strategy_of(name, **options), sites, tmp_path)
    ours.run(400, lambda round_: list(rng.choice(list(sites), 2, replace=False)))
    assert ours.weights == pytest.approx(common_optimum(sites), abs=0.01)


@pytest.mark.parametrize(("name", "options"), [("scaffold", {}), ("feddyn", {"alpha": ALPHA})])
def test_sites_without_a_modality_leave_its_part_to_the_others(tmp_path, name, options):
    """Each part's optimum is that of the sites that have it, weighed by their patients."""
    lacks = {"ehr": 20, "image": 0, "fusion": 20}
    sites = {
        n: with_(s, steps=10, patients=lacks if i % 2 else {"ehr": 60, "image": 30, "fusion": 60})
        for i, (n, s) in enumerate(sites_that_differ().items())
    }
    ours = Consortium(strategy_of(name, **options), sites, tmp_path).run(150)
    for part in PARTS:
        weights = {n: float(s.patients[part.name]) for n, s in sites.items()}
        here = slice(part.start, part.stop)
        assert ours[here] == pytest.approx(common_optimum(sites, weights)[here], abs=2e-3)


def test_feddyn_leaves_a_part_alone_that_nobody_moved(tmp_path):
    lacks = {"ehr": 20, "image": 0, "fusion": 20}
    sites = {
        n: with_(s, patients=lacks) if n == "site-0" else s for n, s in sites_that_differ().items()
    }
    ours = Consortium(strategy_of("feddyn", alpha=ALPHA), sites, tmp_path)
    before = ours.run(3)
    after = ours.round(["site-0"])
    assert np.array_equal(before[3:5], after[3:5])
    assert not np.array_equal(before[:3], after[:3])


@pytest.mark.parametrize(("name", "options"), [("scaffold", {}), ("feddyn", {"alpha": ALPHA})])
def test_updates_that_are_lost_do_not_put_sites_and_coordinator_out_of_step(
    tmp_path, name, options
):
    """What a site learned with a lost update would bend the common direction for ever."""
    sites = sites_that_differ(steps=10)
    ours = Consortium(strategy_of(name, **options), sites, tmp_path)
    for round_ in range(1, 201):
        ours.round(lost=["site-0", "site-2"] if round_ in (1, 2, 4, 9) else ())
    assert ours.weights == pytest.approx(common_optimum(sites), abs=1e-3)
