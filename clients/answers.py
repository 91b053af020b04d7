"""Which questions of a study a deployed site has answered, so that it answers no more than planned.

Without differential privacy, counts and scores tell of single patients to whoever can ask for them
again and again, with weights of his choice. So each question of a study's plan has a place here:
counts once, a round's training and each evaluation for a few models, as a run that is resumed asks
for them again. The same question gets the same answer, even if the data have changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clients.outbound import TakesNoPart
from clients.site import Site
from federation.errors import UserError
from federation.messages import (
    BODIES,
    DESCRIBE,
    EVALUATE,
    EXISTING_SCORE,
    FEDERATED,
    PREPARE,
    TRAIN,
    Instruction,
    Reply,
    model_digest,
)
from federation.study import Study

ANSWERS = "answers.sqlite"
MOST_MODELS = 3
"""That are trained from, or scored, in one place of a run's plan: it may be resumed twice there."""
MOST_JUDGED = 256
"""Models a round that a site scores which the study names as the judge of updates."""
BUSY_SECONDS = 10.0
TABLE = (
    "CREATE TABLE IF NOT EXISTS answers "
    "(place TEXT NOT NULL, question TEXT NOT NULL, body TEXT, PRIMARY KEY (place, question))"
)


@dataclass(frozen=True)
class Question:
    """A question in its place.

    Attributes:
        place: in the plan of a study's run.
        asked: what tells questions in one place apart.
        most: how many different ones are answered there.
        kind: of the message.
    """

    place: str
    asked: str
    most: int
    kind: str


class Answers:
    """The questions that a site has answered, with its answers to those that train nothing.

    Args:
        path: the file, made on the first question.
    """

    def __init__(self, path: Path):
        self._path = path

    def claim(self, question: Question) -> Reply | None:
        """Take a question in, once and for all: it is on the disk when this returns.

        Returns:
            The answer that was given to it before; None if there is none.

        Raises:
            TakesNoPart: if as many others were answered in its place.
            UserError: if the file cannot be read or written.
        """
        with self._opened() as opened:
            rows = opened.execute(
                "SELECT question, body FROM answers WHERE place = ?", (question.place,)
            ).fetchall()
            known = dict(rows)
            if question.asked not in known:
                if len(known) >= question.most:
                    raise TakesNoPart("more questions than the study plans")
                opened.execute(
                    "INSERT INTO answers VALUES (?, ?, NULL)", (question.place, question.asked)
                )
        body = known.get(question.asked)
        return None if body is None else _read(self._path, question.kind, body)

    def keep(self, question: Question, reply: Reply) -> None:
        """Keep the answer to a question that was claimed.

        Raises:
            UserError: if the file cannot be written.
        """
        if reply.body is None or reply.update is not None:
            return
        with self._opened() as opened:
            opened.execute(
                "UPDATE answers SET body = ? WHERE place = ? AND question = ?",
                (reply.body.model_dump_json(), question.place, question.asked),
            )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, before which no other process comes in."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._path.exists():
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with contextlib.closing(
                sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
            ) as opened:
                opened.execute("PRAGMA synchronous = FULL")
                opened.execute("BEGIN IMMEDIATE")
                opened.execute(TABLE)
                yield opened
                opened.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                self._path,
                f"cannot be read or written: {error}",
                remedy="Without it the site answers nothing. Make room, or put the file back.",
            ) from None


def questions(
    instruction: Instruction, kind: str, site: Site, approval: int | None
) -> list[Question]:
    """Return what an instruction asks, by its places in the study's plan; its own comes last.

    Args:
        instruction: from the coordinator.
        kind: of the message.
        site: who is asked.
        approval: number of the audit log's line that approved the study; None where none has to.

    Raises:
        TakesNoPart: if it has no place in the plan.
    """
    study, run = instruction.study, instruction.run
    if not _planned(instruction, kind, site):
        raise TakesNoPart("more questions than the study plans")
    of_run, found = f"{study.fingerprint}/run/{run}", []
    of_approval = of_run if approval is None else f"{study.fingerprint}/approval/{approval}"
    if approval is not None and kind != PREPARE:
        found.append(Question(f"{of_approval}/runs", run, site.policy.most_runs, kind))
    if instruction.vocabulary is not None:
        fitted = hashlib.sha256(instruction.vocabulary.canonical.encode()).hexdigest()
        found.append(Question(f"{of_run}/vocabulary", fitted, 1, kind))
    if kind in (PREPARE, DESCRIBE):
        return [
            *found,
            Question(f"{of_approval if kind == PREPARE else of_run}/{kind}", "", 1, kind),
        ]
    with_second = instruction.reference is not None
    place = [
        instruction.model,
        instruction.round,
        instruction.split,
        instruction.shared,
        with_second,
    ]
    asked = Question(
        f"{of_run}/{kind}/{json.dumps(place)}", _weights(instruction), MOST_MODELS, kind
    )
    if kind == EVALUATE and _judges(study, site) and instruction.shared:
        asked = Question(asked.place, asked.asked, MOST_JUDGED, kind)
    return [*found, asked]


def answers_of(site: Site) -> Answers:
    """Return the questions that a site has answered."""
    return Answers(site.state / ANSWERS)


def _planned(instruction: Instruction, kind: str, site: Site) -> bool:
    """Whether a study's plan holds a question; comparators' models are a simulation's alone."""
    study, round_ = instruction.study, instruction.round
    if kind in (PREPARE, DESCRIBE):
        return True
    if kind == TRAIN:
        return instruction.model == FEDERATED
    if instruction.reference is not None:
        named = study.evaluation.predecessor == model_digest(instruction.reference)
        return named and not instruction.shared and (round_, instruction.split) == (0, "held_out")
    if instruction.model == EXISTING_SCORE:
        return round_ == 0 and not instruction.shared
    if instruction.model != FEDERATED or not 0 <= round_ <= study.training.rounds:
        return False
    if round_ == 0:
        own = not instruction.shared or study.personal
        return instruction.split in ("tuning", "held_out") and own
    every = study.evaluation.every
    measured = every > 0 and round_ % every == 0 and not instruction.shared
    judged = _judges(study, site) and instruction.shared
    return instruction.split == "tuning" and (measured or judged)


def _judges(study: Study, site: Site) -> bool:
    screening = study.strategy.screening
    return screening is not None and screening.judge == site.name


def _weights(instruction: Instruction) -> str:
    digest = hashlib.sha256()
    for name in ("weights", "control", "reference"):
        vector = getattr(instruction, name)
        digest.update(f"{name}:{0 if vector is None else vector.nbytes}:".encode())
        if vector is not None:
            digest.update(vector.data)
    return digest.hexdigest()


def _read(path: Path, kind: str, body: str) -> Reply:
    try:
        return Reply("ok", BODIES[kind].model_validate_json(body))
    except ValueError:
        raise UserError(path, "an answer that was kept is damaged") from None
