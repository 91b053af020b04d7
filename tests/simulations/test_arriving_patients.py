"""Sites that go on admitting patients: who is trained on in which round."""

import json
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from federation.vocabulary import agreed_vocabulary
from server.exchange import Exchange
from server.rounds import run_rounds
from server.task import Task
from simulations.grids import LocalGrid
from simulations.ray_grid import RayGrid
from simulations.runner import simulate
from simulations.workbench import POOLED, SimulatedWorkbench

ROUNDS = 3


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    for k, name in enumerate(["ash", "birch", "cedar"]):
        write_site(folder / name, 50 + 20 * k, seed=k, first_id=1000 * k + 1)
    return folder


@pytest.fixture
def study(make_study):
    def study(kind="growing", fraction=0.5, **sections):
        training = {"rounds": ROUNDS, "batch_size": 16}
        arrival = {"kind": kind, "fraction": fraction}
        return make_study(training=training, simulation={"arrival": arrival}, **sections)

    return study


@pytest.fixture
def workbench(sites, tmp_path):
    files = [str(sites / name / "site.toml") for name in ("ash", "birch", "cedar")]
    return SimulatedWorkbench(files, tmp_path / "store")


def trained_on(workbench, file, study, round_):
    """Return the subjects whom a site trains on in a round."""
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    with workbench.training(round_):
        patients = workbench.cohort(file, study, vocabulary).patients
    return set(patients.subject_ids[patients.splits["train"]].tolist())


def test_growing_site_trains_on_its_earliest_patients_first_and_on_all_in_the_end(
    workbench, sites, study, identified
):
    study, file = study(), str(sites / "cedar" / "site.toml")
    vocabulary = agreed_vocabulary(study.modalities.ehr)
    everybody = workbench.cohort(file, study, vocabulary).patients
    train = everybody.subject_ids[everybody.splits["train"]]
    labels = pd.read_parquet(sites / "cedar" / "labels.parquet").set_index("subject_id")
    times = labels.loc[identified(sites / "cedar", train), "prediction_time"].to_numpy()
    ordered = train[np.argsort(times, kind="stable")].tolist()
    for round_, share in ((1, 0.5), (2, 0.75), (3, 1.0)):
        found = trained_on(workbench, file, study, round_)
        assert abs(len(found) - share * len(train)) <= 1
        assert found == set(ordered[: len(found)])
    assert len(workbench.cohort(file, study, vocabulary).patients.splits["train"]) == len(train)


def test_pooled_comparator_trains_on_those_whom_the_sites_have(workbench, sites, study):
    study = study("window", 0.4)
    for round_ in range(1, ROUNDS + 1):
        files = [str(file) for file in sorted(sites.glob("*/site.toml"))]
        apart = [trained_on(workbench, file, study, round_) for file in files]
        assert trained_on(workbench, POOLED, study, round_) == set().union(*apart)


def test_window_of_everybody_changes_nothing_and_a_narrower_one_does(sites, make_study, study):
    plain = make_study(training={"rounds": ROUNDS, "batch_size": 16})
    found = [final_weights(LocalGrid(files(sites)), one) for one in (plain, study("window", 1.0))]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], final_weights(LocalGrid(files(sites)), study("window")))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_and_local_grid_train_on_the_same_patients(sites, study):
    grid = RayGrid(files(sites), 2)
    try:
        spread = final_weights(grid, study())
    finally:
        grid.close()
    assert np.array_equal(spread, final_weights(LocalGrid(files(sites)), study()))


def test_site_with_too_few_patients_yet_says_so_and_joins_later(tmp_path, sites, study, write_site):
    for name in ("ash", "birch"):
        (tmp_path / "sites").mkdir(exist_ok=True)
        (tmp_path / "sites" / name).symlink_to(sites / name)
    write_site(tmp_path / "sites" / "small", 60, first_id=9001, policy={"minimum_cell": 30})
    simulate(study(evaluation={"every": 0}), tmp_path / "sites", tmp_path / "run", workers=0)
    lines = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    first, *_, last = map(json.loads, lines)
    why = "fewer training patients than the site's minimum_cell"
    assert first["failed"] == {"small": why}
    assert last["failed"] == {}
    for site in ("ash", "birch"):
        assert first["sites"][site]["patients"] < last["sites"][site]["patients"]


def test_site_whose_patients_all_have_one_time_waits_for_the_middle_of_the_window(
    tmp_path, write_site, study
):
    noon = datetime(2024, 6, 1, 12)
    events = [(s, noon - timedelta(hours=1), "LAB//CRP", 5.0 + s % 2, None) for s in range(1, 61)]
    labels = [(s, noon, bool(s % 2)) for s in range(1, 61)]
    folder = write_site(tmp_path / "once", events=events, labels=labels)
    file = str(folder / "site.toml")
    bench = SimulatedWorkbench([file], tmp_path / "store")
    narrow = study("window", 0.2)
    counts = [len(trained_on(bench, file, narrow, r)) for r in range(1, ROUNDS + 1)]
    assert counts[0] == counts[2] == 0
    assert counts[1] > 20


def test_private_study_with_arrival_is_refused(study):
    with pytest.raises(ValidationError, match=r"simulation\.arrival changes the number"):
        study(privacy={"mechanism": "dp_sgd", "epsilon": 2.0})


def files(sites):
    return {file.parent.name: file for file in sorted(sites.glob("*/site.toml"))}


def final_weights(grid, study):
    exchange = Exchange(grid, simulated=True, pooled_node=grid.pooled_node)
    return run_rounds(Task(exchange, study, agreed_vocabulary(study.modalities.ehr))).weights
