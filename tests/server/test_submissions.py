"""What the coordinator is told of its runs, from what they leave on the disk."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from federation.errors import UserError, WardroundError
from federation.messages import model_digest
from federation.models.build import build_model
from server.control import Control, Kit, Settings
from server.finished_run import keep_predecessor, read_predecessor
from server.following import end_of, follow
from server.run_folder import RunFolder
from server.submissions import copy_run
from server.submitted import SUBMITTED, Submission, ended, find, rounds_of

ROUND = {
    "round": 1,
    "loss": 0.5,
    "metrics": None,
    "asked": ["a", "b"],
    "answered": ["a"],
    "failed": {"b": "the study is not approved at the site"},
    "rejected": {},
    "seconds": 7.0,
}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    kit = Kit(tmp_path / "server", Settings(consortium="c", port=8443))
    kit.state.mkdir(parents=True)
    lines = []
    for run in ("11", "22"):
        folder = kit.runs / run
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/large").write_text("x")
        (folder / "rounds.jsonl").write_text(json.dumps(ROUND) + '\n{"round": 2, "lo')
        lines.append(json.dumps(asdict(Submission(run, "s", str(folder), "2026-01-01T00:00:00"))))
    (kit.state / SUBMITTED).write_text("\n".join(lines) + "\n")
    return kit


def test_the_last_run_is_meant_where_none_is_named(kit):
    assert find(kit, None).run == "22"
    assert find(kit, "11").run == "11"
    with pytest.raises(UserError, match='no run has the id "33"'):
        find(kit, "33")


def test_a_round_that_is_being_written_is_not_told_yet(kit):
    assert [record["round"] for record in rounds_of(find(kit, None))] == [1]


def test_following_ends_as_the_run_did(kit):
    run, told = find(kit, None), []
    assert ended(run) is None
    file = Path(run.folder) / "ended.json"
    file.write_text(json.dumps({"exit_code": 4, "message": "Refused by policy or budget at: b."}))
    with pytest.raises(WardroundError, match="Refused by policy") as refused:
        follow(kit, run, told.append)
    assert refused.value.exit_code == 4
    assert told == ["round 1, loss 0.5000, 1/2 sites, 7.0 s, b: " + ROUND["failed"]["b"]]
    file.write_text(json.dumps({"exit_code": 0, "message": ""}))
    follow(kit, run, told.append)


def test_a_run_that_could_not_say_how_it_ended_is_asked_after_and_noted(kit, monkeypatch):
    states = {"22": "running"}
    monkeypatch.setattr(
        Control, "runs", lambda _: [{"run-id": run, "status": s} for run, s in states.items()]
    )
    run = find(kit, None)
    assert end_of(kit, run) is None
    states["22"] = "finished:stopped"
    assert end_of(kit, run) == ended(run) == {
        "exit_code": 1,
        "message": "the run is finished:stopped",
    }  # fmt: skip


@pytest.fixture
def earlier(tmp_path, make_study):
    """An earlier run's folder, and a study that names its model."""
    study, run = make_study("text"), tmp_path / "earlier"
    model, run_folder = build_model(study, None), RunFolder(run, study)
    run_folder.write_study()
    run_folder.write_model(model.named_arrays())
    return run, model_digest(model.weights()), study


def test_an_earlier_model_is_kept_only_for_a_study_that_names_it(kit, earlier, tmp_path):
    run, digest, study = earlier
    weights = kit.folder / "weights"
    with pytest.raises(UserError, match=f"the digest {digest}, and the study names none"):
        keep_predecessor(study, Path("study.toml"), run, weights)
    naming = study.succeeding(digest)
    assert read_predecessor(naming, weights) is None
    keep_predecessor(naming, Path("study.toml"), run, weights)
    assert model_digest(read_predecessor(naming, weights)) == digest
    assert read_predecessor(study, weights) is None
    np.save(weights / f"{digest}.npy", np.zeros(3, np.float32))
    with pytest.raises(UserError, match="not the model"):
        read_predecessor(naming, weights)


def test_a_downloaded_run_is_whole_but_for_its_checkpoints(kit, tmp_path):
    copy_run(find(kit, None), tmp_path / "copy")
    assert [file.name for file in (tmp_path / "copy").iterdir()] == ["rounds.jsonl"]
    with pytest.raises(UserError, match="is in use"):
        copy_run(find(kit, None), tmp_path / "copy")
