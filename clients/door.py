"""The door of a deployed site: every message passes it before anything is read, and is recorded.

What a person has not approved, what the site's hours and its rounds a day do not allow, and what
is not of the version installed here is answered with a status alone. docs/threat-model.md lists
what that is for.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from flwr.app import Array, Context, Message, RecordDict

from clients.answers import Question, answers_of, questions
from clients.app import HANDLERS
from clients.approvals import approval_of, audit_log
from clients.audit_log import AuditLog, Entry
from clients.outbound import TakesNoPart, guarded
from clients.site import PolicySection, Site, open_site
from federation.flower import MOST_BYTES
from federation.messages import TRAIN, Instruction, Reply
from federation.study import Study

logger = logging.getLogger("wardround.site")

Answering = Callable[[Message, Context], Message]


def answer_at_the_door(
    message: Message,
    context: Context,
    app: Answering,
    expected_bundle: bool = True,
    now: Callable[[], datetime] = datetime.now,
) -> Message:
    """Let a message in, or answer it with a refusal; record both in the site's audit log.

    Args:
        message: from the coordinator.
        context: its ``node_config`` names the site file.
        app: the installed ClientApp.
        expected_bundle: whether the bundle that came with it is the one of this version.
        now: the site's local time.

    Returns:
        What leaves: it has been recorded.
    """
    file = Path(str(context.node_config.get("site", "")))
    asked, size = digest_of(message.content)
    found = guarded(partial(_pass, message, file, asked, size, expected_bundle, now))
    question = found if isinstance(found, Question) else None
    # Guarded again: Flower would send the text of whatever is raised to the coordinator.
    answer = found if isinstance(found, Reply) else guarded(partial(app, message, context))
    if isinstance(answer, Reply):
        answer = Message(answer.to_records(), reply_to=message)
    sent = guarded(partial(_record_sent, message, asked, answer, file, question))
    if isinstance(sent, Reply):  # what cannot be recorded does not leave
        return Message(sent.to_records(), reply_to=message)
    return answer


def within_hours(hours: str | None, now: datetime) -> bool:
    """Return whether a site takes part at this time.

    >>> [within_hours("19:00-06:00", datetime(2026, 1, 1, hour)) for hour in (5, 6, 18, 19)]
    [True, False, False, True]
    """
    if hours is None:
        return True
    begin, end = hours.split("-")
    time = f"{now:%H:%M}"
    return begin <= time < end if begin < end else time >= begin or time < end


def digest_of(records: RecordDict) -> tuple[str, int]:
    """Return SHA-256 and bytes of a message's content: names, values and arrays, in name order."""
    digest, size = hashlib.sha256(), 0
    for name, record in sorted(records.items()):
        for key, value in sorted(record.items()):
            data = value.data if isinstance(value, Array) else str(value).encode()
            digest.update(f"{name}/{key}:{len(data)}:".encode())
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size


def _pass(
    message: Message,
    file: Path,
    digest: str,
    size: int,
    expected: bool,
    now: Callable[[], datetime],
) -> Question | Reply:
    """Return the question that is to be answered, or the answer that was given to it before."""
    site = open_site(file)
    log, kind = audit_log(site), message.metadata.message_type
    known = kind if kind in HANDLERS else "unknown"
    instruction = guarded(partial(_instruction, message.content, size))
    told: dict[str, str | int | None] = {"kind": known, "bytes": size, "digest": digest}
    if isinstance(instruction, Instruction):
        told |= {
            "study": instruction.study.study.name,
            "fingerprint": instruction.study.fingerprint,
            "run": instruction.run,
            "model": instruction.model,
            "round": instruction.round,
        }
    log.append("received", **told)
    try:
        if not isinstance(instruction, Instruction) or known == "unknown" or not expected:
            raise TakesNoPart("not an instruction of this version")
        return _check(instruction, known, site, log, now())
    except TakesNoPart as refusal:
        log.append("refused", to=digest, status=refusal.status)
        logger.warning("refused: %s", refusal.status)
        raise


def _check(
    instruction: Instruction, kind: str, site: Site, log: AuditLog, now: datetime
) -> Question | Reply:
    study, policy = instruction.study, site.policy
    approval = approval_of(study, site) if policy.approve else None
    if policy.approve and approval is None:
        logger.warning(
            "the study %s (%s) is not approved: `wardround site approve`",
            study.study.name,
            study.fingerprint[:12],
        )
        raise TakesNoPart("the study is not approved at the site")
    if not within_hours(policy.hours, now):
        raise TakesNoPart("outside the site's hours")
    if kind == TRAIN:
        _check_rounds(instruction, study, policy, log, now)
    return _claimed(questions(instruction, kind, site, approval), site)


def _claimed(asked: list[Question], site: Site) -> Question | Reply:
    answers, before = answers_of(site), None
    for question in asked:
        before = answers.claim(question)
    return asked[-1] if before is None else before


def _check_rounds(
    instruction: Instruction, study: Study, policy: PolicySection, log: AuditLog, now: datetime
) -> None:
    if not 1 <= instruction.round <= study.training.rounds:
        raise TakesNoPart("more rounds than the site allows")
    if policy.most_rounds_a_day is None:
        return
    today = _rounds_of(log.entries(), now)
    mine = (instruction.run, instruction.model, instruction.round)
    if mine not in today and len(today) >= policy.most_rounds_a_day:
        raise TakesNoPart("more rounds than the site allows")


def _rounds_of(entries: list[Entry], now: datetime) -> Counter[tuple[str, str, int]]:
    """Return today's training rounds that were let in; the last entry is the one that asks."""
    refused = {entry.told.get("to") for entry in entries if entry.event == "refused"}
    return Counter(
        (str(e.told["run"]), str(e.told["model"]), int(e.told["round"]))
        for e in entries[:-1]
        if e.event == "received"
        and e.told["kind"] == TRAIN
        and "run" in e.told
        and e.told["digest"] not in refused
        and e.written.astimezone().date() == now.date()
    )


def _instruction(records: RecordDict, size: int) -> Instruction:
    if size > MOST_BYTES:
        raise TakesNoPart("not an instruction of this version")
    try:
        return Instruction.from_records(records)
    except ValueError:
        raise TakesNoPart("not an instruction of this version") from None


def _record_sent(
    message: Message, asked: str, reply: Message, file: Path, question: Question | None
) -> None:
    site = open_site(file)
    digest, size = digest_of(reply.content)
    told = Reply.from_records(reply.content, message.metadata.message_type)
    spent = getattr(told.body, "spent", None)
    if question is not None:
        answers_of(site).keep(question, told)
    audit_log(site).append(
        "sent",
        to=asked,
        status=told.status,
        bytes=size,
        digest=digest,
        ledger_lines=None if spent is None else spent.ledger.length,
        ledger_head=None if spent is None else spent.ledger.hash,
    )
