"""Local and Ray grids: equal results, and sites that outlive their process."""

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clients.app import answer
from federation.errors import UserError
from federation.messages import DESCRIBE, TRAIN, Instruction
from federation.vocabulary import agreed_vocabulary
from server.exchange import Exchange
from server.rounds import run_rounds
from server.scoring import evaluate
from server.task import Task
from simulations import host
from simulations import ray_grid as ray_grids
from simulations.grids import FIRST_NODE, LocalGrid
from simulations.ray_grid import RayGrid, RayHost
from simulations.runner import simulate


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    return {
        name: write_site(folder / name, 40 + 10 * i, first_id=1000 * i + 1, seed=i, notes=i < 2)
        / "site.toml"
        for i, name in enumerate(["ash", "birch", "cedar", "elm"])
    }


@pytest.fixture
def study(make_study):
    return make_study("ehr", "text", training={"rounds": 2, "local_epochs": 1})


def task(grid, study, simulated=True):
    exchange = Exchange(grid, simulated=simulated, pooled_node=grid.pooled_node)
    return Task(exchange, study, agreed_vocabulary(study.modalities.ehr))


@pytest.fixture
def ray_grid(sites):
    grid = RayGrid(sites, 2)
    yield grid
    grid.close()


def test_sums_made_in_a_host_equal_single_updates_summed_at_the_server(sites, study):
    folded = run_rounds(task(LocalGrid(sites), study, simulated=True))
    single = run_rounds(task(LocalGrid(sites), study, simulated=False))
    assert np.array_equal(folded.weights, single.weights)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_and_local_grid_give_equal_weights_and_summaries(ray_grid, sites, study):
    local = task(LocalGrid(sites), study)
    spread = task(ray_grid, study)
    one, other = run_rounds(local), run_rounds(spread)
    assert np.array_equal(one.weights, other.weights)
    assert evaluate(local, one.weights, "held_out") == evaluate(spread, other.weights, "held_out")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_actor_killed_in_mid_round_is_replaced_and_the_result_is_the_same(ray_grid, sites, study):
    undisturbed = run_rounds(task(LocalGrid(sites), study))
    answer, killed = ray_grid._answer, []

    def killing(messages, end):
        for count, reply in enumerate(answer(messages, end)):
            if count == 0 and messages[0].metadata.message_type == TRAIN:
                ray_grid.kill_worker(len(killed) % 2)
                killed.append(reply)
            yield reply

    ray_grid._answer = killing
    records = []
    disturbed = run_rounds(task(ray_grid, study), on_round=lambda record, _: records.append(record))
    assert len(killed) == study.training.rounds
    assert [record["failed"] for record in records] == [{}] * study.training.rounds
    assert np.array_equal(undisturbed.weights, disturbed.weights)


def rounds_on(host, sites, study, monkeypatch):
    """Run the rounds on one Ray worker with a host of this file, which Ray cannot import."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_grids, "RayHost", host)
    grid, records = RayGrid(sites, 1), []
    try:
        done = run_rounds(task(grid, study), on_round=lambda record, _: records.append(record))
    finally:
        grid.close()
    return done, records


class PoisonousHost(RayHost):
    """A host whose process dies whenever it trains the site with the lowest node."""

    def run(self, orders, contents):
        if any(order.kind == TRAIN and order.node == FIRST_NODE for order in orders):
            os._exit(1)
        return super().run(orders, contents)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_site_that_kills_its_process_every_time_fails_alone(sites, study, monkeypatch):
    result, records = rounds_on(PoisonousHost, sites, study, monkeypatch)
    assert result.rounds == study.training.rounds
    for record in records:
        assert record["failed"] == {"ash": "the site's process was lost"}
        assert record["answered"] == ["birch", "cedar", "elm"]


class ExhaustedHost(RayHost):
    """A host that cannot train, but lives."""

    def run(self, orders, contents):
        if orders[0].kind == TRAIN:
            raise MemoryError
        return super().run(orders, contents)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_host_that_runs_out_of_memory_loses_its_sites_and_not_the_run(sites, study, monkeypatch):
    result, records = rounds_on(ExhaustedHost, sites, study, monkeypatch)
    assert "0 of 4 sites" in result.lost_quorum
    assert set(records[0]["failed"].values()) == {"the site's process was lost"}


def test_ray_address_at_which_nobody_listens_is_refused_at_once(sites):
    with pytest.raises(UserError, match="no Ray cluster answers"):
        RayGrid(sites, 1, "127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_command_runs_on_an_existing_ray_cluster(tmp_path, sites, study):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        folder = next(iter(sites.values())).parent.parent
        out = tmp_path / "on-the-cluster"
        simulate(study, folder, out, workers=2, ray_address=cluster.address)
        simulate(study, folder, tmp_path / "here", workers=0)
    finally:
        cluster.shutdown()
    texts = [(tmp_path / run / "metrics.json").read_text() for run in ("on-the-cluster", "here")]
    assert texts[0] == texts[1]
    assert json.loads((out / "environment.json").read_text())["grid"] == "RayGrid"


def test_deadline_that_has_passed_leaves_sites_unanswered(sites, study):
    grid = LocalGrid(sites)
    nodes = {name: node for node, name in grid.names.items()}
    exchange = Exchange(grid, simulated=True)
    records = Task(exchange, study, agreed_vocabulary(study.modalities.ehr)).instruction(
        np.zeros(1, np.float32), 1
    )
    answers = list(
        exchange.ask(TRAIN, dict.fromkeys(nodes, records.to_records()), nodes, deadline_seconds=-1)
    )
    assert {answer.failure for answer in answers} == {"no reply before the deadline"}
    assert sorted(answer.site for answer in answers) == sorted(nodes)


def test_deadline_stops_a_local_grid_between_two_sites(sites, study, monkeypatch):
    grid = LocalGrid(sites)
    started = []

    def slow(asked, workbench):
        started.extend(one.file for one in asked)
        time.sleep(0.2)
        return answer(asked, workbench)

    monkeypatch.setattr(host, "answer", slow)
    nodes = {name: node for node, name in grid.names.items()}
    records = dict.fromkeys(nodes, Instruction(study).to_records())
    exchange = Exchange(grid, simulated=True)
    answers = list(exchange.ask(DESCRIBE, records, nodes, deadline_seconds=0.3))
    assert 1 <= len(started) < len(nodes)
    assert [a.failure for a in answers].count("no reply before the deadline") == len(nodes) - len(
        started
    )


def test_only_one_file_touches_flowers_internals():
    root = Path(__file__).parents[2]
    folders = ("federation", "clients", "server", "simulations", "wardround")
    files = [file for folder in folders for file in (root / folder).rglob("*.py")]
    private = re.compile(r"flwr\.(supercore|proto|common|supernode|superlink|simulation)\b")
    assert [f.name for f in files if private.search(f.read_text())] == ["flower.py"]
