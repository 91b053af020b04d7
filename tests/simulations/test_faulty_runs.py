"""Whole runs under faults: what is recorded, who enters the sum, and that it repeats."""

import json
from pathlib import Path

import numpy as np
import pytest

from clients.ledger import Ledger
from federation.messages import FEDERATED
from federation.models.build import build_model
from federation.study import load_study
from federation.vocabulary import agreed_vocabulary
from server.exchange import LOST, NO_REPLY, Exchange
from server.report.page import render
from server.report.run_folder import read_run_folder
from server.rounds import run_rounds
from server.task import Task
from simulations.consortium import synthesize
from simulations.faults import Faults
from simulations.grids import LocalGrid
from simulations.runner import LEDGERS, simulate
from simulations.workbench import SIMULATED_COMMITMENT

EXAMPLE = Path(__file__).parents[2] / "examples/studies/synthetic-faults.toml"
SMALL = ["training.rounds=5", "modalities.image.size=32", "evaluation.baselines=[]"]
NAMES = ("ash", "birch", "cedar", "elm")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "sites"
    synthesize(folder, sites=6, patients=60, seed=7, image_size=32)
    return folder


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    for k, name in enumerate(NAMES):
        write_site(folder / name, 80 + 10 * k, first_id=1000 * k + 1, seed=k)
    return folder


@pytest.fixture
def study(make_study):
    """Return a builder of studies of two rounds with these faults."""

    def study(faults=None, **sections):
        simulation = {} if faults is None else {"simulation": {"faults": faults}}
        return make_study(evaluation={"every": 0}, **simulation, **sections)

    return study


def lines(run):
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def trained(sites, study, names=NAMES):
    """Return the model after the rounds of a study, at some of the sites."""
    grid = LocalGrid({name: sites / name / "site.toml" for name in names})
    if study.simulation is not None:
        sizes = {one.site: one.training for one in grid.inspect(study)}
        grid.use_faults(Faults(study.simulation.faults, sizes, study.study.seed))
    vocabulary, records = agreed_vocabulary(study.modalities.ehr), []
    task = Task(Exchange(grid, simulated=True), study, vocabulary)
    result = run_rounds(task, on_round=lambda record, _: records.append(record))
    grid.close()
    return result.weights, records


def test_example_records_its_faults_and_what_came_of_them(hospitals, tmp_path):
    study, run = load_study(EXAMPLE, SMALL), tmp_path / "run"
    simulate(study, hospitals, run, workers=0)
    names = sorted(file.parent.name for file in hospitals.glob("*/site.toml"))
    deadline, late = study.strategy.round_deadline_seconds, 0
    for line in lines(run):
        faults = line["faults"]
        delayed = {site for site, delay in faults["delays"].items() if delay > deadline}
        late += len(delayed)
        missing = delayed | set(faults["dropped"])
        assert len(faults["dropped"]) == 2
        assert line["failed"] == dict.fromkeys(sorted(missing), NO_REPLY)
        assert line["rejected"] == {}
        assert line["answered"] == sorted(set(names) - missing)
        assert ("hostile" in faults) <= (line["round"] >= 4)
    assert any("hostile" in line["faults"] for line in lines(run))
    assert late, "nobody was too late in five rounds"
    page = render(read_run_folder(run))
    assert "Faults that were simulated" in page
    assert "sign_flip" in page


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_faults_are_the_same_on_ray_and_in_this_process(hospitals, tmp_path):
    more = ["simulation.faults.crash={probability=0.2}", "simulation.faults.corrupted.kind='bits'"]
    more += ["simulation.faults.corrupted.probability=0.3", "training.rounds=3"]
    more += ["simulation.faults.duplicated_replies.probability=0.3"]
    study = load_study(EXAMPLE, [*SMALL, *more])
    for workers in (0, 2):
        simulate(study, hospitals, tmp_path / str(workers), workers=workers)
    for name in ("metrics.json", "model.safetensors", "summaries.json"):
        one, other = (tmp_path / str(workers) / name for workers in (0, 2))
        assert one.read_bytes() == other.read_bytes()
    kept = ("faults", "failed", "rejected", "answered", "loss", "metrics", "asked")
    one, other = (
        [{key: line[key] for key in kept} for line in lines(tmp_path / str(workers))]
        for workers in (0, 2)
    )
    assert one == other
    assert any("crashed" in line["faults"] for line in one)
    assert any("corrupted" in line["faults"] for line in one)


CERTAIN = {"probability": 1.0, "sites": ["birch"]}
AWAY = {
    "dropout": (CERTAIN, NO_REPLY),
    "crash": (CERTAIN, LOST),
    "lost_replies": (CERTAIN, NO_REPLY),
    "stragglers": (
        {"distribution": "constant", "median_seconds": 5000.0, "sites": ["birch"]},
        NO_REPLY,
    ),
}


