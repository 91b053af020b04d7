"""What a run refuses before it begins, and what it then leaves."""

import json
import shutil

import pytest

from federation.errors import UserError
from simulations.runner import simulate


@pytest.fixture
def consortium(tmp_path, write_site):
    """Return a function: name of a folder, seed -> the folder of three sites."""

    def consortium(name, seed=1):
        for i, site in enumerate(("ash", "birch", "elm")):
            write_site(tmp_path / name / site, 40, first_id=100 * i + 1, seed=seed + i)
        return tmp_path / name

    return consortium


def test_a_run_is_not_resumed_on_other_patients_of_the_same_name(consortium, make_study, tmp_path):
    study, run = make_study(training={"rounds": 2}), tmp_path / "run"
    simulate(study, consortium("sites"), run, workers=0)
    before = (run / "metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"other patients or values.*ash, birch, elm"):
        simulate(study, consortium("others", seed=7), run, workers=0, resume=True)
    assert (run / "metrics.json").read_bytes() == before
    simulate(study, tmp_path / "sites", run, workers=0, resume=True)
    assert (run / "metrics.json").read_bytes() == before


def test_a_run_without_its_checkpoints_is_not_resumed(consortium, make_study, tmp_path):
    study, run = make_study(training={"rounds": 2}), tmp_path / "run"
    simulate(study, consortium("sites"), run, workers=0)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="checkpoints are gone"):
        simulate(study, tmp_path / "sites", run, workers=0, resume=True)


def test_more_sites_than_there_are_cannot_be_asked(consortium, make_study, tmp_path):
    asked = {"participation": {"kind": "random", "sites": 4}}
    with pytest.raises(UserError, match="3 sites were found, the study asks 4 in each round"):
        simulate(make_study(strategy=asked), consortium("sites"), tmp_path / "run", workers=0)


def test_a_study_that_was_refused_leaves_its_folder_free(consortium, make_study, tmp_path):
    faults = {"dropout": {"probability": 0.5, "sites": ["oak"]}}
    study, run = make_study(simulation={"faults": faults}), tmp_path / "run"
    with pytest.raises(UserError, match='there is no site "oak"'):
        simulate(study, consortium("sites"), run, workers=0)
    assert not run.exists()
    simulate(make_study(training={"rounds": 1}), tmp_path / "sites", run, workers=0)
    assert json.loads((run / "metrics.json").read_text())["models"]
