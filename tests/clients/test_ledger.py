"""The ledger: no spend is ever lost, and nothing that was written can change unnoticed."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import clients.ledger
import clients.ledger_file
from clients.ledger import Head, Ledger, Line, commitment_to, site_ledger
from clients.site import load_site
from federation.errors import Refused, UserError
from federation.privacy.accounting import Segment

KEY = commitment_to(b"k" * 32)
LINE = Line(
    kind="segment",
    run="ab" * 8,
    study="heart",
    fingerprint="f" * 64,
    model="federated",
    round=1,
    request="0" * 64,
    patients=183,
    sampling_rate=0.1,
    noise_multiplier=1.1,
    steps=20,
    seeded=False,
)


def line(number=1, **changes):
    return dataclasses.replace(LINE, **{"round": number, **changes})


def opened(path, **how):
    return Ledger(path, "bern", KEY, **{"durable": False, **how})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def five(path):
    """Return the path of a closed ledger of five lines."""
    ledger = opened(path)
    for number in range(1, 6):
        ledger.append(line(number, steps=number))
    ledger.close()
    return path


def verify(path):
    """Check the chain without the code under test; return the entries' fields."""

    def sha256(text):
        return hashlib.sha256(text.encode()).hexdigest()

    def canonical(fields):
        def value(x):
            return repr(x) if isinstance(x, float) else json.dumps(x)

        return "{" + ",".join(f'"{k}":{value(fields[k])}' for k in sorted(fields)) + "}"

    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    ((version, site, commitment, last),) = db.execute("SELECT * FROM header")
    assert last == sha256(canonical({"format": version, "site": site, "commitment": commitment}))
    found = []
    rows = db.execute("SELECT number, entry, hash FROM entries ORDER BY number").fetchall()
    db.close()
    for expected, (number, entry, stored) in enumerate(rows, start=1):
        fields = json.loads(entry)
        assert number == expected == fields["number"]
        assert entry == canonical(fields)
        last = sha256(last + entry)
        assert stored == last
        found.append(fields)
    return found


def refused(act, *words):
    with pytest.raises(UserError) as caught:
        act()
    for word in words:
        assert word in str(caught.value)
    assert caught.value.remedy or "folder" in str(caught.value) or "no such" in str(caught.value)


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
        return [segment.steps for segment in ledger.segments(*which)]

    assert steps() == [1, 2, 3]
    assert steps("ab" * 8) == [1, 2]
    assert steps("ab" * 8, "federated") == [1]
    assert steps(None, "federated") == [1, 3]
    assert ledger.segments()[0] == Segment(0.1, 1.1, 1)
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

    def check(spent):
        seen.extend(spent)
        raise Refused("the cap is reached")

    before = five.read_bytes()
    with pytest.raises(Refused):
        ledger.append(line(6), check)
    assert [segment.steps for segment in seen] == [1, 2, 3, 4, 5]
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


