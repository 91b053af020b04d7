"""Sweeps: the trials that a file stands for, their statistics, and that they can be continued."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tomli_w

from federation.errors import NoUsableModel, UserError
from federation.study import load_study
from simulations.runner import simulate
from simulations.sweeps import page, plots
from simulations.sweeps.execute import Job, run_job
from simulations.sweeps.export import write_results
from simulations.sweeps.plan import load_plan
from simulations.sweeps.results import (
    METRICS,
    Results,
    Row,
    epsilon_spent,
    paired_difference,
    summarise,
    t_interval,
)
from simulations.sweeps.runner import run_sweep

RATES = {"training.optimizer.lr": [0.01, 0.1], "fusion.kind": ["late", "early"]}
PRIVATE = {
    "privacy.epsilon": [0.5, 1, math.inf],
    "privacy.mechanism": ["dp_sgd", "central"],
}


@pytest.fixture
def write_sweep(tmp_path, write_study):
    """Return a writer of sweep files over a small study; keywords replace tables."""

    def write(grid=RATES, *, study=None, **tables):
        write_study("ehr", strategy={"weighting": "uniform"}, **(study or {}))
        document = {
            "sweep": {"name": "small", "study": "study.toml", "seeds": 2, "quick_seeds": 1},
            "sites": {"path": "sites"},
            "grid": grid,
        }
        for name, table in tables.items():
            document[name] = {**document.get(name, {}), **table}
        file = tmp_path / "sweep.toml"
        file.write_text(tomli_w.dumps(document))
        return file

    return write


@pytest.fixture
def sites(tmp_path, write_site):
    """Three hospitals beside the sweep file."""
    for k, name in enumerate(["east", "north", "west"]):
        write_site(tmp_path / "sites" / name, 80, first_id=1000 * k + 1, seed=k)
    return tmp_path / "sites"


# The plan


def test_grid_is_the_product_of_its_lists_with_the_same_seeds_for_each(write_sweep):
    plan = load_plan(write_sweep())
    chosen = {(t.study.training.optimizer.lr, t.study.fusion.kind, t.seed) for t in plan.trials}
    kinds, rates = ("late", "early"), (0.01, 0.1)
    assert chosen == {(lr, kind, seed) for lr in rates for kind in kinds for seed in (42, 43)}
    assert all(t.study.study.seed == t.seed for t in plan.trials)
    assert len({t.study.fingerprint for t in plan.trials}) == len(plan.trials) == 8
    assert plan.trials[0].name == "lr-0.01_kind-late-seed-42"


def test_trial_equals_the_study_that_the_command_line_would_make(write_sweep, tmp_path):
    trial = load_plan(write_sweep()).trials[-1]
    sets = [f"training.optimizer.lr={trial.setting.values['training.optimizer.lr']}"]
    sets += [f"fusion.kind={trial.setting.values['fusion.kind']}"]
    same = load_study(tmp_path / "study.toml", sets, trial.seed)
    assert trial.study.fingerprint == same.fingerprint


def test_quick_takes_the_first_seeds(write_sweep):
    assert load_plan(write_sweep(), quick=True).seeds == (42,)


def test_values_keep_their_types_and_keys_need_no_quotes(write_sweep):
    grid = {"training": {"rounds": [1, 2]}, "evaluation.subgroups": [["sex"], []]}
    plan = load_plan(write_sweep(grid, set={"training": {"batch_size": 8}}))
    assert set(plan.grid) == {"training.rounds", "evaluation.subgroups"}
    assert {t.study.training.rounds for t in plan.trials} == {1, 2}
    assert {t.study.evaluation.subgroups for t in plan.trials} == {("sex",), ()}
    assert {t.study.training.batch_size for t in plan.trials} == {8}


def test_infinite_epsilon_is_no_privacy_and_runs_once_a_seed(write_sweep):
    plan = load_plan(write_sweep(PRIVATE))
    assert len(plan.settings) == 2 * 2 + 1
    (without,) = [one for one in plan.settings if one.no_dp]
    assert (without.slug, without.label) == ("no-dp", "no DP")
    studies = [t.study for t in plan.trials if t.setting is without]
    assert [s.privacy.mechanism for s in studies] == ["none", "none"]
    assert all(plan.reference(one) is without for one in plan.settings)


def test_each_setting_is_compared_with_itself_without_privacy(write_sweep):
    grid = {"privacy.epsilon": [1, math.inf], "privacy.mechanism": ["dp_sgd"]}
    plan = load_plan(write_sweep(grid | {"training.optimizer.lr": [0.01, 0.1]}))
    rates = [
        (one.values["training.optimizer.lr"], plan.reference(one).values["training.optimizer.lr"])
        for one in plan.settings
    ]
    assert all(own == reference for own, reference in rates)
    assert all(plan.reference(one).no_dp for one in plan.settings)


def test_without_privacy_in_the_grid_the_first_setting_is_the_reference(write_sweep):
    plan = load_plan(write_sweep())
    assert {plan.reference(one).slug for one in plan.settings} == {"lr-0.01_kind-late"}


MISTAKES = {
    "unknown study key": ({"training.round": [1]}, {}, ["grid.training.round", '"rounds"']),
    "value out of range": ({"training.rounds": [1, 0]}, {}, ["grid.training.rounds", "rounds 0"]),
    "wrong choice": ({"fusion.kind": ["lat"]}, {}, ["grid.fusion.kind", '"late"']),
    "not a list": ({"training.rounds": 3}, {}, ["grid.training.rounds", "list"]),
    "an empty list": ({"training.rounds": []}, {}, ["grid.training.rounds", "list"]),
    "a value twice": ({"training.rounds": [1, 1.0]}, {}, ["grid.training.rounds", "twice"]),
    "seed in the grid": ({"study.seed": [1]}, {}, ["grid.study.seed", "sweep.seeds"]),
    "a value for a table": ({"training.rounds.x": [1]}, {}, ["grid.training.rounds.x", "table"]),
    "infinite elsewhere": ({"training.optimizer.lr": [math.inf]}, {}, ["grid.training.optimizer"]),
    "epsilon not positive": (
        {"privacy.epsilon": [-1.0]},
        {"set": {"privacy.mechanism": "dp_sgd"}},
        ["grid.privacy.epsilon"],
    ),
    "unknown key in set": (RATES, {"set": {"fusion.kid": 1}}, ["set.fusion.kid", '"kind"']),
    "in both": (RATES, {"set": {"fusion.kind": "late"}}, ["set.fusion.kind", "[grid]"]),
    "unknown key": (RATES, {"sweep": {"seed": 3}}, ["sweep.seed", '"seeds"']),
    "no such study": (RATES, {"sweep": {"study": "x.toml"}}, ["sweep.study", "x.toml"]),
    "two kinds of sites": (RATES, {"sites": {"synthetic": {}}}, ["sites", "not both"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_names_the_file_and_the_field(write_sweep, case):
    grid, tables, told = MISTAKES[case]
    file = write_sweep(grid, **tables)
    with pytest.raises(UserError) as caught:
        load_plan(file)
    assert caught.value.where == str(file)
    for part in told:
        assert part in str(caught.value)


def test_mistake_in_the_study_file_names_that_file(write_sweep):
    file = write_sweep(study={"training": {"rounds": 0}})
    with pytest.raises(UserError, match=r"study\.toml: training\.rounds"):
        load_plan(file)


def test_settings_that_are_the_same_study_are_refused(write_sweep):
    file = write_sweep({"training.optimizer": [{"lr": 0.001}, {"name": "adamw"}]})
    with pytest.raises(UserError, match="are the same study"):
        load_plan(file)


# The statistics


def test_interval_is_that_of_scipy():
    values = list(np.random.default_rng(0).normal(0.8, 0.05, 7))
    found = t_interval(values)
    low, high = scipy.stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_paired_difference_is_that_of_scipy_over_common_seeds():
    rng = np.random.default_rng(1)
    mine, theirs = (dict(enumerate(rng.normal(0.8, 0.05, 6))) for _ in range(2))
    del mine[0], theirs[5]
    found = paired_difference(mine, theirs)
    common = [1, 2, 3, 4]
    test = scipy.stats.ttest_rel([mine[s] for s in common], [theirs[s] for s in common])
    interval = test.confidence_interval(0.95)
    assert found.seeds == 4
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def drawn_results(plan, missing=()):
    """Results as a sweep would have, drawn at random; ``missing`` trials failed."""
    rng = np.random.default_rng(5)
    rows = []
    for trial in plan.trials:
        if trial.name in missing:
            rows.append(Row(trial, "the sites <refused>"))
            continue
        names = [*METRICS, "site:east", "site:north", "subgroup:sex=female"]
        values = dict(zip(names, rng.uniform(0.5, 0.9, len(names)).tolist(), strict=True))
        rows.append(Row(trial, "", 1.0, "east", "sex=female", values))
    return Results(plan, tuple(rows), summarise(plan, rows), tuple(names))


def test_tables_agree_with_pandas(write_sweep, tmp_path):
    plan = load_plan(write_sweep(PRIVATE, sweep={"seeds": 5}))
    lost = plan.trials[0].name
    results = drawn_results(plan, [lost])
    write_results(results, tmp_path)
    table = pd.read_csv(tmp_path / "results.csv")
    assert table["privacy.epsilon"].map(type).eq(float).all()
    assert np.isinf(table["privacy.epsilon"]).sum() == 5
    assert table.set_index("trial").loc[lost, ["status", "reason"]].tolist() == [
        "failed",
        "the sites <refused>",
    ]
    keys = ["privacy.epsilon", "privacy.mechanism"]
    table["privacy.mechanism"] = table["privacy.mechanism"].fillna("none")
    wide = table.pivot_table(index="seed", columns=keys, values="site:east")
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert len(summary) == 5
    reference = wide[(math.inf, "none")]
    for row in summary.to_dict("records"):
        own = wide[(row["privacy.epsilon"], row["privacy.mechanism"])]
        assert row["site:east"] == pytest.approx(own.mean())
        difference = (own - reference).dropna()
        half = difference.sem() * scipy.stats.t.ppf(0.975, len(difference) - 1)
        if row["setting"] == "no-dp":
            assert math.isnan(row["site:east_diff"])
        else:
            assert row["site:east_diff"] == pytest.approx(difference.mean())
            assert row["site:east_diff_high"] == pytest.approx(difference.mean() + half)
    assert summary["failed"].tolist() == [1, 0, 0, 0, 0]


def test_largest_epsilon_is_by_the_accountant_that_is_reported():
    from server.report.documents import Privacy

    def spent(pld, rdp):
        return {"epsilon": {"pld": pld, "rdp": rdp}, "reported": "pld"}

    sites = {"a": spent(1.0, 9.0), "b": spent(2.0, 8.0)}
    assert epsilon_spent(Privacy(mechanism="dp_sgd", sites=sites)) == 2.0
    assert epsilon_spent(Privacy(mechanism="none", sites={"a": {"mechanism": "none"}})) is None


# The page


@pytest.mark.parametrize("grid", [RATES, PRIVATE, {"fusion.kind": ["late", "early"]}])
def test_page_shows_the_numbers_of_every_figure(write_sweep, grid):
    results = drawn_results(load_plan(write_sweep(grid)))
    text = page.render(results)
    figures = [*plots.auroc_figures(results), *plots.calibration_figures(results)]
    assert len(figures) == 5
    for figure in figures:
        block = text.split(f'id="{figure.name}-title"')[1].split("</figure>")[0]
        drawn = json.loads(re.search(r"<script[^>]*>(.*?)</script>", block, re.DOTALL)[1])
        shown = [y for trace in drawn["data"] for y in trace["y"]]
        assert len(shown) == len(results.summaries)
        for value in shown:
            assert f"{value:.3f}" in block.split("<table>")[1]


def test_page_reaches_for_nothing_and_shows_what_failed(write_sweep):
    plan = load_plan(write_sweep(PRIVATE))
    text = page.render(drawn_results(plan, [plan.trials[0].name]))
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:|trials/)', own)
    assert "http:" not in own and "https:" not in own
    assert text.count("Content-Security-Policy") == 1
    assert "the sites &lt;refused&gt;" in own
    assert plan.trials[0].name in own


# Running


def times(out):
    files = (out / "trials").glob("*/metrics.json")
    return {file.parent.name: file.stat().st_mtime_ns for file in files}


def test_only_what_is_missing_is_run_again(write_sweep, sites, tmp_path):
    file, out = write_sweep(), tmp_path / "out"
    run_sweep(file, out, workers=0)
    before, table = times(out), (out / "summary.csv").read_bytes()
    assert len(before) == 8
    lost = "lr-0.1_kind-late-seed-43"
    (out / "trials" / lost / "metrics.json").unlink()
    run_sweep(file, out, workers=0)
    after = times(out)
    assert {name for name in after if after[name] != before[name]} == {lost}
    assert (out / "summary.csv").read_bytes() == table

    run_sweep(write_sweep(sweep={"seeds": 3}), out, workers=0)
    grown = times(out)
    assert {name: grown[name] for name in after} == after
    assert {name[-2:] for name in grown.keys() - after.keys()} == {"44"}


def test_trials_that_share_a_grid_equal_a_run_of_their_own(write_sweep, sites, tmp_path):
    plan, out = load_plan(write_sweep()), tmp_path / "out"
    run_sweep(plan.file, out, workers=0)
    trial = plan.trials[-1]
    simulate(trial.study, sites, tmp_path / "alone", workers=0)
    own = (out / "trials" / trial.name / "metrics.json").read_bytes()
    assert own == (tmp_path / "alone" / "metrics.json").read_bytes()


def test_trial_that_was_cut_short_continues_after_its_checkpoint(write_sweep, sites, tmp_path):
    trial = load_plan(write_sweep(study={"training": {"rounds": 3}})).trials[0]
    folder = tmp_path / "trial"
    job = Job(trial.name, trial.study.canonical, str(sites), str(folder))
    simulate(trial.study, sites, folder, workers=0)
    whole = (folder / "metrics.json").read_bytes()
    for name in ("metrics.json", "report.html"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / "round-0003")
    kept = (folder / "rounds.jsonl").read_text().splitlines()[:2]
    assert run_job(job).reason == ""
    assert (folder / "rounds.jsonl").read_text().splitlines()[:2] == kept
    assert (folder / "metrics.json").read_bytes() == whole


CHANGES = {
    "value taken away": ({"grid": {**RATES, "fusion.kind": ["late"]}}, "grid.fusion.kind"),
    "key added": ({"grid": {**RATES, "training.batch_size": [8, 16]}}, "grid.training.batch_size"),
    "fewer seeds": ({"sweep": {"seeds": 1}}, "seeds: without 43"),
    "set": ({"set": {"training.batch_size": 8}}, "set.training.batch_size"),
    "study file": ({"study": {"training": {"batch_size": 8}}}, "the study's training.batch_size"),
    "sites": ({"sites": {"path": "others"}}, "sites"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changed_sweep_is_refused_with_what_differs(write_sweep, tmp_path, case):
    from simulations.sweeps import folder

    out = tmp_path / "out"
    out.mkdir()
    manifest = out / folder.MANIFEST
    folder.write_json(manifest, folder._manifest(load_plan(write_sweep())))
    change, told = CHANGES[case]
    file = write_sweep(**change)
    with pytest.raises(UserError) as caught:
        run_sweep(file, out, workers=0)
    assert caught.value.where == str(manifest)
    assert told in caught.value.problem
    assert not (out / "trials").exists()


def test_folder_in_use_is_refused(write_sweep, tmp_path):
    with pytest.raises(UserError, match="in use"):
        run_sweep(write_sweep(), tmp_path, workers=0)


def test_too_few_sites_are_refused_before_any_trial(write_sweep, sites, tmp_path):
    file = write_sweep({"strategy.minimum_sites": [2, 4]})
    with pytest.raises(UserError, match="3 sites were found, a trial needs 4"):
        run_sweep(file, tmp_path / "out", workers=0)


def test_failed_trial_is_recorded_and_stops_no_other(write_sweep, sites, tmp_path):
    out = tmp_path / "out"
    file = write_sweep({"strategy.maximum_update_norm": [1e-9, 1e9]}, sweep={"seeds": 1})
    results = run_sweep(file, out, workers=0)
    rows = {row["trial"]: row for row in csv.DictReader((out / "results.csv").open())}
    assert [rows[t.trial.name]["status"] for t in results.rows] == ["failed", "ok"]
    failed = results.failed[0]
    assert "No model was trained" in rows[failed.trial.name]["reason"]
    kept = json.loads((out / "trials" / failed.trial.name / "failed.json").read_text())
    assert kept["exit_code"] == 3
    assert "No model was trained" in (out / "report.html").read_text()


def test_bug_that_one_setting_meets_costs_no_other_trial(write_sweep, sites, tmp_path, monkeypatch):
    def broken(study, *arguments, **options):
        if study.fusion.kind == "early":
            raise ValueError("out of range")
        return simulate(study, *arguments, **options)

    monkeypatch.setattr("simulations.sweeps.execute.simulate", broken)
    results = run_sweep(write_sweep(sweep={"seeds": 1}), tmp_path / "out", workers=0)
    assert [row.trial.study.fusion.kind for row in results.failed] == ["early", "early"]
    folder = tmp_path / "out" / "trials" / results.failed[0].trial.name
    assert "ValueError: out of range" in results.failed[0].reason
    assert "in broken" in (folder / "traceback.txt").read_text()


def test_sweep_without_a_single_result_ends_with_its_own_code(write_sweep, sites, tmp_path):
    file = write_sweep({"strategy.maximum_update_norm": [1e-9]}, sweep={"seeds": 1})
    with pytest.raises(NoUsableModel, match="None of the 1 trials"):
        run_sweep(file, tmp_path / "out", workers=0)
    assert (tmp_path / "out" / "results.csv").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_command_runs_trials_on_ray_tune(write_sweep, tmp_path):
    study = {"task": {"label": "deterioration"}}
    made = {"sites": 3, "patients": 60, "seed": 1, "image_size": 16}
    file = write_sweep({"training.rounds": [1, 2]}, study=study)
    text = file.read_text().replace('path = "sites"', "")
    file.write_text(text + tomli_w.dumps({"sites": {"synthetic": made}}).replace("[sites]\n", ""))
    out = tmp_path / "out"
    command = [str(Path(sys.executable).parent / "wardround"), "sweep", str(file)]
    ended = subprocess.run(
        [*command, "--out", str(out), "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "HOME": str(tmp_path / "home")},
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[-1] == str(out)
    assert lines[0].split()[:2] == ["setting", "runs"]
    assert [line.split()[2] for line in lines[1:3]] == ["2/2", "2/2"]
    assert "4 trials: 2 settings x 2 seeds" in ended.stderr
    kept = {path.name for path in out.iterdir()}
    tables = {"results.csv", "results.json", "summary.csv", "report.html"}
    assert kept == tables | {"sweep.json", "sites", "trials"}
    assert not (tmp_path / "home" / "ray_results").exists()
    before = times(out)
    assert len(before) == 4
    # nothing is left to run: the same command only writes the tables again
    again = subprocess.run([*command, "--out", str(out)], capture_output=True, timeout=60)
    assert again.returncode == 0
    assert times(out) == before
