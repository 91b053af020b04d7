"""One round of the study at this site alone, by the deployed code, on a copy of its ledger.

Nothing is sent, nothing is spent: the replies pass the gate and are dropped.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from clients.app import Asked, answer
from clients.ledger import Ledger, commitment_to, site_ledger
from clients.ledger_file import LEDGER
from clients.memory import Memory
from clients.replies import StoredReplies
from clients.workbench import Cohort, Workbench
from federation.bodies import Body, PrepareBody, Status
from federation.messages import DESCRIBE, EVALUATE, PREPARE, TRAIN, Instruction
from federation.models.build import build_model
from federation.study import Study
from federation.vocabulary import Vocabulary, agreed_vocabulary, fitted_vocabulary

RUN = "00"


@dataclass(frozen=True)
class Step:
    """One message of the round.

    Attributes:
        kind: of the message, with the split where there is one.
        status: what would leave.
        said: what the site's own log says of it; empty if nothing.
        seconds: how long the answer took.
        body: what else would leave.
    """

    kind: str
    status: Status
    said: str
    seconds: float
    body: Body | None


class RehearsalBench(Workbench):
    """A workbench that keeps ledger and replies in a folder of its own.

    Args:
        scratch: an empty folder that is thrown away.

    Attributes:
        seen: the cohort that was asked for last.
    """

    def __init__(self, scratch: Path):
        super().__init__()
        self._scratch = scratch
        self.seen: Cohort | None = None

    def cohort(self, file: str, study: Study, vocabulary: Vocabulary | None) -> Cohort:
        """Return the site's patients as tensors."""
        self.seen = super().cohort(file, study, vocabulary)
        return self.seen

    def ledger(self, file: str) -> Ledger:
        """Return a copy of the site's ledger, or a new one where it has none.

        Raises:
            UserError: if the site's own cannot be used.
        """
        return self._once(("ledger", file), lambda: self._copied(file))

    def replies(self, file: str) -> StoredReplies:
        """Return an empty store."""
        return StoredReplies(self._scratch / "replies")

    def memory(self, file: str, run: str, model: str) -> Memory:
        """Return an empty memory."""
        return Memory(self._scratch / "personal")

    def _copied(self, file: str) -> Ledger:
        site, copy = self.site(file), self._scratch / LEDGER
        own = site.state / LEDGER
        if own.exists():
            site_ledger(site, writable=False).close()  # verified: damage is told of its own file
            with (
                closing(sqlite3.connect(f"{own.absolute().as_uri()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        return Ledger(copy, site.name, commitment_to(site.patient_key()), durable=False)


def rehearse(study: Study, file: Path, bench: RehearsalBench) -> Iterator[Step]:
    """Ask the site everything that a run of the study asks it, once; stop at the first refusal."""
    section = study.modalities.ehr
    ready = Instruction(study, run=RUN)
    if section is not None and section.vocabulary == "prepared":
        step = _asked(PREPARE, ready, file, bench)
        yield step
        if not isinstance(step.body, PrepareBody):
            return
        ready = replace(ready, vocabulary=fitted_vocabulary(section, [step.body.moments()]))
    elif section is not None:
        ready = replace(ready, vocabulary=agreed_vocabulary(section))
    described = _asked(DESCRIBE, ready, file, bench)
    yield described
    if described.status != "ok":
        return
    weights = build_model(study, ready.vocabulary).weights()
    ready = replace(ready, round=1, weights=weights)
    yield _asked(TRAIN, ready, file, bench)
    yield _asked(EVALUATE, replace(ready, split="tuning"), file, bench)
    yield _asked(EVALUATE, replace(ready, split="held_out"), file, bench)


def _asked(kind: str, instruction: Instruction, file: Path, bench: RehearsalBench) -> Step:
    began = time.perf_counter()
    with _heard() as said:
        asked = Asked(kind, instruction.to_records(), str(file))
        (reply,) = answer([asked], bench)
    name = f"{kind} {instruction.split}" if instruction.split else kind
    return Step(name, reply.status, "; ".join(said), time.perf_counter() - began, reply.body)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what the site's log would say."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            text = record.getMessage()
            said.append(f"{text}: {type(error).__name__}: {error}" if error else text)

    logger, ear = logging.getLogger("wardround.site"), Ear()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(ear)
    try:
        yield said
    finally:
        logger.removeHandler(ear)
        logger.propagate = propagate
