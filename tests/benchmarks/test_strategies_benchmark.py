from __future__ import annotations

import doctest
import importlib
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from federation.strategies import STRATEGIES
from server.strategies import RULES

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "../shared/data/uci_heart_disease"
SEED = 11

sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # where a benchmark finds `reporting`
flamby = importlib.import_module("strategies_flamby")
hostile = importlib.import_module("strategies_hostile")
shifts = importlib.import_module("strategies_shifts")
sites = importlib.import_module("strategies_sites")

needs_uci = pytest.mark.skipif(
    not SOURCE.is_dir(), reason=f"UCI's heart-disease files are not at {SOURCE}"
)
TINY = sites.Size(5, 110, 1, 1, (SEED,))


def scored(*aurocs, brier=0.1, left_out=None):
    return sites.Scored({f"site-{i}": value for i, value in enumerate(aurocs)}, brier, left_out)


def test_published_means_are_those_of_their_centres():
    for published in (*flamby.PUBLISHED.values(), flamby.LOCAL):
        assert statistics.mean(published.centres) == pytest.approx(published.accuracy, abs=1e-3)


@needs_uci
def test_a_strategy_of_the_published_table_is_trained_as_its_options_say(tmp_path, monkeypatch):
    monkeypatch.setattr(flamby.heart, "LOCAL_STEPS", 20)
    centres = flamby.heart.read_centres(SOURCE)
    scaling = flamby.heart.own_scaling(centres)
    exchange = flamby.heart.open_sites(centres, scaling, tmp_path / "sites")

    def tested(strategy):
        line = flamby.Published(0.7, (0.7,) * 4, 0.01, strategy)
        return flamby.trained_and_tested(exchange, line, 42, tmp_path / strategy["name"])

    fedavg = tested({"name": "fedavg"})
    assert tested({"name": "fedprox", "mu": 0.0}) == fedavg  # without a pull it is FedAvg
    assert tested({"name": "fedprox", "mu": 90.0}) != fedavg
    assert flamby.alone(exchange, 42).keys() == fedavg.keys()


def test_interval_is_students():
    values = np.random.default_rng(3).normal(size=3)
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert sites.interval(list(values)) == pytest.approx(expected)
    assert doctest.testmod(sites).failed == 0


def test_every_rule_of_the_coordinator_has_a_row():
    measured = {
        options["name"] for options in (*shifts.STRATEGIES.values(), *hostile.STRATEGIES.values())
    }
    ruled = {name for name, kind in STRATEGIES.items() if kind in RULES}
    ruled -= {"fedbuff"}  # which has no rounds to compare
    assert measured <= set(STRATEGIES)
    assert ruled <= measured
    assert {"median", "trimmed_mean", "krum", "multi_krum", "bulyan"} <= measured


def test_personalisation_is_compared_with_fedavg_on_the_same_seed():
    def run(fedavg, own, fedbn):
        found = dict.fromkeys((*shifts.PERSONAL, shifts.LOCAL), scored(own, 0.9))
        return found | {"fedavg": scored(fedavg, 0.8), "fedbn": scored(fedbn, 0.8)}

    runs = [run(0.5, 0.6, 0.45), run(0.6, 0.65, 0.5)]
    results = {"concept": runs, "scanner": runs}
    own, kept = shifts._claims(results, quick=False)
    assert (own.measured, own.holds) == (pytest.approx(0.075), True)
    assert (kept.measured, kept.holds) == (pytest.approx(-0.075), False)
    assert all(row.holds is None for row in shifts._claims(results, quick=True))
    rows = {row.name: row for row in shifts._table(results)}
    note = rows["strategies/shifts/concept/ditto/worst_site_auroc"].note
    assert note.startswith("0.307 to 0.943; over FedAvg +0.075 (-0.243 to 0.393)")
    assert "strategies/shifts/concept/local/left_out_auroc" not in rows


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("consortia")
    plain = TINY.place(folder, SEED, "none")
    sites.draw_sites(plain, TINY.sites, TINY.patients, SEED)
    sites.shift_sites(plain, TINY.place(folder, SEED, "concept"), ["concept"], SEED, 1.0)
    return folder


def test_all_strategies_are_tested_at_the_same_sites_and_at_one_that_did_not_train(
    drawn, monkeypatch
):
    monkeypatch.setitem(shifts.TRIALS, "concept", shifts.Trial(("concept",), "ehr", TINY, TINY))
    monkeypatch.setitem(shifts.TUNED, "ehr", dict.fromkeys(shifts.TUNED["ehr"], 0.3))
    found = shifts.compared(drawn, "concept", SEED, quick=True)
    assert found.keys() == {*shifts.TRIALS["concept"].strategies, *shifts.ON_FEDAVG}
    assert len({frozenset(one.sites) for one in found.values()}) == 1
    assert {len(one.sites) + one.without for one in found.values()} == {TINY.sites - 1}
    assert all(one.left_out is not None for name, one in found.items() if name != shifts.LOCAL)
    assert found[shifts.LOCAL].left_out is None
    # A positive line through the logits orders nobody anew, and the newcomer has only the shared.
    assert found["ditto"].left_out == found["fedavg"].left_out
    assert found["ditto"].sites != found["fedavg"].sites


def test_hostile_sites_move_fedavg_and_not_the_median(drawn):
    def weights(name, table):
        study = hostile._studies(SEED, TINY, table, ["bayview"])[name]
        study = sites.study_of(SEED, ("ehr",), **_without_quorum(study))
        with sites.Bench.of(TINY.place(drawn, SEED, "none")) as bench:
            return bench.trained(bench.task(study))

    many = {"attack": "scaled_update", "scale": 50.0}
    moved = {
        name: np.linalg.norm(weights(name, many) - weights(name, None))
        for name in ("fedavg", "median")
    }
    assert moved["median"] < 0.1 * moved["fedavg"]


def test_trigger_succeeds_where_the_model_looks_for_it_alone(drawn):
    study = hostile._studies(SEED, TINY, None, [])["fedavg"]
    with sites.Bench.of(TINY.place(drawn, SEED, "none")) as bench:
        task = bench.task(study)
        triggered = hostile.Triggered([bench.file("bayview")], task)
        model = hostile.build_model(study, task.vocabulary)
        weights = model.weights()
        assert triggered.success(task, np.zeros_like(weights)) == 0.0
        last = next(v for n, v in model.named_arrays().items() if n.endswith("head.2.bias"))
        assert last.shape == (1,)
        sure = np.zeros_like(weights)
        sure[-1] = 5.0  # the last bias: everybody is at risk
        assert triggered.success(task, sure) == 1.0


def _without_quorum(study):
    data = study.to_dict()
    return {
        "training": data["training"],
        "strategy": data["strategy"] | {"minimum_sites": 2},
        **({"simulation": data["simulation"]} if "simulation" in data else {}),
    }
