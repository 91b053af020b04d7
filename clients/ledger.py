"""The ledger: a site's durable, append-only record of privacy spent on its patients.

One line stands for one training segment (a round of one model) and is on disk before the noisy
steps that it pays for, so that a crash can only overstate what was spent. Lines add up over
rounds, restarts, runs and studies.

The file is SQLite. Each entry's hash covers the one before it, so that anyone can check the chain
without this program::

    import hashlib, json, sqlite3

    def sha256(text):
        return hashlib.sha256(text.encode()).hexdigest()

    db = sqlite3.connect("file:ledger.sqlite?mode=ro", uri=True)
    query = "SELECT format, site, commitment, hash FROM header"
    version, site, commitment, last = db.execute(query).fetchone()
    header = {"commitment": commitment, "format": version, "site": site}
    assert last == sha256(json.dumps(header, sort_keys=True, separators=(",", ":")))
    query = "SELECT number, entry, hash FROM entries ORDER BY number"
    for expected, (number, entry, stored) in enumerate(db.execute(query), start=1):
        assert number == expected == json.loads(entry)["number"]
        last = sha256(last + entry)
        assert stored == last

An entry is canonical JSON: keys sorted, no spaces, ASCII, floats as their shortest ``repr``.

What the chain cannot show: an older copy put back in the ledger's place, lines cut from its end,
or a chain written anew from its first line, are as consistent as the original. Whoever saw a head
earlier finds out with ``Ledger.extends``; the coordinator is that witness.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from clients.ledger_file import (
    LEDGER,
    SCHEMA,
    broken,
    connect,
    explained,
    is_missing,
    make,
    prepare_to_write,
    reachable,
    reader,
)
from clients.site import Site
from federation.errors import UserError
from federation.privacy.accounting import Segment

FORMAT = 1
Noise = Literal["gaussian", "discrete"]
NOISES: Mapping[str, Noise] = {"segment": "gaussian", "evaluation": "discrete"}
"""The noise of each kind of line that spends."""


@dataclass(frozen=True)
class Line:
    """What one training segment, or one noised evaluation, spends on a site's patients.

    An "evaluation" is of counts, to each of which a patient adds at most 1: ``noise_multiplier`` is
    the scale of the discrete Gaussian noise of each, ``steps`` to how many a patient adds,
    ``patients`` how many were counted, ``model`` the model and the split ("federated:held_out").
    ``kind`` is "unprotected" for a fit without differential privacy at this site, recorded once
    per run and model, with a rate, noise and steps of 0. ``run`` is the hex id that the
    coordinator drew, ``fingerprint`` that of the resolved study, ``request`` the SHA-256 of the
    weights that were sent, ``patients`` the number of training patients. ``seeded`` noise comes
    from a seed: a simulation, which protects nobody.
    """

    kind: Literal["segment", "evaluation", "unprotected"]
    run: str
    study: str
    fingerprint: str
    model: str
    round: int
    request: str
    patients: int
    sampling_rate: float
    noise_multiplier: float
    steps: int
    seeded: bool

    def __post_init__(self) -> None:
        spends = (self.sampling_rate, self.noise_multiplier, self.steps)
        if self.kind in NOISES:
            Segment(*spends, noise=NOISES[self.kind])  # raises ValueError
        elif self.kind != "unprotected" or any(spends):
            raise ValueError(f"neither a segment nor an unprotected fit: {self}")
        if min(self.round, self.patients) < 0:
            raise ValueError("rounds and patients count from 0")


@dataclass(frozen=True)
class Entry:
    """A line as it stands in the ledger: numbered from 1, with the time in UTC."""

    number: int
    written: str
    line: Line
    previous: str
    hash: str


@dataclass(frozen=True)
class Head:
    """The end of a chain: its number of entries and the last one's hash, or the header's."""

    length: int
    hash: str


class Ledger:
    """An open ledger. Several processes may hold one at a time; threads may share an object.

    Args:
        path: the SQLite file; made if it is missing and ``writable``.
        site: whose ledger it has to be; ``None``, only without ``writable``, takes any.
        commitment: to the site's patient key (``commitment_to``); ``None`` as for ``site``.
        durable: False, for simulations, does not wait for the disk.
        writable: False reads only: from read-only media, and beside a process that appends.

    Raises:
        UserError: if the file cannot be used, is damaged, of another site or of a later format,
            or its chain is broken.
    """

    def __init__(
        self,
        path: Path,
        site: str | None,
        commitment: str | None,
        *,
        durable: bool = True,
        writable: bool = True,
    ):
        self.path = path
        self._lock = threading.RLock()
        self._entries: list[Entry] = []
        with explained(path), reachable(path):
            if is_missing(path, writable):
                if site is None or commitment is None:
                    raise ValueError("a new ledger is the ledger of a site")
                header = (FORMAT, site, commitment, _header_hash(FORMAT, site, commitment))
                make(path.resolve(), header, durable)
            self._db = connect(path, "rw") if writable else reader(path)
            try:
                self._open(site, commitment)
                if writable:
                    prepare_to_write(self._db, path, durable)
            except BaseException:
                self._db.close()
                raise

    def entries(self) -> list[Entry]:
        """Return all entries, those that other processes appended too."""
        with self._lock, explained(self.path):
            self._catch_up()
            return list(self._entries)

    def known(self) -> list[Entry]:
        """Return the entries up to the last that this object has read or written."""
        with self._lock:
            return list(self._entries)

    def lines(self, run: str | None = None, model: str | None = None) -> list[Line]:
        """Return the lines, of one run or model if given."""
        lines = [entry.line for entry in self.entries()]
        return [x for x in lines if run in (None, x.run) and model in (None, x.model)]

    def segments(self, run: str | None = None, model: str | None = None) -> list[Segment]:
        """Return what noisy steps spent, in one run or on one model if given."""
        return segments_of(self.lines(run, model))

    def head(self) -> Head:
        """Return the end of the chain."""
        with self._lock, explained(self.path):
            self._catch_up()
            return self._seen(len(self._entries))

    def extends(self, head: Head) -> bool:
        """Return whether the chain once ended in ``head``; False if this is an older copy."""
        with self._lock:
            return 0 <= head.length <= self.head().length and self._seen(head.length) == head

    def append(self, line: Line, check: Callable[[list[Line]], None] | None = None) -> Head:
        """Write a line; it is on the disk when this returns.

        Args:
            line: what is about to be spent.
            check: called with all lines so far, while no other process can append; it raises to
                refuse, and nothing is written then.

        Raises:
            UserError: if the line cannot be written, or what was read earlier is gone.
        """
        with self._lock, explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up()
                if check is not None:
                    check([entry.line for entry in self._entries])
                entry = _next_entry(self._seen(len(self._entries)), line)
                row = (entry.number, _text(entry), entry.hash)
                self._db.execute("INSERT INTO entries VALUES (?, ?, ?)", row)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._take(entry)
            return Head(entry.number, entry.hash)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _open(self, site: str | None, commitment: str | None) -> None:
        """Check the whole file, as of one moment."""
        self._db.execute("BEGIN")
        self.site, self._commitment, self._start = _read_header(self._db, self.path)
        if site not in (None, self.site):
            raise UserError(
                self.path,
                f'this is the ledger of "{self.site}", not of "{site}"',
                remedy="Give each site a state folder of its own. If the site was renamed, give "
                "it its old name back: its patients' spends stand in this ledger.",
            )
        if commitment not in (None, self._commitment):
            raise UserError(
                self.path,
                "it was begun under another patient key",
                remedy="Put back the patient.key that belongs to it. Patients hashed under "
                "another key are divided differently, so spends cannot be carried over.",
            )
        self._catch_up()
        self._db.execute("ROLLBACK")

    def _catch_up(self) -> None:
        """Read and verify what came after the last entry seen, which must still stand."""
        seen = len(self._entries)
        # Away with cached pages: another file written over this one can have the same counter
        # of changes, by which SQLite would take them for valid.
        self._db.execute("PRAGMA shrink_memory")
        query = "SELECT number, entry, hash FROM entries WHERE number >= ? ORDER BY number"
        rows = self._db.execute(query, (seen,)).fetchall()
        if seen:
            if not rows or rows[0] != (seen, _text(self._entries[-1]), self._entries[-1].hash):
                broken(self.path, f"line {seen}, read a moment ago, is gone or changed")
            del rows[0]
        for row in rows:
            self._take(_verified(row, self._seen(len(self._entries)), self.path))

    def _take(self, entry: Entry) -> None:
        self._entries.append(entry)

    def _seen(self, length: int) -> Head:
        return Head(length, self._entries[length - 1].hash if length else self._start)


def segments_of(lines: Iterable[Line]) -> list[Segment]:
    """Return what noisy steps spent, those of equal terms together; unprotected fits have none."""
    steps: dict[tuple[float, float, Noise], int] = {}
    for line in lines:
        if line.kind in NOISES:
            terms = line.sampling_rate, line.noise_multiplier, NOISES[line.kind]
            steps[terms] = steps.get(terms, 0) + line.steps
    return [Segment(rate, scale, number, noise) for (rate, scale, noise), number in steps.items()]


def site_ledger(site: Site, *, durable: bool = True, writable: bool = True) -> Ledger:
    """Open the ledger in a site's state folder.

    Raises:
        UserError: as ``Ledger``, or if there is a ledger but no patient key.
    """
    path = site.state / LEDGER
    key = site.state / "patient.key"
    with reachable(path):
        # Before patient_key(), which would draw a new key in the place of one that was lost.
        if not is_missing(path, writable) and not key.exists():
            raise UserError(
                key,
                "the site's patient key is missing, under which its ledger was begun",
                remedy="Restore it from a backup of the state folder.",
            )
    commitment = commitment_to(site.patient_key())
    return Ledger(path, site.name, commitment, durable=durable, writable=writable)


def commitment_to(key: bytes) -> str:
    """Return what a ledger's header holds of the patient key, which it does not reveal."""
    return hmac.new(key, b"wardround ledger", hashlib.sha256).hexdigest()


