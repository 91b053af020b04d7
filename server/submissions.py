"""Runs that were submitted to a server: where each leaves its results, and how far it is."""

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
from server.app import ENDED, check_simulation
from server.control import Control, Kit
from server.service import registered

SUBMITTED = "submitted.jsonl"


@dataclass(frozen=True)
class Submission:
    """A run.

    Attributes:
        run: Flower's id of it.
        study: the study's name.
        folder: its run folder.
        submitted: when, in local time.
    """

    run: str
    study: str
    folder: str
    submitted: str


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


def submit(kit: Kit, study_file: Path, resume: str | None = None) -> Submission:
    """Submit a study and return where it will leave its results.

    Args:
        kit: the server's, which has to run.
        study_file: the study.
        resume: the id of a run of this study that is continued after its last checkpoint.

    Raises:
        UserError: if the study cannot be run, or the server does not answer.
    """
    study = load_study(study_file)
    check_simulation(study, study_file)
    folder = Path(find(kit, resume).folder) if resume else _new_folder(kit, study)
    (folder / ENDED).unlink(missing_ok=True)
    run = Control(kit).submit(_kept_study(kit, study), folder, resume is not None)
    now = datetime.now().isoformat(timespec="seconds")
    submission = Submission(run, study.study.name, str(folder), now)
    with (kit.state / SUBMITTED).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(submission)) + "\n")
    return submission


def submissions(kit: Kit) -> list[Submission]:
    """Return all runs, the oldest first."""
    file = kit.state / SUBMITTED
    if not file.exists():
        return []
    return [
        Submission(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()
    ]


def find(kit: Kit, run: str | None) -> Submission:
    """Return a run by its id; the last one without.

    Raises:
        UserError: if there is none.
    """
    known = submissions(kit)
    for submission in reversed(known):
        if run in (None, submission.run):
            return submission
    given = "no study was submitted yet" if run is None else f'no run has the id "{run}"'
    remedy = f"Known: {', '.join(s.run for s in known)}." if known else ""
    raise UserError(kit.folder, given, remedy=remedy)


def rounds_of(submission: Submission) -> list[dict[str, Any]]:
    """Return the rounds of a run so far."""
    file = Path(submission.folder) / "rounds.jsonl"
    if not file.exists():
        return []
    *lines, _ = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def ended(submission: Submission) -> dict[str, Any] | None:
    """Return how a run ended: its exit code and message; None while it goes on."""
    file = Path(submission.folder) / ENDED
    if not file.exists():
        return None
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return told


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
