"""Several tasks are judged as each would be alone."""

from dataclasses import replace

import numpy as np
import pytest

from federation.metrics.several import SeveralSummary
from server.judges import judge_of
from server.judges.several import cross_site_of_task, model_of_task, of
from server.scoring import Scored
from server.site_evaluation import SiteEvaluation

TASKS = {
    "died": {"kind": "binary", "label": "died"},
    "found": {"kind": "multilabel", "label": "found", "labels": ["x", "y"]},
    "grade": {"kind": "multiclass", "label": "grade", "classes": ["a", "b", "c"]},
    "time": {"kind": "survival", "label": "time", "intervals": [10, 20, 40], "horizons": [20, 40]},
}
SITES = ("bern", "genf", "zug")
CELLS = ("", "sex=female", "sex=male")
WHY = "withheld to protect fewer than 10 patients"


@pytest.fixture(scope="module")
def study(make_study):
    return make_study(task={"kind": "several", "tasks": TASKS})


def alone(make_study, name):
    return judge_of(make_study(task=TASKS[name]))


def sent(study, seed):
    """Return what three sites send; one withholds a task, a finding and a subgroup."""
    rng, found = np.random.default_rng(seed), []
    for site in SITES:
        cells = {}
        for cell, rows in zip(CELLS, (120, 60, 60), strict=True):
            scores = rng.random((rows, study.task.score_shape[0]))
            labels = np.stack(
                [
                    rng.integers(0, 2, rows),
                    *rng.integers(0, 2, (2, rows)),
                    rng.integers(0, 3, rows),
                    rng.uniform(1, 50, rows),
                    rng.integers(0, 2, rows),
                ],
                1,
            ).astype(np.float32)
            told = study.task.summarise(scores, labels)
            cells[cell] = told if cell == "" else told.of_subgroup()
        withheld = {}
        if site == "genf":
            cells = {
                name: one.without({"time": WHY, "found/y": WHY}) for name, one in cells.items()
            }
        if site == "zug":
            withheld["sex=male"] = WHY
            del cells["sex=male"]
        found.append(SiteEvaluation(site, cells, withheld))
    return found


def part(told, name):
    return [replace(one, cells=dict(one.cells)) for one in of(told, name)]


@pytest.mark.parametrize("name", TASKS)
def test_entry_of_a_task_is_what_its_own_judge_says(study, make_study, name):
    judge, own = judge_of(study), alone(make_study, name)
    held_out, tuning = sent(study, 1), sent(study, 2)
    whole = judge.model(Scored(held_out, tuning, {}))
    assert model_of_task(whole, name) == own.model(
        Scored(part(held_out, name), part(tuning, name), {})
    )
    at_home = {one.site: [one] for one in tuning}
    of_part = {site: part(told, name) for site, told in at_home.items()}
    mine = judge.own_models(held_out, at_home)
    assert model_of_task(mine, name) == own.own_models(part(held_out, name), of_part)
    local = {site: held_out for site in SITES}
    models, crossed = judge.local_models(local, at_home)
    each, across = own.local_models({s: part(t, name) for s, t in local.items()}, of_part)
    assert model_of_task(models, name) == each
    assert cross_site_of_task(crossed, name) == across
    joined = judge.joining(held_out, local, [])["tasks"][name]
    assert joined == own.joining(
        part(held_out, name), {s: part(t, name) for s, t in local.items()}, []
    )


def test_headline_names_each_task_s_metrics_and_their_mean(study, make_study):
    told = sent(study, 3)
    found = judge_of(study).headline([one.cells[""] for one in told])
    assert set(found) == set(study.task.metrics)
    firsts = []
    for name in TASKS:
        known = [one.cells[""].tasks[name] for one in told if name in one.cells[""].tasks]
        mine = alone(make_study, name).headline(known)
        firsts.append(next(iter(mine.values())))
        assert all(found[f"{name}.{metric}"] == value for metric, value in mine.items())
    assert found["mean"] == pytest.approx(np.mean(firsts))


def test_task_that_no_site_tells_of_is_not_in_the_mean_and_one_that_fails_voids_it(study):
    judge, told = judge_of(study), sent(study, 4)
    few = [one.cells[""].without({"died": WHY, "found": WHY, "time": WHY}) for one in told]
    found = judge.headline(few)
    assert found["died.auroc"] is None
    assert found["mean"] == found["grade.auroc"]
    one_class = study.task.tasks["died"].summarise(np.full(30, 0.4), np.zeros(30))
    broken = [
        SeveralSummary({**one.tasks, "died": one_class}, {"found": WHY, "time": WHY}) for one in few
    ]
    assert judge.headline(broken)["mean"] is None


def test_doubt_names_the_task(study):
    judge, told = judge_of(study), sent(study, 5)
    assert not judge.doubt(judge.model(Scored(told, told, {})))
    one_class = study.task.tasks["died"].summarise(np.full(30, 0.4), np.zeros(30))
    cells = {"": SeveralSummary({**told[0].cells[""].tasks, "died": one_class})}
    lone = [SiteEvaluation("bern", cells, {})]
    assert judge.doubt(judge.model(Scored(lone, lone, {}))).startswith("died: ")
