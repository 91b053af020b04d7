"""The ledger's file: how it is made, and what becomes of one that is locked, damaged or foreign."""

import hashlib
import multiprocessing
import os
import random
import shutil
import sqlite3
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from ledgers import KEY, five_lines, line, opened, refused, tamper, verify

import clients.ledger_file
from clients.ledger import Ledger, commitment_to
from federation.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def five(path):
    """Return the path of a closed ledger of five lines."""
    return five_lines(path)


# Creation


def test_new_file_is_for_its_owner_only(path):
    opened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_creation_syncs_every_folder_it_made(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    opened(tmp_path / "a" / "b" / "ledger.sqlite", durable=True)
    assert {f.stat().st_ino for f in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")} <= {*synced}


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


def test_folder_in_the_place_of_the_file(tmp_path):
    refused(lambda: opened(tmp_path), str(tmp_path), "folder")
    refused(lambda: opened(tmp_path, writable=False), "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a file"):
        opened(tmp_path / "pipe", writable=False)


# Permissions


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


# Locked, replaced, full


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