@pytest.mark.parametrize("fault", AWAY)
def test_site_whose_update_does_not_arrive_is_not_in_the_sum(sites, study, fault):
    table, why = AWAY[fault]
    found, records = trained(sites, study({fault: table}))
    absent, _ = trained(sites, study(), [name for name in NAMES if name != "birch"])
    assert [record["failed"] for record in records] == [{"birch": why}] * 2
    assert np.array_equal(found, absent)
    assert not np.array_equal(found, trained(sites, study())[0])


@pytest.mark.parametrize("kind", ["nan", "shape"])
def test_damaged_update_is_rejected_and_is_not_in_the_sum(sites, study, kind):
    found, records = trained(sites, study({"corrupted": {**CERTAIN, "kind": kind}}))
    assert [list(record["rejected"]) for record in records] == [["birch"]] * 2
    absent, _ = trained(sites, study(), [name for name in NAMES if name != "birch"])
    assert np.array_equal(found, absent)


@pytest.mark.parametrize(
    "faults",
    [
        {"duplicated_replies": {"probability": 1.0}},
        {"stragglers": {"distribution": "constant", "median_seconds": 100.0}},
        {
            "dropout": {"probability": 0.0},
            "crash": {"probability": 0.0},
            "lost_replies": {"probability": 0.0},
            "duplicated_replies": {"probability": 0.0},
            "corrupted": {"probability": 0.0},
            "clock_skew": {"spread_seconds": 0.0},
            "hostile": [{"attack": "label_flip", "count": 4, "from_round": 3}],
        },
    ],
    ids=["every reply twice", "late but in time", "no fault that strikes"],
)
def test_what_keeps_no_update_away_changes_no_bit(sites, study, faults):
    found, records = trained(sites, study(faults))
    assert np.array_equal(found, trained(sites, study())[0])
    assert all(record["answered"] == list(NAMES) for record in records)


@pytest.mark.parametrize("attack", ["sign_flip", "scaled_update", "label_flip", "backdoor"])
def test_hostile_site_changes_the_model_from_its_round_on(sites, study, attack):
    def after(rounds, from_round):
        table = {"attack": attack, "sites": ["cedar"], "from_round": from_round}
        return trained(sites, study({"hostile": [table]}, training={"rounds": rounds}))[0]

    honest = trained(sites, study(training={"rounds": 2}))[0]
    assert np.array_equal(after(2, from_round=3), honest)
    assert not np.array_equal(after(2, from_round=2), honest)


def test_sign_flip_of_everybody_turns_the_first_step_around(sites, study):
    honest = study(training={"rounds": 1})
    everybody = [{"attack": "sign_flip", "count": 4}]
    hostile = study({"hostile": everybody}, training={"rounds": 1})
    start = build_model(honest, agreed_vocabulary(honest.modalities.ehr)).weights()
    forward, back = (trained(sites, one)[0] - start for one in (honest, hostile))
    np.testing.assert_allclose(back, -forward, rtol=1e-3, atol=1e-6)


def test_crashed_site_has_paid_for_its_round(sites, study, tmp_path):
    private = study(
        {"crash": {"probability": 1.0, "sites": ["elm"]}},
        privacy={"mechanism": "dp_sgd", "epsilon": 3.0},
    )
    simulate(private, sites, tmp_path / "run", workers=0)
    for line in lines(tmp_path / "run"):
        assert line["faults"] == {"crashed": ["elm"]}
        assert line["failed"] == {"elm": LOST}
        assert "elm" not in line["spent"]
    steps = {}
    for site in ("cedar", "elm"):
        path = tmp_path / "run" / LEDGERS / f"{site}.sqlite"
        ledger = Ledger(path, site, SIMULATED_COMMITMENT, durable=False)
        steps[site] = sum(segment.steps for segment in ledger.segments(model=FEDERATED))
        ledger.close()
    assert steps["elm"] > 0
    told = json.loads((tmp_path / "run" / "privacy.json").read_text())["sites"]
    assert told["elm"].get("epsilon") is None, "it never said what it spent"
    assert told["cedar"]["steps"] == steps["cedar"]


def test_comparators_alone_and_pooled_meet_no_fault(sites, study, make_study, tmp_path):
    faults = {
        "lost_replies": {"probability": 0.5},
        "hostile": [{"attack": "sign_flip", "count": 1}],
    }
    made = {}
    for name, simulation in (("with", {"faults": faults}), ("without", {})):
        comparing = make_study(
            evaluation={"every": 0, "baselines": ["local", "pooled"]}, simulation=simulation
        )
        simulate(comparing, sites, tmp_path / name, workers=0)
        made[name] = json.loads((tmp_path / name / "metrics.json").read_text())["models"]
    for model in ("local", "pooled"):
        assert made["with"][model] == made["without"][model]
    one, other = (tmp_path / name / "model.safetensors" for name in made)
    assert one.read_bytes() != other.read_bytes()
