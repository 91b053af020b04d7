"""Whole runs under the strategies: workers, resumption, deployed sites, and what is kept where."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from clients.app import Asked, answer
from clients.workbench import Workbench
from federation.messages import Reply
from federation.strategies import STRATEGIES
from federation.study import Study
from federation.vocabulary import agreed_vocabulary
from server.coordinator import Progress
from server.exchange import Exchange
from server.rounds import evaluate, run_rounds
from server.task import Task
from simulations.grids import LocalGrid
from simulations.ray_grid import RayGrid
from simulations.runner import simulate

SGD = {"name": "sgd", "lr": 0.1, "schedule": {"kind": "cosine"}}
OPTIONS = {
    "scaffold": {"participation": {"kind": "random", "sites": 3}, "minimum_sites": 2},
    "feddyn": {"alpha": 0.2, "participation": {"kind": "poisson", "fraction": 0.8}},
    "fedavg": {"weighting": "inverse_variance"},
    "fedprox": {"screening": {"norm_ratio": 100.0}},
    "krum": {"minimum_sites": 5},
    "multi_krum": {"minimum_sites": 5},
    "bulyan": {"minimum_sites": 7},
    "fedbuff": {"buffer": 7},
}
NAMES = ["ash", "birch", "cedar", "elm", "fir", "gum", "hazel"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    for i, name in enumerate(NAMES):
        more = {"images": i == 0, "notes": i < 3, "policy": {"minimum_cell": 2}}
        write_site(folder / name, 40 + 3 * i, first_id=1000 * i + 1, seed=i, **more)
    return folder


@pytest.fixture(scope="module")
def files(folder):
    return {name: folder / name / "site.toml" for name in NAMES}


@pytest.fixture(scope="module")
def study_of(study_document):
    """Return a builder of studies; FedBN gets images, which alone have normalisation layers."""

    def study_of(name, rounds=2, strategy=(), **more):
        training = {"rounds": rounds, "batch_size": 16, "optimizer": SGD}
        modalities = ("ehr", "image") if name == "fedbn" else ("ehr", "text")
        options = {"name": name, **OPTIONS.get(name, {}), **dict(strategy)}
        written = study_document(*modalities, strategy=options, training=training, **more)
        return Study.model_validate(written)

    return study_of


def task_of(grid, study, simulated=True):
    sizes = {name: 20 + i for i, name in enumerate(NAMES)}
    members = grid.members if simulated else None
    exchange = Exchange(grid, simulated=simulated, members=members)
    return Task(exchange, study, agreed_vocabulary(study.modalities.ehr), sizes=sizes, run="a1")


def told(records):
    """Records without what a clock decides."""
    return [{k: v for k, v in r.items() if k not in ("seconds", "bytes")} for r in records]


def outcome(task):
    records = []
    result = run_rounds(task, on_round=lambda record, standing: records.append(record))
    assert result.rounds == task.study.training.rounds, records
    return result.weights, told(records), evaluate(task, result.weights, "held_out")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_two_workers_find_what_none_finds_under_every_strategy(files, study_of, tmp_path):
    local, spread = LocalGrid(files), RayGrid(files, 2)
    try:
        for name in STRATEGIES:
            study, found = study_of(name), []
            for grid in (local, spread):
                grid.use_memories(tmp_path / name / type(grid).__name__)
                found.append(outcome(task_of(grid, study)))
            (one, records, scores), (other, others, other_scores) = found
            assert np.array_equal(one, other), name
            assert records == others, name
            assert scores == other_scores, name
    finally:
        spread.close()
        local.close()


class DeployedGrid(LocalGrid):
    """Each site answers from a workbench of its own, opened anew for each message."""

    def _answer(self, messages, end):
        from simulations.host import Arrival

        for place, message in enumerate(messages):
            metadata = message.metadata
            asked = Asked(metadata.message_type, message.content, self.files[metadata.dst_node_id])
            (reply,) = answer([asked], Workbench())
            assert isinstance(reply, Reply)
            yield self._reply(Arrival(place, reply.to_records()), messages)


DEPLOYED = [name for name, kind in STRATEGIES.items() if kind.at_sites or kind.keeps]
DEPLOYED += ["fedavg", "fednova", "qfedavg", "afl", "krum"]


@pytest.mark.parametrize("name", DEPLOYED)
def test_deployed_sites_give_what_the_simulation_gives(files, study_of, tmp_path, name):
    some = {site: files[site] for site in NAMES[: 5 if name == "krum" else 3]}
    study = study_of(name)
    simulated = LocalGrid(some)
    simulated.use_memories(tmp_path)
    one, _, scores = outcome(task_of(simulated, study))
    other, _, other_scores = outcome(task_of(DeployedGrid(some), study, simulated=False))
    assert np.array_equal(one, other)
    assert scores == other_scores
    kept = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.safetensors"))
    assert bool(kept) == bool(study.strategy.keeps)
    for file in some.values():
        own = file.parent / "state" / "personal" / "a1" / "federated"
        assert any(own.glob("*.safetensors")) or name not in ("fedbn", "fedper", "ditto", "apfl")


COMPRESSED = {
    "fp16": {"kind": "fp16"},
    "int8": {"kind": "int8"},
    "top_k": {"kind": "top_k", "fraction": 0.1},
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_deployed_sites_compress_as_the_simulation_does(files, study_of, tmp_path, kind):
    some = {site: files[site] for site in NAMES[:3]}
    study = study_of("fedavgm", rounds=3, strategy={"compression": COMPRESSED[kind]})
    simulated, run = LocalGrid(some), f"c{len(kind)}"
    simulated.use_memories(tmp_path)
    found = []
    for grid in (simulated, DeployedGrid(some)):
        task = replace(task_of(grid, study, grid is simulated), run=run)
        records = []
        result = run_rounds(task, on_round=lambda record, standing, to=records: to.append(record))
        found.append((result.weights, [record["bytes"]["received"] for record in records]))
    (one, bytes_of_one), (other, bytes_of_other) = found
    assert np.array_equal(one, other)
    assert len(bytes_of_one) == 3
    assert bytes_of_one == pytest.approx(bytes_of_other, abs=300)  # the sum's own description
    assert max(bytes_of_other) < 0.7 * 4 * len(one) * len(some)
    unsent = list(tmp_path.rglob("federated.unsent/*.safetensors"))
    assert bool(unsent) == study.strategy.compression.feeds_back


CHOOSING = {"selection": {"keep": "best", "patience": 3}}
RESUMED = {
    "scaffold": {},
    "feddyn": {"strategy": {"ema": 0.5}, **CHOOSING},
    "fedavg": {"strategy": {"compression": {"kind": "top_k", "fraction": 0.05}}},
    "apfl": {"personalisation": {"calibration": "platt"}},
    "fedavgm": {
        "strategy": {
            "participation": {"kind": "power_of_choice", "sites": 3, "candidates": 6}
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_resumed_in_its_midst_equals_one_that_was_not_broken(
    folder, study_of, tmp_path, name
):
    study = study_of(name, rounds=3, **RESUMED[name])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    simulate(study, folder, whole, workers=0)

    def stop_in_the_last(heard):
        if heard.round == 3 and heard.heard > 1:  # some sites have kept what they learned in it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(study, folder, broken, workers=0, progress=Progress(heard=stop_in_the_last))
    simulate(study, folder, broken, workers=0, resume=True)
    for file in ("metrics.json", "model.safetensors", "summaries.json"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    lines = [told(map(json.loads, (p / "rounds.jsonl").open())) for p in (whole, broken)]
    assert lines[0] == lines[1]


def test_personal_files_of_a_simulation_lie_in_its_run_and_hold_no_shared_part(
    folder, study_of, tmp_path
):
    study = study_of("fedper")
    simulate(study, folder, tmp_path / "run", workers=0)
    found = sorted((tmp_path / "run" / "personal").iterdir())
    assert [path.name for path in found] == NAMES
    models = [load_file(path / "federated" / "000002.safetensors")["own"] for path in found]
    assert all(len(one) == len(models[0]) for one in models)
    assert len({one.tobytes() for one in models}) == len(NAMES)
    shared = load_file(tmp_path / "run" / "model.safetensors")
    head = sum(a.size for name, a in shared.items() if name.startswith("fusion."))
    assert all(np.count_nonzero(one) <= head for one in models)


def test_a_comparator_that_the_strategy_cannot_train_is_named(tmp_path, write_site, make_study):
    """FedBN needs normalisation layers, and the EHR alone has none."""
    for i in range(2):
        more = {"images": True, "first_id": 100 * i + 1, "seed": i}
        write_site(tmp_path / "sites" / f"site-{i}", 40, **more)
    study = make_study(
        "ehr",
        "image",
        strategy={"name": "fedbn"},
        training={"rounds": 1},
        evaluation={"baselines": ["single_modality"]},
    )
    outcome = simulate(study, tmp_path / "sites", tmp_path / "run", workers=0)
    assert any(
        "There is no model ehr_only: " in warning and "normalisation layers" in warning
        for warning in outcome.warnings
    )
