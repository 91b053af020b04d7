"""Runs of several tasks: to the bit what one is alone; private; with models of the sites' own."""

import json

import pandas as pd
import pytest
import tomli_w

from server.judges.several import model_of_task
from simulations.runner import simulate

GRADE = {"kind": "multiclass", "label": "grade", "classes": ["a", "b", "c"]}
SICK = {"kind": "binary", "label": "sick"}
TIME = {"kind": "survival", "label": "time", "intervals": [10, 20, 40]}


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    """Two sites with labels of three tasks; the second lacks one of them."""
    folder = tmp_path_factory.mktemp("sites")
    for number, name in enumerate(("bern", "genf")):
        site = write_site(folder / name, 80, seed=number)
        labels = pd.read_parquet(site / "labels.parquet")
        place = labels.index.to_numpy() + number
        people = labels[["subject_id", "prediction_time"]]
        labels.to_parquet(site / "sick.parquet")
        people.assign(integer_value=place % 3).to_parquet(site / "grade.parquet")
        times = people.assign(float_value=place % 50 + 0.5, boolean_value=place % 2 == 0)
        times.to_parquet(site / "time.parquet")
        named = {label: f"{label}.parquet" for label in ("sick", "grade", "time")[: 3 - number]}
        data = {"events": {"format": "meds", "path": "meds"}, "labels": named, "subgroups": ["sex"]}
        document = {"site": {"name": name, "device": "cpu"}, "data": data}
        (site / "site.toml").write_text(tomli_w.dumps(document))
    return folder


@pytest.fixture
def run(sites, make_study, tmp_path):
    """Return a runner: a name, a study's tables -> metrics.json and the run folder."""

    def simulated(name, **sections):
        study = make_study(**sections)
        simulate(study, sites, tmp_path / name, workers=0, together=False)
        return json.loads((tmp_path / name / "metrics.json").read_text()), tmp_path / name

    return simulated


@pytest.mark.parametrize("task", [SICK, GRADE])
def test_one_task_among_several_gives_the_numbers_that_it_gives_alone(run, task):
    both = {"evaluation": {"baselines": ["local"]}}
    alone, _ = run("alone", task=task, **both)
    among, _ = run("among", task={"kind": "several", "tasks": {"it": task}}, **both)
    for name, model in alone["models"].items():
        assert model_of_task(among["models"][name], "it") == model
    assert set(alone["models"]) == {"federated", "local"}
    joined, expected = among["joining"]["tasks"]["it"], alone["joining"]
    assert joined.keys() == expected.keys()
    if task is GRADE:  # of one yes-or-no outcome alone sites score both models at once
        assert joined == expected


SEVERAL = {"kind": "several", "tasks": {"grade": GRADE, "sick": SICK, "time": TIME}}


@pytest.mark.parametrize(
    "sections",
    [
        {"privacy": {"mechanism": "dp_sgd", "epsilon": 4.0, "delta": 1e-4}},
        {"strategy": {"name": "fedper"}},
        {"personalisation": {"fine_tune_epochs": 1}},
    ],
    ids=["dp_sgd", "fedper", "fine_tuned"],
)
def test_several_tasks_train_by_every_way_there_is(run, sections):
    metrics, folder = run("run", task=SEVERAL, **sections)
    federated = metrics["models"]["federated"]
    assert federated["sites"]["bern"]["tasks"].keys() == {"grade", "sick", "time"}
    here = federated["sites"]["genf"]["tasks"]
    assert here["time"] == {"suppressed": "withheld to protect fewer than 10 patients"}
    assert here["grade"]["n"] > 0
    assert federated["overall"]["tasks"]["time"]["excludes"] == ["genf"]
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert all(len(one["answered"]) == 2 for one in rounds)
    told = {"mean", "sick.auroc", "grade.brier", "time.c_index"}
    assert all(told < one["metrics"].keys() for one in rounds)
    if "privacy" in sections:
        private = json.loads((folder / "privacy.json").read_text())
        assert all(0 < site["epsilon"]["pld"] <= 4 for site in private["sites"].values())
