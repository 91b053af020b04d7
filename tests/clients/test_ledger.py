"""The ledger: no spend is ever lost, and nothing that was written can change unnoticed."""

import dataclasses
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ledgers import five_lines, line, opened, refused, tamper, verify

import clients.ledger
from clients.ledger import Head, site_ledger
from clients.site import load_site
from federation.errors import Refused
from federation.privacy.accounting import Segment


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def five(path):
    """Return the path of a closed ledger of five lines."""
    return five_lines(path)


# What it holds


def test_chain_verifies_without_our_code_and_holds_every_field(path):
    ledger = opened(path)
    odd = line(2, sampling_rate=1 / 3, noise_multiplier=1e-7, seeded=True, study="é\u2028")
    bare = dict(kind="unprotected", sampling_rate=0.0, noise_multiplier=0.0, steps=0)
    written = [line(1), odd, line(3, **bare)]
    heads = [ledger.append(one) for one in written]
    for fields, one in zip(verify(path), written, strict=True):
        del fields["number"], fields["written"]
        assert fields == dataclasses.asdict(one)
    assert ledger.lines() == written
    entries = ledger.entries()
    assert [Head(entry.number, entry.hash) for entry in entries] == heads
    assert [entry.previous for entry in entries[1:]] == [head.hash for head in heads[:-1]]
    age = datetime.now(UTC) - datetime.fromisoformat(entries[0].written)
    assert timedelta() <= age + timedelta(seconds=1) < timedelta(minutes=1)


def test_algorithm_in_the_docstring_verifies_a_ledger_and_finds_a_change(five, monkeypatch):
    monkeypatch.chdir(five.parent)
    code = clients.ledger.__doc__.split("::\n")[1].split("\n\nAn entry")[0]
    code = "\n".join(text.removeprefix("    ") for text in code.splitlines())
    found = {}
    exec(code, found)
    assert found["last"] == opened(five).head().hash
    tamper(five, "UPDATE entries SET entry = replace(entry, '\"steps\":3', '\"steps\":2')")
    with pytest.raises(AssertionError):
        exec(code, {})


def test_segments_of_a_run_and_a_model_leave_out_unprotected_fits(path):
    ledger = opened(path)
    ledger.append(line(1, steps=1))
    ledger.append(line(1, steps=2, model="local:bern"))
    ledger.append(line(1, steps=3, run="cd" * 8))
    ledger.append(line(1, kind="unprotected", sampling_rate=0, noise_multiplier=0, steps=0))

    def steps(*which):
        assert {type(segment) for segment in ledger.segments(*which)} == {Segment}
        return sum(segment.steps for segment in ledger.segments(*which))

    assert steps() == 6
    assert steps("ab" * 8) == 3
    assert steps("ab" * 8, "federated") == 1
    assert steps(None, "federated") == 4
    assert ledger.segments() == [Segment(0.1, 1.1, 6)], "equal terms add up"
    assert len(ledger.lines("ab" * 8, "federated")) == 2


def test_ledger_goes_on_after_it_was_closed(five):
    ledger = opened(five)
    assert ledger.head().length == 5
    assert ledger.append(line(6)).length == 6
    ledger.close()
    assert [fields["round"] for fields in verify(five)] == [1, 2, 3, 4, 5, 6]


def test_head_of_an_older_state_is_extended_and_that_of_another_history_is_not(five, tmp_path):
    backup = tmp_path / "backup.sqlite"
    shutil.copy(five, backup)
    ledger, empty = opened(five), opened(tmp_path / "empty.sqlite")
    before = ledger.head()
    after = ledger.append(line(6))
    assert ledger.extends(before) and ledger.extends(after)
    assert ledger.extends(empty.head()), "the header is that of every ledger of this site"
    assert not opened(backup).extends(after), "a restored copy lacks a line"
    assert not empty.extends(before)
    opened(backup).append(line(6, steps=1))
    assert not opened(backup).extends(after), "another sixth line"
    assert not ledger.extends(Head(-1, after.hash))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "other"},
        {"kind": "unprotected"},
        {"sampling_rate": 1.5},
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": 0.0},
        {"steps": -1},
        {"patients": -1},
    ],
)
def test_line_that_cannot_be_is_an_error_before_anything_is_written(wrong):
    with pytest.raises(ValueError, match=r"."):
        line(**wrong)


# Refusing


def test_check_sees_what_was_spent_and_its_refusal_writes_nothing(five):
    ledger, seen = opened(five), []

    def check(lines):
        seen.extend(lines)
        raise Refused("the cap is reached")

    before = five.read_bytes()
    with pytest.raises(Refused):
        ledger.append(line(6), check)
    assert [one.steps for one in seen] == [1, 2, 3, 4, 5]
    assert five.read_bytes() == before
    assert ledger.append(line(6)).length == 6


def test_interrupt_in_a_check_frees_the_ledger(five):
    ledger = opened(five)

    def interrupted(spent):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.append(line(6), interrupted)
    assert opened(five).append(line(6)).length == 6
    assert ledger.head().length == 6


# Durable


def test_durable_append_waits_for_the_disk_and_a_simulation_does_not(path):
    for durable, expected in ((True, 3), (False, 0)):  # EXTRA, OFF
        ledger = opened(path, durable=durable)
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (expected,)
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


APPENDER = """
import sys, time
from pathlib import Path
from tests.clients.ledgers import line, opened
ledger = opened(Path(sys.argv[1]), durable=True)
pause, rest = map(float, sys.argv[2:])
for number in range(1, 100_000):
    head = ledger.append(line(number), lambda spent: time.sleep(pause))
    print(head.length, head.hash, flush=True)
    time.sleep(rest)
"""


