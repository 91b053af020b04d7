"""Sweeps over the shifts between hospitals: which sites a trial runs on, and what is left of it."""

import filecmp
import json
from pathlib import Path

import pandas as pd
import pytest
import tomli_w

from federation.errors import UserError
from simulations.shifts.plan import load_shifts
from simulations.shifts.reshape import reshape
from simulations.sweeps.folder import prepare_folder
from simulations.sweeps.plan import load_plan
from simulations.sweeps.runner import run_sweep
from simulations.sweeps.tables import axis_key

EXAMPLE = Path(__file__).parents[2] / "examples/sweeps/shifts.toml"


@pytest.fixture
def write_sweep(tmp_path, write_study):
    """Return a writer of sweep files beside two shifts files."""
    for name, rate in (("noisy", 0.4), ("other", 0.3)):
        shift = {"kind": "label_noise", "strength": 0.5, "rate": rate}
        (tmp_path / f"{name}.toml").write_text(tomli_w.dumps({"shift": [shift]}))

    def write(grid, sites=None):
        write_study("ehr", evaluation={"every": 0}, training={"rounds": 2})
        document = {
            "sweep": {"name": "small", "study": "study.toml", "seeds": 1},
            "sites": sites or {"path": "sites", "shifts": "noisy.toml"},
            "grid": grid,
        }
        file = tmp_path / "sweep.toml"
        file.write_text(tomli_w.dumps(document))
        return file

    return write


@pytest.fixture
def sites(tmp_path, write_site):
    for k, name in enumerate(["east", "north", "west"]):
        write_site(tmp_path / "sites" / name, 200, first_id=1000 * k + 1, seed=k)
    return tmp_path / "sites"


STRENGTHS = {"shifts.strength": [0, 0.5, 1]}


