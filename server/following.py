"""Following a run that was submitted, round by round, until it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federation.errors import WardroundError
from server.control import Control, Kit
from server.submitted import Submission, ended, note_end, rounds_of

LOOK_SECONDS = 0.5
ASK_SECONDS = 60.0
"""Between two questions to Flower; each starts a process."""


def follow(kit: Kit, submission: Submission, tell: Callable[[str], None]) -> None:
    """Tell of a run's rounds as they end, until it has ended.

    Raises:
        WardroundError: as the run's coordinator did, with its exit code.
    """
    told, asked = 0, time.monotonic()
    while True:
        end = ended(submission)
        rounds = rounds_of(submission)
        for record in rounds[told:]:
            tell(told_round(record))
        told = len(rounds)
        if end is None and time.monotonic() - asked > ASK_SECONDS:
            asked = time.monotonic()
            end = end_of(kit, submission)
        if end is not None:
            if end["exit_code"]:
                error = WardroundError(end["message"])
                error.exit_code = end["exit_code"]
                raise error
            return
        time.sleep(LOOK_SECONDS)


def end_of(kit: Kit, submission: Submission) -> dict[str, Any] | None:
    """Return how a run ended, also one that could not say so itself; None while it goes on."""
    if (end := ended(submission)) is not None:
        return end
    runs = {str(run["run-id"]): str(run["status"]) for run in Control(kit).runs()}
    state = runs.get(submission.run, "gone")
    if not state.startswith("finished") and state != "gone":
        return None
    folder = Path(submission.folder)
    return ended(submission) or note_end(folder, 1, f"the run is {state}")


def told_round(record: dict[str, Any]) -> str:
    """Say in a line what came of a round."""
    parts = [f"round {record['round']}"]
    if record["loss"] is not None:
        parts.append(f"loss {record['loss']:.4f}")
    if (auroc := (record["metrics"] or {}).get("auroc")) is not None:
        parts.append(f"tuning AUROC {auroc:.3f}")
    parts.append(f"{len(record['answered'])}/{len(record['asked'])} sites")
    parts.append(f"{record['seconds']:.1f} s")
    parts += [f"{site}: {why}" for site, why in {**record["failed"], **record["rejected"]}.items()]
    return ", ".join(parts)