def start_appending(path, pause=0.0, rest=0.0):
    """Append in another process, ``pause`` seconds inside each check and ``rest`` between them."""
    arguments = [sys.executable, "-c", APPENDER, str(path), str(pause), str(rest)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=root)


def printed(process):
    """Return the heads whose appends returned; the last line may be cut off."""
    text = process.stdout.read()
    process.stdout.close()
    whole = text[: text.rfind("\n") + 1].split()
    return [Head(int(n), h) for n, h in zip(whole[::2], whole[1::2], strict=True)]


def test_kill_at_any_moment_loses_no_line(path):
    opened(path).close()
    chance, heads = random.Random(0), []
    for _ in range(5):
        with start_appending(path) as process:
            first = process.stdout.readline().split()
            time.sleep(chance.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            told = [Head(int(first[0]), first[1]), *printed(process)]
        heads += told
        ledger = opened(path)
        assert all(ledger.extends(head) for head in heads)
        assert told[-1].length <= ledger.head().length <= told[-1].length + 1
        assert len(verify(path)) == ledger.head().length
        ledger.close()


def test_kill_between_begin_and_commit_writes_nothing_and_frees_the_ledger(five):
    with start_appending(five, pause=60) as process:
        blocked = sqlite3.connect(five, timeout=0, isolation_level=None)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                blocked.execute("BEGIN IMMEDIATE")
                blocked.execute("ROLLBACK")
            except sqlite3.OperationalError:
                break
            time.sleep(0.02)
        else:
            pytest.fail("the other process began no transaction")
        process.send_signal(signal.SIGKILL)
    ledger = opened(five)
    assert ledger.append(line(6)).length == 6
    assert len(verify(five)) == 6


def _die_at_commit(path):
    def killer(statement):
        if statement == "COMMIT":
            os.kill(os.getpid(), signal.SIGKILL)

    ledger = opened(path)
    ledger._db.set_trace_callback(killer)
    ledger.append(line(6))


def test_append_cut_off_at_its_commit_is_read_without_writing_and_then_rolled_back(five):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_die_at_commit, args=(five,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    journal = Path(f"{five}-journal")
    before = five.read_bytes(), journal.read_bytes()
    assert opened(five, writable=False).head().length == 5
    assert (five.read_bytes(), journal.read_bytes()) == before
    assert opened(five).append(line(6)).length == 6
    assert not journal.exists()


# Several at once


def test_two_processes_that_append_see_each_other_and_both_land(path):
    opened(path).close()
    # Without rest one of them could hold the ledger nearly always, and the other give up.
    with start_appending(path, rest=0.02) as one, start_appending(path, rest=0.02) as other:
        ends = [[p.stdout.readline().split() for _ in range(40)] for p in (one, other)]
        for process in (one, other):
            process.kill()
            process.stdout.read()
    ledger = opened(path)
    numbers = [int(number) for lines in ends for number, _ in lines]
    assert len({*numbers}) == 80
    assert all(ledger.extends(Head(int(n), h)) for lines in ends for n, h in lines)
    assert len(verify(path)) == ledger.head().length >= 80


def test_check_counts_what_another_process_spent_meanwhile(five):
    ours, theirs, seen = opened(five), opened(five), []
    theirs.append(line(6, steps=100))
    ours.append(line(7), lambda lines: seen.extend(lines))
    assert [one.steps for one in seen] == [1, 2, 3, 4, 5, 100]
    assert theirs.head() == ours.head()


def test_threads_may_share_a_ledger(path):
    ledger = opened(path)

    def append():
        for number in range(50):
            ledger.append(line(number))

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.head().length == 200
    assert len(verify(path)) == 200


def test_two_that_make_the_ledger_at_once_make_one(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        path = tmp_path / str(attempt) / "ledger.sqlite"
        arguments = [(path, number) for number in range(4)]
        processes = [context.Process(target=_make_and_append, args=a) for a in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert {process.exitcode for process in processes} == {0}
        assert sorted(fields["round"] for fields in verify(path)) == [0, 1, 2, 3]
        assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def _make_and_append(path, number):
    opened(path).append(line(number))


def test_reading_goes_on_while_another_process_is_about_to_append(five):
    heads = []
    opened(five).append(
        line(6), lambda spent: heads.append(opened(five, writable=False).head().length)
    )
    assert heads == [5]


# A site's


def test_ledger_of_a_site_lies_in_its_state_and_is_bound_to_its_key(tmp_path, write_site):
    site = load_site(write_site(tmp_path / "bern", 4))
    ledger = site_ledger(site)
    ledger.append(line(1))
    file = site.state / "ledger.sqlite"
    assert len(verify(file)) == 1
    key = site.state / "patient.key"
    text = key.read_text()
    key.unlink()
    for writable in (True, False):
        refused(
            lambda w=writable: site_ledger(site, writable=w), "patient.key", "missing", "backup"
        )
        assert not key.exists()
    refused(
        lambda: site_ledger(load_site(write_site(tmp_path / "chur", 4)), writable=False), "no such"
    )
    key.write_text("ab" * 32)
    refused(lambda: site_ledger(site), "another patient key")
    key.write_text(text)
    assert site_ledger(site, writable=False).head().length == 1
    assert text.strip().encode() not in file.read_bytes()


# Fast


def test_append_of_a_simulation_takes_well_below_a_millisecond(path):
    ledger, seconds = opened(path), []
    for number in range(200):
        began = time.perf_counter()
        ledger.append(line(number), lambda spent: None)
        seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[50] < 0.001
