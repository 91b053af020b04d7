"""The audit log holds together by itself: any change of what is written shows."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clients.audit_log import AuditLog
from federation.errors import UserError


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "state/audit.jsonl")
    for number in range(5):
        log.append("received", bytes=number, digest=hashlib.sha256(bytes([number])).hexdigest())
    return log


def test_the_chain_can_be_checked_without_this_program(log: AuditLog) -> None:
    last = ""
    lines = log.path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        entry = json.loads(line)
        assert (entry["number"], entry["previous"]) == (number, last)
        last = hashlib.sha256(line).hexdigest()
    assert log.verify() == (len(lines), last) == (6, last)
    assert log.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", range(6))
def test_a_changed_or_removed_line_is_found(log: AuditLog, line: int) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    changed = lines[line].replace(b'"written":"2', b'"written":"3')
    for others in ([changed, *lines[line + 1 :]], lines[line + 1 :]):
        log.path.write_bytes(b"".join([*lines[:line], *others]))
        if line == 5:  # the end of a chain: only whoever noted the head can tell
            assert log.verify()[1] != hashlib.sha256(lines[-1][:-1]).hexdigest()
            continue
        with pytest.raises(UserError, match=r"chain is broken|not one of an audit log"):
            log.verify()


def test_a_line_that_a_crash_cut_short_is_noted_and_the_chain_goes_on(log: AuditLog) -> None:
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"bytes":1,"eve')
    with pytest.raises(UserError, match="cut short by a crash"):
        log.verify()
    log.append("started")
    assert log.verify()[0] == 8
    noted, started = log.entries()[-2:]
    assert (noted.event, noted.told["bytes"], started.event) == ("cut short", 15, "started")
    assert log.path.read_bytes().startswith(whole)


def test_processes_that_append_at_once_make_one_chain(log: AuditLog) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: AuditLog(log.path).append("sent", bytes=n), range(40)))
    assert log.verify()[0] == 46
    assert {entry.told["bytes"] for entry in log.entries()[6:]} == set(range(40))


def test_nothing_is_written_after_a_foreign_line(log: AuditLog) -> None:
    log.path.write_bytes(log.path.read_bytes() + b"hello\n")
    with pytest.raises(UserError, match="last line is not one"):
        log.append("started")