def same_files(one, other):
    left, right = (
        {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
        for folder in (one, other)
    )
    return left == right and all(
        filecmp.cmp(one / file, other / file, shallow=False) for file in left
    )


def test_sites_are_written_once_for_each_strength_and_trials_run_on_theirs(
    write_sweep, sites, tmp_path
):
    out, told = tmp_path / "out", []
    results = run_sweep(write_sweep(STRENGTHS), out, workers=0, tell=told.append)
    assert axis_key(results.plan) == "shifts.strength"
    for strength, name in ((0.0, "strength-0"), (0.5, "strength-0.5"), (1.0, "strength-1")):
        shifts = load_shifts(tmp_path / "noisy.toml").scaled(strength)
        reshape(sites, shifts, tmp_path / f"by-{name}")
        assert same_files(out / "sites" / name, tmp_path / f"by-{name}")
        kept = out / "trials" / f"{name}-seed-42" / "shifts.json"
        assert json.loads(kept.read_text())["strength"] == strength
        assert "Distribution shifts" in kept.with_name("report.html").read_text()
    assert filecmp.cmp(
        out / "sites/strength-0/east/labels.parquet", sites / "east/labels.parquet", shallow=False
    )
    table = pd.read_csv(out / "results.csv").set_index("shifts.strength")
    assert table["auroc"].notna().all()
    assert table["auroc"].nunique() == 3
    assert "shifts.strength (0, 0.5, 1)" in (out / "report.html").read_text()


def test_continued_sweep_keeps_its_sites_and_runs_a_strength_that_was_added(
    write_sweep, sites, tmp_path
):
    out = tmp_path / "out"
    run_sweep(write_sweep({"shifts.strength": [0, 1]}), out, workers=0)
    first = out / "sites/strength-1/shifts.json"
    written, told = first.stat().st_mtime_ns, []
    run_sweep(write_sweep(STRENGTHS), out, workers=0, tell=told.append)
    assert first.stat().st_mtime_ns == written
    assert [line for line in told if "/1 " in line] == ["1/1 strength-0.5-seed-42"]


def test_patients_stay_in_their_splits_where_a_site_had_no_key_yet(write_sweep, sites, tmp_path):
    for name in ("east", "north", "west"):
        (sites / name / "state/patient.key").unlink()
    plan = load_plan(write_sweep(STRENGTHS))
    folders = prepare_folder(tmp_path / "out", plan, lambda _: None).values()
    for name in ("east", "north", "west"):
        keys = {(folder / name / "state/patient.key").read_text() for folder in folders}
        assert len(keys) == 1


def test_shifts_file_that_changed_is_another_sweep(write_sweep, sites, tmp_path):
    file, out = write_sweep(STRENGTHS), tmp_path / "out"
    prepare_folder(out, load_plan(file), lambda _: None)
    (tmp_path / "noisy.toml").write_text((tmp_path / "other.toml").read_text())
    with pytest.raises(UserError, match=r"the shifts of the sites strength-0\.5 are other ones"):
        prepare_folder(out, load_plan(file), lambda _: None)
    plain = write_sweep({"training.rounds": [1, 2]}, {"path": "sites"})
    with pytest.raises(UserError, match=r"shifts: noisy\.toml before, None now"):
        prepare_folder(out, load_plan(plain), lambda _: None)


def test_every_shifts_file_and_strength_is_a_population_of_its_own(write_sweep, sites, tmp_path):
    grid = {"shifts.file": ["noisy.toml", "other.toml"], "shifts.strength": [0.5, 1]}
    plan = load_plan(write_sweep(grid | {"training.rounds": [1, 2]}, {"path": "sites"}))
    assert (len(plan.settings), len(plan.populations)) == (8, 4)
    effective = {one.shifts.shifts[0].strength for one in plan.populations.values()}
    assert effective == {0.25, 0.5}
    for trial in plan.trials:
        chosen = trial.setting.values
        assert trial.population.shifts.file.name == chosen["shifts.file"]
        assert trial.population.shifts.strength == chosen["shifts.strength"]
    folders = prepare_folder(tmp_path / "out", plan, lambda _: None)
    assert len({str(folder) for folder in folders.values()}) == 4


def test_shifts_without_a_grid_key_are_applied_as_the_file_says(write_sweep, sites, tmp_path):
    grid = {"training.rounds": [1, 2]}
    (only,) = load_plan(write_sweep(grid)).populations.values()
    assert (only.name, only.shifts.strength) == ("shifted", 1.0)
    elsewhere = load_plan(write_sweep(grid), sites=sites)
    assert list(elsewhere.populations) == ["shifted"]
    (as_they_are,) = load_plan(write_sweep(grid, {"path": "sites"})).populations.values()
    assert as_they_are.shifts is None


def test_synthetic_hospitals_are_drawn_with_the_shifts(write_sweep, tmp_path):
    small = {"sites": 2, "patients": 60, "image_size": 16, "shifts": "noisy.toml"}
    plan = load_plan(write_sweep({"shifts.strength": [1]}, {"synthetic": small}))
    folders = prepare_folder(tmp_path / "out", plan, lambda _: None)
    assert (folders["strength-1"] / "truth.json").is_file()
    record = json.loads((folders["strength-1"] / "shifts.json").read_text())
    assert record["shifts"][0]["effective"] == 0.5


MISTAKES = {
    "unknown key": ({"shifts.strenght": [1]}, None, ["grid.shifts.strenght", "shifts.strength"]),
    "too strong": ({"shifts.strength": [1.5]}, None, ["grid.shifts.strength", "1.5"]),
    "no number": ({"shifts.strength": ["high"]}, None, ["grid.shifts.strength", "0 to 1"]),
    "no shifts": (STRENGTHS, {"path": "sites"}, ["grid.shifts.strength", "sites.synthetic"]),
    "no path": ({"shifts.file": [1]}, None, ["grid.shifts.file", "paths"]),
    "beside synthetic": (
        STRENGTHS,
        {"synthetic": {}, "shifts": "noisy.toml"},
        ["sites", "in its table"],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_names_the_sweep_file_and_the_key(write_sweep, case):
    grid, sites, told = MISTAKES[case]
    file = write_sweep(grid, sites)
    with pytest.raises(UserError) as caught:
        load_plan(file)
    assert caught.value.where == str(file)
    for part in told:
        assert part in str(caught.value)


def test_shifts_file_that_is_not_there_is_named(write_sweep):
    with pytest.raises(UserError, match=r"nosy\.toml: there is no such file"):
        load_plan(write_sweep({"shifts.file": ["nosy.toml"]}))


def test_example_of_a_sweep_over_shifts_resolves():
    plan = load_plan(EXAMPLE)
    assert len(plan.populations) == 3
    assert axis_key(plan) == "shifts.strength"