def _text(entry: Entry) -> str:
    """Return the canonical JSON under which an entry is stored and hashed."""
    return _canonical({**vars(entry.line), "number": entry.number, "written": entry.written})


def _next_entry(last: Head, line: Line) -> Entry:
    written = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = Entry(last.length + 1, written, line, last.hash, "")
    return dataclasses.replace(entry, hash=_sha256(last.hash + _text(entry)))


def _verified(row: tuple[Any, Any, Any], last: Head, path: Path) -> Entry:
    """Return the entry of a row that has to follow ``last``."""
    number, text, stored = row
    expected = last.length + 1
    if number != expected:
        broken(path, f"line {expected} is missing; line {number} stands in its place")
    if not isinstance(text, str) or stored != _sha256(last.hash + text):
        broken(path, f"the chain is broken at line {number}")
    try:
        fields = json.loads(text)
        written, _ = fields.pop("written"), fields.pop("number")
        entry = Entry(number, written, Line(**fields), last.hash, stored)
    except (ValueError, TypeError, KeyError, AttributeError):
        broken(path, f"line {number} is not a line of a ledger")
    if _text(entry) != text:  # its number too
        broken(path, f"line {number} is not in its canonical form")
    return entry


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_header(db: sqlite3.Connection, path: Path) -> tuple[str, str, str]:
    """Check format, structure and header; return site, commitment and the header's hash."""
    rows = db.execute("SELECT format, site, commitment, hash FROM header").fetchall()
    if len(rows) == 1 and isinstance(rows[0][0], int) and rows[0][0] > FORMAT:
        raise UserError(
            path,
            f"written by a later version of Wardround (format {rows[0][0]}, not {FORMAT})",
            remedy="Install that version.",
        )
    if dict(db.execute("SELECT name, sql FROM sqlite_master").fetchall()) != SCHEMA:
        broken(path, "its tables or the triggers that keep it append-only were changed")
    if db.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
        broken(path, "the file is damaged")
    if len(rows) != 1 or rows[0][3] != _header_hash(*rows[0][:3]):
        broken(path, "its header was changed")
    _, site, commitment, start = rows[0]
    return site, commitment, start


def _header_hash(version: Any, site: Any, commitment: Any) -> str:
    return _sha256(_canonical({"format": version, "site": site, "commitment": commitment}))
