"""The file of a ledger: SQLite made, opened and locked so that a committed line stays.

See also:
    ``ledger``: what stands in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

from federation.errors import UserError

LEDGER = "ledger.sqlite"
BUSY_SECONDS = 5.0

Header = tuple[int, str, str, str]
"""Format, site, commitment to the patient key, hash of the three."""


def broken(path: Path, problem: str) -> NoReturn:
    """Refuse a file whose content cannot be trusted."""
    raise UserError(path, problem, remedy=RESTORE)


def is_missing(path: Path, writable: bool) -> bool:
    """Return whether the ledger has to be made; refuse what cannot be opened as asked."""
    if path.is_dir():
        raise UserError(path, "this is a folder; the file of a ledger was expected")
    if not path.exists():
        # SQLite would roll the journal of the ledger that is gone back into the new one.
        if Path(f"{path.resolve()}-journal").exists():
            broken(path, "gone, though its journal is still there")
        if not writable:
            raise UserError(path, "there is no such file")
        return True
    if not path.is_file():
        raise UserError(path, "this is not a file; the file of a ledger was expected")
    real = path.resolve()
    if writable and not (os.access(real, os.W_OK) and os.access(real.parent, os.W_OK)):
        raise UserError(
            path, "the file or its folder is read-only; spends could not be recorded", remedy=WRITE
        )
    return False


def make(path: Path, header: Header, durable: bool) -> None:
    """Put a new ledger under its name at once, whole, unless another process was first."""
    folders = [f for f in (path.parent, *path.parents) if not f.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.close(os.open(draft, NEW, 0o600))
    try:
        db = connect(draft, "rw")
        with contextlib.closing(db):
            prepare_to_write(db, path, durable)
            db.execute("BEGIN IMMEDIATE")
            db.execute(SCHEMA["header"])
            db.execute("INSERT INTO header VALUES (?, ?, ?, ?)", header)
            for name, statement in SCHEMA.items():
                if name != "header":
                    db.execute(statement)
            db.execute("COMMIT")
        try:
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        except OSError:  # a file system without hard links
            with (
                contextlib.suppress(FileExistsError),
                os.fdopen(os.open(path, NEW, 0o600), "wb") as file,
            ):
                file.write(draft.read_bytes())
                file.flush()
                os.fsync(file.fileno())
    finally:
        draft.unlink(missing_ok=True)
    for folder in {path.parent, *(f.parent for f in folders)}:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """Open a file that exists."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions are begun and ended by hand
        check_same_thread=False,
    )


def prepare_to_write(db: sqlite3.Connection, path: Path, durable: bool) -> None:
    """Choose how a transaction reaches the disk."""
    # DELETE and not WAL: the one file is the whole ledger, to copy and to read where nothing
    # can be written. In this mode only EXTRA waits for the journal's removal, the commit itself.
    if db.execute("PRAGMA journal_mode = DELETE").fetchone() != ("delete",):
        broken(path, "its journal was changed")
    db.execute(f"PRAGMA synchronous = {'EXTRA' if durable else 'OFF'}")
    db.execute("PRAGMA fullfsync = ON")  # macOS: past the cache of the disk itself


def reader(path: Path) -> sqlite3.Connection:
    """Open without writing, even where an append was cut off and has to be rolled back."""
    db = connect(path, "ro")
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        db.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
    else:
        return db
    real = path.resolve()
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, LEDGER)
        # Closing the file frees every lock of this process on it; none can be at stake here, for a
        # journal that has to be rolled back is one whose writer holds no lock any more.
        for suffix in ("-journal", ""):
            shutil.copyfile(f"{real}{suffix}", f"{copy}{suffix}")
        with contextlib.closing(connect(copy, "rw")) as recovered:
            recovered.backup(memory)
    return memory


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[None]:
    """Turn what the operating system says into a message for a person."""
    try:
        yield
    except UnicodeDecodeError:  # Python reading SQLite's own message about a damaged file
        raise UserError(path, DAMAGED[0], remedy=DAMAGED[1]) from None
    except OSError as error:
        raise UserError(path, f"cannot be opened or made: {error.strerror}", remedy=WRITE) from None


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says into a message for a person."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        problem, remedy = EXPLAINED.get(code, EXPLAINED.get(code & 0xFF, DAMAGED))
        raise UserError(path, problem, remedy=remedy) from None


RESTORE = (
    "Keep this file and restore the newest intact copy. Spends that a copy lacks no longer count, "
    "so compare its head with the one that each coordinator last saw."
)
WRITE = (
    "A spend is recorded before it is made: give the user who runs this the right to read and "
    "write the folder and the file."
)
DAMAGED = ("damaged, or not a ledger", RESTORE)
EXPLAINED = {
    sqlite3.SQLITE_BUSY: (
        f"locked by another process for more than {BUSY_SECONDS:g} seconds",
        "Let the training run or the program that holds it finish, then try again.",
    ),
    sqlite3.SQLITE_NOTADB: ("not the file of a ledger", RESTORE),
    sqlite3.SQLITE_READONLY: ("read-only; spends could not be recorded", WRITE),
    sqlite3.SQLITE_READONLY_DBMOVED: (
        "moved, replaced or deleted while it was in use",
        "Put the file back, with every line it had, and start again.",
    ),
    sqlite3.SQLITE_CANTOPEN: ("it or its folder cannot be opened", WRITE),
    sqlite3.SQLITE_FULL: ("the disk is full; the spend was not recorded", "Make room."),
    sqlite3.SQLITE_IOERR: ("the disk failed", "See the log of the operating system."),
}

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
SCHEMA = {
    "header": "CREATE TABLE header (format INTEGER NOT NULL, site TEXT NOT NULL, "
    "commitment TEXT NOT NULL, hash TEXT NOT NULL)",
    "entries": "CREATE TABLE entries (number INTEGER PRIMARY KEY, entry TEXT NOT NULL, "
    "hash TEXT NOT NULL)",
    # Against INSERT OR REPLACE, which deletes a line without firing the trigger on DELETE.
    "entries_next": "CREATE TRIGGER entries_next BEFORE INSERT ON entries "
    "WHEN NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM entries) "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
} | {
    f"{table}_{event.lower()}": f"CREATE TRIGGER {table}_{event.lower()} BEFORE {event} "
    f"ON {table} BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    for table, event in (
        ("entries", "UPDATE"),
        ("entries", "DELETE"),
        ("header", "UPDATE"),
        ("header", "DELETE"),
        ("header", "INSERT"),
    )
}