def test_creation_syncs_every_folder_it_made(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    opened(tmp_path / "a" / "b" / "ledger.sqlite", durable=True)
    assert {f.stat().st_ino for f in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")} <= {*synced}


APPENDER = """
import sys, time
from pathlib import Path
from tests.clients.test_ledger import line, opened
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
    ours.append(line(7), lambda spent: seen.extend(spent))
    assert [segment.steps for segment in seen] == [1, 2, 3, 4, 5, 100]
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


# Files


def test_new_file_is_for_its_owner_only(path):
    opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_file_system_without_hard_links_holds_a_ledger_too(path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    opened(path).append(line(1))
    assert len(verify(path)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_symbolic_links_to_a_ledger_and_to_one_that_is_not_made_yet(five, tmp_path):
    link, fresh = tmp_path / "link.sqlite", tmp_path / "fresh.sqlite"
    link.symlink_to(five)
    fresh.symlink_to(tmp_path / "elsewhere.sqlite")
    opened(link).append(line(6))
    opened(fresh).append(line(1))
    assert len(verify(five)) == 6
    assert fresh.is_symlink() and len(verify(tmp_path / "elsewhere.sqlite")) == 1


def test_name_with_signs_that_mean_something_in_an_address(tmp_path):
    path = tmp_path / "a?b#c%20 é" / "ledger.sqlite"
    opened(path).append(line(1))
    assert path.exists() and opened(path).head().length == 1


def test_reading_makes_nothing(tmp_path, five):
    refused(lambda: opened(tmp_path / "none.sqlite", writable=False), "none.sqlite", "no such file")
    before = five.stat()
    ledger = opened(five, writable=False)
    assert ledger.site == "bern" and ledger.head().length == 5
    refused(lambda: ledger.append(line(6)), "ledger.sqlite", "read-only")
    assert five.stat() == before
    assert sorted(file.name for file in five.parent.iterdir()) == ["ledger.sqlite"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_written_is_an_error_at_once_but_can_be_read(five, what):
    os.chmod(five, 0o644)
    locked = five if what == "file" else five.parent
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        state = shutil.copytree(five.parent, Path(folder, "state"))
        file = state / "ledger.sqlite"
        os.chmod(file if locked == five else state, 0o444 if locked == five else 0o555)
        refused(lambda: as_other_user(opened, file), "ledger.sqlite", "read-only")
        as_other_user(lambda: opened(file, writable=False).head())
        os.chmod(state, 0o755)


def test_new_ledger_in_a_folder_that_cannot_be_written(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        path = Path(folder, "ledger.sqlite")
        refused(lambda: as_other_user(opened, path), "ledger.sqlite", "Permission denied")
        deeper = Path(folder, "state", "ledger.sqlite")
        refused(lambda: as_other_user(opened, deeper), "state", "Permission denied")


def as_other_user(act, *arguments):
    """Call in a process without root's rights to write everywhere; raise what it raised."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            act(*arguments)
            theirs.send(None)
        except Exception as error:
            theirs.send(error)

    process = context.Process(target=child)
    process.start()
    process.join()
    error = ours.recv()
    if error is not None:
        raise error


def test_folder_in_the_place_of_the_file(tmp_path):
    refused(lambda: opened(tmp_path), str(tmp_path), "folder")
    refused(lambda: opened(tmp_path, writable=False), "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a file"):
        opened(tmp_path / "pipe", writable=False)


def test_ledger_that_another_process_locks(five, monkeypatch):
    monkeypatch.setattr(clients.ledger_file, "BUSY_SECONDS", 0.1)
    ledger = opened(five)
    holder = sqlite3.connect(five, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    refused(lambda: ledger.append(line(6)), "ledger.sqlite", "locked by another process")
    refused(lambda: opened(five), "ledger.sqlite", "locked by another process")
    holder.execute("ROLLBACK")
    assert ledger.append(line(6)).length == 6


def test_append_waits_for_a_process_that_holds_the_ledger_shortly(five):
    ledger = opened(five)
    holder = sqlite3.connect(five, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.3, lambda: holder.execute("ROLLBACK"))
    timer.start()
    assert ledger.append(line(6)).length == 6
    timer.join()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_ledger_taken_away_while_open_takes_no_line(five, tmp_path, how):
    older = tmp_path / "older.sqlite"
    shutil.copy(five, older)
    ledger = opened(five)
    if how == "deleted":
        five.unlink()
    else:
        older.replace(five)
    refused(lambda: ledger.append(line(6)), "ledger.sqlite", "while it was in use")


@pytest.mark.parametrize("more", [0, 1, 2])
def test_older_copy_written_over_an_open_ledger_is_noticed(five, tmp_path, more):
    older = tmp_path / "older.sqlite"
    shutil.copy(five, older)
    for number in range(more):
        opened(older).append(line(6 + number, steps=99))
    ledger = opened(five)
    ledger.append(line(6))
    shutil.copy(older, five)
    refused(lambda: ledger.append(line(7)), "ledger.sqlite", "line 6", "gone or changed")
    refused(ledger.segments, "line 6", "gone or changed")
    assert len(verify(five)) == 5 + more


def test_full_disk_is_an_error_and_nothing_is_written(five):
    ledger = opened(five)
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for number in range(6, 1000):
            ledger.append(line(number))

    refused(fill, "ledger.sqlite", "disk is full")
    length = ledger.head().length
    assert len(verify(five)) == length < 999


# Tampering


def tamper(path, *statements, triggers=True):
    """Change the file past its triggers; put these back unless told not to."""
    db = sqlite3.connect(path, isolation_level=None)
    kept = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in kept:
        db.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        db.execute(statement)
    if triggers:
        for _, sql in kept:
            db.execute(sql)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET hash = '' WHERE number = 3",
        "DELETE FROM entries WHERE number = 5",
        "INSERT OR REPLACE INTO entries VALUES (5, '', '')",
        "INSERT INTO entries VALUES (9, '', '')",
        "UPDATE header SET site = 'aarau'",
        "DELETE FROM header",
        "INSERT INTO header VALUES (1, '', '', '')",
    ],
)
def test_triggers_forbid_every_change_of_what_was_written(five, statement):
    db = sqlite3.connect(five)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (
            ["UPDATE entries SET entry = replace(entry, ':0.1,', ':0.2,') WHERE number = 4"],
            "line 4",
        ),
        (["UPDATE entries SET hash = replace(hash, substr(hash, 1, 1), 'x')"], "line 1"),
        (["DELETE FROM entries WHERE number = 3"], "line 3 is missing"),
        (["DELETE FROM entries WHERE number = 1"], "line 1 is missing"),
        (
            [
                "DELETE FROM entries WHERE number = 3",
                "UPDATE entries SET number = number - 1 WHERE number > 3",
            ],
            "line 3",
        ),
        (
            [
                "UPDATE entries SET number = -2 WHERE number = 2",
                "UPDATE entries SET number = 2 WHERE number = 4",
                "UPDATE entries SET number = 4 WHERE number = -2",
            ],
            "line 2",
        ),
        (["UPDATE entries SET entry = CAST(entry AS BLOB) WHERE number = 2"], "line 2"),
        (["UPDATE header SET site = 'aarau'"], "header"),
        (["DELETE FROM header"], "header"),
        (["INSERT INTO header SELECT * FROM header"], "header"),
        (["DROP TABLE entries"], "tables"),
        (["DROP TABLE header"], "not a ledger"),
        (["ALTER TABLE entries ADD COLUMN more TEXT"], "tables"),
    ],
)
def test_change_past_the_triggers_is_found(five, statements, words):
    tamper(five, *statements, triggers="DROP" not in statements[0])
    for writable in (True, False):
        refused(lambda w=writable: opened(five, writable=w), "ledger.sqlite: ", words)


