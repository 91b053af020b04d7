"""Joining Ray: what its machines have, and what is refused before anything runs."""

import math
import shutil
import socket
import threading
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UserError
from simulations import cluster
from simulations.cluster import Machine, disk_for_objects, gpu_share, machines, most_workers

MACHINES = st.lists(
    st.tuples(st.integers(1, 16), st.integers(0, 4)).map(lambda m: Machine("m", *m)),
    min_size=1,
    max_size=4,
)


class FakeRay:
    """A cluster as Ray tells of it."""

    def __init__(self, *nodes):
        self._nodes = nodes

    def nodes(self):
        return [
            {
                "NodeID": str(i),
                "Alive": alive,
                "Resources": {"CPU": cores, "GPU": gpus, "object_store_memory": 1e9},
                "ObjectStoreSocketName": "/tmp/ray/session_1/sockets/plasma_store",
            }
            for i, (alive, cores, gpus) in enumerate(self._nodes)
        ]


def test_machines_that_are_gone_do_not_count():
    (left,) = machines(FakeRay((True, 4.0, 0), (False, 8.0, 2)))
    assert (left.id, left.cores, left.gpus, left.memory) == ("0", 4, 0.0, 1e9)
    assert str(left.session) == "/tmp/ray/session_1"


@given(MACHINES, st.data())
def test_all_workers_fit_on_the_gpus_at_once(here, data):
    workers = data.draw(st.integers(1, most_workers(here)))
    share = gpu_share(here, workers)
    if not any(machine.gpus for machine in here):
        assert share == 0
        return
    assert 0 < share <= 1
    # Ray counts in ten-thousandths, and a worker's part is of one GPU.
    on_one = 10_000 // round(share * 10_000)
    assert sum(min(m.cores, int(m.gpus) * on_one) for m in here) >= workers


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [(1, 1, 1), (1, 4, 0.25), (2, 4, 0.5), (4, 2, 1), (2, 3, 0.5), (1, 6, 0.1666)],
)
def test_gpus_are_divided_among_workers(gpus, workers, share):
    assert gpu_share([Machine("a", 16, gpus)], workers) == share


def test_machines_without_gpus_are_left_out_where_some_have_them():
    here = [Machine("a", 32), Machine("b", 4, 1)]
    assert most_workers(here) == 4
    assert gpu_share(here, 4) == 0.25


def test_port_at_which_something_else_listens_is_refused(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=server.accept, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="not Ray"):
            cluster.start_ray(None, 1, address)


def test_disk_takes_objects_until_ray_stops_writing(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    for free, room in {200.0: 150.0, 50.0: 0.0, 20.0: 0.0}.items():
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage(1000.0, 1000.0 - f, f))
        assert math.isclose(disk_for_objects(tmp_path), room, abs_tol=1e-9)


def test_full_disk_is_said_before_ray_is_started(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1e9, 1e9, 0))
    with pytest.raises(UserError, match="0 MB are free") as refused:
        cluster.start_ray(None, 1, None)
    assert "TMPDIR" in refused.value.remedy
