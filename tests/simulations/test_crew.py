"""The actors of a run, on a cluster that a test makes up."""

from types import SimpleNamespace

import pytest
from ray import exceptions

from federation.errors import UserError, WardroundError
from simulations import crew as crews
from simulations.cluster import Machine, versions
from simulations.crew import Crew


class FakeRay:
    """Runs every call at once; ``alive`` are its machines, ``asked`` what actors were asked for."""

    exceptions = exceptions

    def __init__(self, *alive):
        self.alive, self.asked, self.broken = list(alive), {}, set()

    def remote(self, actor):
        def options(**asked):
            self.asked = asked
            return SimpleNamespace(remote=lambda *arguments: FakeActor(self))

        return SimpleNamespace(options=options)

    def nodes(self):
        return [
            {
                "NodeID": m.id,
                "Alive": True,
                "Resources": {"CPU": m.cores, "GPU": m.gpus, "object_store_memory": m.memory},
                "ObjectStoreSocketName": "/tmp/ray/session/sockets/plasma_store",
            }
            for m in self.alive
        ]

    def get(self, calls):
        if isinstance(calls, list):
            return [self.get(call) for call in calls]
        return calls()

    def wait(self, calls, timeout):
        return (calls, []) if self.alive else ([], calls)

    def kill(self, actor):
        pass


class FakeActor:
    """Answers as the actor of a machine that lacks nothing, or as the test has it."""

    found, room_left, reach = None, 0.0, True

    def __init__(self, ray):
        self._ray = ray

    def __getattr__(self, name):
        answers = {
            "introduce": (self._ray.alive[0].id if self._ray.alive else "", self.found),
            "lacking": [],
            "room": self.room_left,
            "reaches": self.reach,
        }

        def call(*arguments):
            if name in self._ray.broken:
                raise exceptions.RayActorError
            return answers.get(name)

        return SimpleNamespace(remote=lambda *arguments: lambda: call(*arguments))


@pytest.fixture(autouse=True)
def same_versions(monkeypatch):
    monkeypatch.setattr(FakeActor, "found", versions())


def crew(ray, workers=None, sites=4, shared=False, gpus=True):
    files = {node: f"{node}/site.toml" for node in range(sites)}
    return Crew(ray, object, (files,), workers, shared=shared, store="wardround-x", gpus=gpus)


@pytest.fixture
def on_a_cluster(monkeypatch):
    monkeypatch.setattr(crews, "sealed", lambda file: "")
    return lambda ray, workers: crew(ray, workers, shared=True)


@pytest.mark.parametrize(
    ("machine", "workers", "gpus", "share"),
    [
        (Machine("a", 4, 1), 4, True, 0.25),
        (Machine("a", 4, 2), 4, True, 0.5),
        (Machine("a", 4, 4), 2, True, 1.0),
        (Machine("a", 4, 1), 4, False, 0.0),
        (Machine("a", 4, 0), 4, True, 0.0),
    ],
)
def test_each_worker_asks_for_a_core_and_its_part_of_a_gpu(machine, workers, gpus, share):
    ray = FakeRay(machine)
    assert len(crew(ray, workers, gpus=gpus).actors) == workers
    assert ray.asked == {"num_cpus": 1, "num_gpus": share}


def test_workers_are_as_many_as_sites_or_cores_whichever_are_fewer():
    assert len(crew(FakeRay(Machine("a", 8)), sites=3).actors) == 3
    assert len(crew(FakeRay(Machine("a", 1), Machine("b", 1)), sites=3).actors) == 2


def test_more_workers_than_cores_are_refused():
    with pytest.raises(UserError, match="3 workers, but the Ray cluster has 2 cores"):
        crew(FakeRay(Machine("a", 1), Machine("b", 1)), 3)


def test_machine_with_other_versions_is_refused(on_a_cluster, monkeypatch):
    monkeypatch.setattr(FakeActor, "found", versions() | {"torch": "1.0"})
    with pytest.raises(UserError, match=r"torch 1\.0 instead of"):
        on_a_cluster(FakeRay(Machine("a", 1)), 1)


def test_machine_on_which_a_worker_cannot_start_is_refused(on_a_cluster):
    ray = FakeRay(Machine("a", 1))
    ray.broken.add("introduce")
    with pytest.raises(UserError, match="a worker could not be started"):
        on_a_cluster(ray, 1)


def test_workers_that_find_no_free_core_are_refused(on_a_cluster, monkeypatch):
    monkeypatch.setattr(crews, "PLACED_SECONDS", 0.1)
    ray = FakeRay(Machine("a", 1))
    ray.wait = lambda calls, timeout: ([], calls)
    with pytest.raises(UserError, match="other work may hold them"):
        on_a_cluster(ray, 1)


def test_worker_without_a_machine_is_dropped_and_the_last_ends_the_run(on_a_cluster):
    ray = FakeRay(Machine("a", 1), Machine("b", 1))
    made = on_a_cluster(ray, 2)
    ray.alive, ray.wait = [Machine("b", 1)], lambda calls, timeout: ([], calls)
    made.replace(0)
    assert list(made.actors) == [1]
    ray.alive = []
    with pytest.raises(WardroundError, match="has lost all machines"):
        made.replace(1)


def test_replacement_that_does_not_reach_the_ledgers_is_not_used(
    on_a_cluster, monkeypatch, tmp_path
):
    made = on_a_cluster(FakeRay(Machine("a", 2)), 2)
    assert made.all_reach(tmp_path / "ledgers")
    monkeypatch.setattr(FakeActor, "reach", False)
    made.replace(0)
    assert list(made.actors) == [1]
    assert list((tmp_path / "ledgers").iterdir()) == []


@pytest.mark.parametrize(("room", "fits"), [(100, False), (1000, True)])
def test_disk_without_room_for_what_memory_does_not_hold_is_refused(monkeypatch, room, fits):
    made = crew(FakeRay(Machine("a", 1, memory=500)), 1)
    monkeypatch.setattr(crews, "disk_for_objects", lambda session: room)
    made.check_room(400)
    if fits:
        made.check_room(1200)
        return
    with pytest.raises(UserError, match="Ray keeps here what its memory") as refused:
        made.check_room(1200)
    assert refused.value.where == "/tmp/ray/session"
