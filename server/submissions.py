"""Submitting studies to a server, and fetching what they leave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from federation.errors import UserError
from federation.study import Study, load_study
from server.app import WEIGHTS, check_simulation
from server.control import Control, Kit, registered
from server.finished_run import keep_predecessor
from server.submitted import ENDED, SUBMITTED, Submission, find, rounds_of


@dataclass(frozen=True)
class SiteState:
    """A registered site as the coordinator sees it.

    Attributes:
        site: its name.
        connection: ``online``, ``offline``, or ``registered`` if it never came.
        last: what it did in the last round of the run: ``trained``, ``not asked``, why it failed.
    """

    site: str
    connection: str
    last: str


def submit(
    kit: Kit, study_file: Path, resume: str | None = None, compare_with: Path | None = None
) -> Submission:
    """Submit a study and return where it will leave its results.

    Args:
        kit: the server's, which has to run.
        study_file: the study.
        resume: the id of a run of this study that is continued after its last checkpoint.
        compare_with: an earlier run, whose model the study names.

    Raises:
        UserError: if the study cannot be run, or the server does not answer.
    """
    study = load_study(study_file)
    check_simulation(study, study_file)
    if compare_with is not None:
        keep_predecessor(study, study_file, compare_with, kit.folder / WEIGHTS)
    folder = Path(find(kit, resume).folder) if resume else _new_folder(kit, study)
    (folder / ENDED).unlink(missing_ok=True)
    run = Control(kit).submit(_kept_study(kit, study), folder, resume is not None)
    now = datetime.now().isoformat(timespec="seconds")
    submission = Submission(run, study.study.name, str(folder), now)
    with (kit.state / SUBMITTED).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(submission)) + "\n")
    return submission


def site_states(kit: Kit, submission: Submission | None) -> Iterator[SiteState]:
    """Yield the registered sites, by name, with what each did in the run's last round."""
    status = {str(node["node-id"]): str(node["status"]) for node in Control(kit).nodes()}
    rounds = rounds_of(submission) if submission else []
    last = rounds[-1] if rounds else None
    for name, one in sorted(registered(kit).items()):
        did = "" if last is None else _did(name, last)
        yield SiteState(name, status.get(one["node"], "unknown"), did)


def copy_run(submission: Submission, out: Path, beside: str = "") -> Path:
    """Copy a run folder without its checkpoints.

    Args:
        submission: the run.
        out: a new or empty folder.
        beside: what may lie in it already.

    Raises:
        UserError: if there is nothing to copy, or the place is taken.
    """
    folder = Path(submission.folder)
    if not folder.is_dir():
        raise UserError(folder, "the run has written nothing yet")
    if out.exists() and (not out.is_dir() or any(f.name != beside for f in out.iterdir())):
        raise UserError(out, "is in use: expected a new or empty folder")
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("checkpoints"), dirs_exist_ok=True)
    return out


def _did(site: str, record: dict[str, Any]) -> str:
    why = {**record["failed"], **record["rejected"]}.get(site)
    if why is not None:
        return str(why)
    return "trained" if site in record["answered"] else "not asked"


def _new_folder(kit: Kit, study: Study) -> Path:
    kit.runs.mkdir(exist_ok=True)
    return kit.runs / f"{study.study.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _kept_study(kit: Kit, study: Study) -> Path:
    """Keep the resolved study where the run's coordinator, another process, reads it."""
    folder = kit.state / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{study.fingerprint}.toml"
    file.write_text(study.to_toml(), encoding="utf-8")
    return file