def test_missing_trigger_is_found(five):
    tamper(five, triggers=False)
    refused(lambda: opened(five), "triggers")


def test_line_whose_hash_fits_but_whose_content_does_not_is_found(five):
    db = sqlite3.connect(five)
    (last,) = db.execute("SELECT hash FROM entries WHERE number = 5").fetchone()
    (good,) = db.execute("SELECT entry FROM entries WHERE number = 5").fetchone()
    nan = good.replace('"noise_multiplier":1.1', '"noise_multiplier":NaN')
    for text in (
        "[]",
        good,
        good.replace(":5", ": 6"),
        good.replace('"number":5', '"number":6').replace('"steps":5', '"steps":-5'),
        nan.replace('"number":5', '"number":6'),
        good.replace('"number":5', '"number":6,"more":1'),
    ):
        copy = five.with_name("copy.sqlite")
        shutil.copy(five, copy)
        forged = sqlite3.connect(copy)
        row = (6, text, hashlib.sha256((last + text).encode()).hexdigest())
        with forged:
            forged.execute("INSERT INTO entries VALUES (?, ?, ?)", row)
        forged.close()
        refused(lambda c=copy: opened(c), "line 6")


def test_flipped_byte_anywhere_is_found_or_changes_nothing(five):
    good, entries = five.read_bytes(), opened(five, writable=False).entries()
    chance, found = random.Random(1), 0
    places = [*range(100), *(chance.randrange(len(good)) for _ in range(400))]
    content = good.index(b'"federated"')
    for place in [*places, *range(content, content + 40)]:
        flipped = bytearray(good)
        flipped[place] ^= 1 << chance.randrange(8)
        five.write_bytes(flipped)
        try:
            ledger = opened(five, writable=False)
        except UserError:
            found += 1
        else:
            assert ledger.entries() == entries
            ledger.close()
            assert place not in range(content, content + 40)
    assert found > 100


def test_last_line_hidden_by_a_damaged_page_is_found(five):
    db = sqlite3.connect(five)
    query = "SELECT rootpage FROM sqlite_master WHERE name = 'entries'"
    (page,), (size,) = db.execute(query).fetchone(), db.execute("PRAGMA page_size").fetchone()
    db.close()
    data, count = bytearray(five.read_bytes()), (page - 1) * size + 4
    assert data[count] == 5
    data[count] = 4
    five.write_bytes(data)
    assert len(verify(five)) == 4, "by its chain alone it looks whole"
    refused(lambda: opened(five), "damaged")


def test_truncated_file_is_an_error(five):
    good = five.read_bytes()
    for length in (0, 1, 50, 100, 1000, 4096, len(good) // 2, len(good) - 4096, len(good) - 1):
        five.write_bytes(good[:length])
        for writable in (True, False):
            refused(lambda w=writable: opened(five, writable=w), "ledger.sqlite: ")
        assert five.read_bytes() == good[:length], "nothing is made anew in its place"


def test_ledger_that_was_deleted_beside_its_journal_is_not_made_anew(five):
    five.rename(f"{five}-journal")
    refused(lambda: opened(five), "ledger.sqlite", "journal", "restore")
    assert not five.exists()


def test_file_that_is_no_database(path):
    path.parent.mkdir()
    path.write_text(
        "privacy spent so far: none at all, says this text of more than 100 signs. " * 9
    )
    refused(lambda: opened(path), "ledger.sqlite", "not the file of a ledger")
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE other (x)")
    db.close()
    refused(lambda: opened(path), "ledger.sqlite", "not a ledger")


def test_ledger_of_a_later_format_asks_for_that_version(five):
    tamper(five, "UPDATE header SET format = 2", "ALTER TABLE header ADD COLUMN more TEXT")
    refused(lambda: opened(five), "later version", "format 2", "Install")


def test_ledger_of_another_site_or_patient_key_is_refused(five):
    refused(lambda: Ledger(five, "aarau", KEY), '"bern"', '"aarau"')
    refused(lambda: Ledger(five, "bern", commitment_to(b"x" * 32)), "another patient key")
    assert Ledger(five, None, None, writable=False).site == "bern"


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
