"""A run on a Ray cluster of two machines: the same result, whatever happens to one of them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from federation.errors import UserError
from federation.messages import TRAIN
from federation.vocabulary import agreed_vocabulary
from server.coordinator import Progress
from server.exchange import Exchange
from server.rounds import run_rounds
from server.scoring import evaluate
from server.task import Task
from simulations import ray_grid
from simulations.grids import LocalGrid
from simulations.ray_grid import RayGrid, RayHost
from simulations.runner import simulate

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
MEMORY = 80 * 2**20
"""Ray's smallest object store, and a little."""


@pytest.fixture
def sites(tmp_path, write_site):
    return {
        name: write_site(tmp_path / "sites" / name, 40 + 10 * i, first_id=1000 * i + 1, seed=i)
        / "site.toml"
        for i, name in enumerate(["ash", "birch", "cedar", "elm", "fir", "gum"])
    }


@pytest.fixture
def study(make_study):
    return make_study("ehr", training={"rounds": 4, "local_epochs": 1})


@pytest.fixture
def scratch(monkeypatch, tmp_path):  # tmp_path first, or it would lie in here
    """Where temporary files go; a short path, since Ray puts sockets there."""
    with tempfile.TemporaryDirectory(prefix="w-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def cluster(scratch):
    """Two machines with one core each; the test's process stands on the first."""
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY}
    )
    made.add_node(num_cpus=1, object_store_memory=MEMORY)
    yield made
    made.shutdown()


@pytest.fixture
def blind_machine(tmp_path, scratch):
    """A second machine that does not see the folder of the sites, nor the run's."""
    if not may_hide_folders():
        pytest.skip("needs the right to make a mount namespace")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": MEMORY}
    )
    (tmp_path / "blind").mkdir()
    (scratch / "there").mkdir()
    start = [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--block", f"--address={cluster.address}", "--num-cpus=1"),
        *(f"--object-store-memory={MEMORY}", "--disable-usage-stats"),
    ]
    hidden = f'mount --bind {tmp_path}/blind {tmp_path} && exec "$@"'
    machine = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", hidden, "sh", *start],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(scratch / "there")},
    )
    try:
        _wait_for_machines(cluster, 2)
        yield cluster
    finally:
        machine.terminate()
        machine.wait(30)
        cluster.shutdown()


def _wait_for_machines(cluster, count):
    end = time.monotonic() + 60
    while len(cluster.global_state._live_node_ids()) < count:
        assert time.monotonic() < end, "the second machine did not join"
        time.sleep(0.2)


def may_hide_folders():
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def task(grid, study):
    exchange = Exchange(grid, simulated=True, pooled_node=grid.pooled_node, members=grid.members)
    return Task(exchange, study, agreed_vocabulary(study.modalities.ehr))


def stores(scratch):
    return [*scratch.glob("wardround-*"), *scratch.glob("there/wardround-*")]


def test_two_machines_give_the_result_of_one_process_and_leave_nothing(
    cluster, scratch, sites, study
):
    alone = task(LocalGrid(sites), study)
    expected = run_rounds(alone)
    grid = RayGrid(sites, 2, cluster.address)
    try:
        assert len(set(grid._crew.machines.values())) == 2
        spread = task(grid, study)
        result = run_rounds(spread)
        assert np.array_equal(result.weights, expected.weights)
        assert evaluate(spread, result.weights, "held_out") == evaluate(
            alone, expected.weights, "held_out"
        )
        kept = stores(scratch)
    finally:
        grid.close()
    alone.exchange.grid.close()
    assert kept, "the store was not where this test looks for it"
    assert not stores(scratch)


class HeldHost(RayHost):
    """A host that answers nothing while a file of its machine's name lies in the scratch folder."""

    def run(self, orders, contents):
        machine, _ = self.introduce()
        while Path(os.environ["TMPDIR"], machine).exists():
            time.sleep(0.01)
        return super().run(orders, contents)


@pytest.mark.parametrize("gracefully", [True, False])
def test_machine_that_dies_in_mid_round_leaves_its_sites_to_the_other(
    cluster, scratch, sites, study, monkeypatch, gracefully
):
    from ray import cloudpickle

    local = LocalGrid(sites, together=False)
    expected = run_rounds(task(local, study))
    local.close()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_grid, "RayHost", HeldHost)
    grid = RayGrid(sites, 2, cluster.address, together=False)
    answer, recover, rounds, recovered = grid._answer, grid._recover, [], []

    def killing(messages, end):
        training = messages[0].metadata.message_type == TRAIN
        rounds.append(training)
        dies = training and sum(rounds) == 2
        if dies:
            (machine,) = cluster.worker_nodes
            (scratch / machine.node_id).touch()
        for count, reply in enumerate(answer(messages, end)):
            if dies and count == 0:
                cluster.remove_node(machine, allow_graceful=gracefully)
            yield reply

    def counting(worker, work, flying, queues):
        recovered.append((sum(rounds), rounds[-1]))
        yield from recover(worker, work, flying, queues)

    grid._answer, grid._recover = killing, counting
    records = []
    try:
        result = run_rounds(task(grid, study), on_round=lambda record, _: records.append(record))
    finally:
        grid.close()
    assert recovered == [(2, True)], "no call was on the machine when it died"
    assert grid.workers == 1
    assert [record["failed"] for record in records] == [{}] * study.training.rounds
    assert [sorted(record["answered"]) for record in records] == [sorted(sites)] * 4
    assert np.array_equal(result.weights, expected.weights)
    assert not stores(scratch)


def test_machine_that_lacks_the_sites_gets_them_and_splits_them_alike(
    blind_machine, scratch, sites, study, tmp_path
):
    for file in sites.values():
        secret = file.parent / "state" / "ledger.sqlite"
        secret.parent.mkdir(exist_ok=True)
        secret.write_bytes(b"spent")
    outcome, copies = {}, set()

    def look(record, rounds):
        copies.update(scratch.glob("there/wardround-*/sites/*/site.toml"))

    for run, options in {"here": {"workers": 0}, "there": {"workers": 2}}.items():
        address = blind_machine.address if run == "there" else None
        simulate(
            study,
            tmp_path / "sites",
            tmp_path / run,
            ray_address=address,
            progress=Progress(round_done=look),
            **options,
        )
        outcome[run] = json.loads((tmp_path / run / "metrics.json").read_text())
    assert outcome["there"] == outcome["here"]
    assert 0 < len(copies) < len(sites), "each machine fetches the sites that it plays"
    assert not stores(scratch)


def test_ledgers_that_would_not_last_are_refused(blind_machine, sites, study, tmp_path, make_study):
    private = make_study(privacy={"mechanism": "dp_sgd", "epsilon": 3.0})
    with pytest.raises(UserError, match="not reached by every machine") as refused:
        simulate(
            private,
            tmp_path / "sites",
            tmp_path / "run",
            workers=2,
            ray_address=blind_machine.address,
        )
    assert refused.value.where == "--out"
    with pytest.raises(UserError, match="copies of the sites") as refused:
        simulate(
            study,
            tmp_path / "sites",
            tmp_path / "other",
            workers=2,
            ray_address=blind_machine.address,
            site_ledgers=True,
        )
    assert refused.value.where == "--site-ledgers"
