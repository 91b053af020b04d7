"""Runs that were submitted to a server: where each leaves its results, and how far it is.

Only files are looked at here, so that the SuperLink, which tells of runs too, loads nothing large.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.errors import UserError
from server.control import Kit

SUBMITTED, ROUNDS, ENDED = "submitted.jsonl", "rounds.jsonl", "ended.json"


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
    file = Path(submission.folder) / ROUNDS
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


def note_end(folder: Path, exit_code: int, message: str) -> dict[str, Any]:
    """Note in a run's folder how it ended, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    end = {"exit_code": exit_code, "message": message}
    (folder / ENDED).write_text(json.dumps(end) + "\n", encoding="utf-8")
    return end
