"""The audit log: what came into a site, what left it, and what a person allowed, line by line.

``state/audit.jsonl`` is append-only. Each line is one JSON object in canonical form (keys sorted,
no spaces, ASCII) that holds the SHA-256 of the line before it, so that anyone can check the chain
without this program::

    import hashlib, json

    last = ""
    for number, line in enumerate(open("audit.jsonl", "rb").read().splitlines(), start=1):
        entry = json.loads(line)
        assert (entry["number"], entry["previous"]) == (number, last)
        last = hashlib.sha256(line).hexdigest()

Beside ``number``, ``written`` (UTC) and ``event``, an entry holds names, numbers and digests from
closed lists and no datum of a patient. What the chain cannot show: lines cut from its end, or a
chain written anew; whoever noted the last hash elsewhere, a log server for one, can tell.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from federation.errors import UserError

AUDIT_LOG = "audit.jsonl"

Event = Literal[
    "begun", "cut short", "started", "stopped", "approved", "withdrawn", "received", "refused",
    "sent",
]  # fmt: skip

REMEDY = (
    "Keep this file, and find out who changed it. To begin a new one move it away; "
    "studies then have to be approved again."
)


@dataclass(frozen=True)
class Entry:
    """A line of the log.

    Attributes:
        number: from 1.
        written: when, in UTC.
        event: what happened.
        told: the other fields.
    """

    number: int
    written: datetime
    event: str
    told: Mapping[str, Any]


class AuditLog:
    """A site's audit log; processes may append at the same time.

    Args:
        path: the file, made on the first line.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, event: Event, **told: str | int | None) -> str:
        """Write a line; it is on the disk when this returns.

        Returns:
            The line's hash, which the next line will hold.

        Raises:
            UserError: if it cannot be written, or the log's last line is not one.
        """
        try:
            with self._locked() as file:
                return self._append(file, event, told)
        except OSError as error:
            raise UserError(
                self.path,
                f"cannot be written: {error.strerror}",
                remedy="Without its audit log the site answers nothing. Make room, or give the "
                "user who runs this the right to write there.",
            ) from None

    def entries(self) -> list[Entry]:
        """Return all entries, after checking that each follows from the one before it.

        Raises:
            UserError: naming the first line that does not.
        """
        return self._verified()[0]

    def verify(self) -> tuple[int, str]:
        """Check the chain and return its length and last hash; 0 and "" if there is no log yet.

        Raises:
            UserError: as ``entries``.
        """
        entries, last = self._verified()
        return len(entries), last

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _append(self, file: int, event: Event, told: Mapping[str, Any]) -> str:
        text = _read_all(file)
        end = text.rfind(b"\n") + 1
        number, last = self._end_of(text[:end])
        lines: list[bytes] = []
        if end < len(text):  # a line that a crash cut short; nothing left after it was said
            os.ftruncate(file, end)
            lines.append(_line(number + 1, last, "cut short", {"bytes": len(text) - end}))
        elif not text:
            lines.append(_line(1, "", "begun", {}))
        for line in lines:
            number, last = number + 1, hashlib.sha256(line).hexdigest()
        lines.append(_line(number + 1, last, event, told))
        written = b"".join(line + b"\n" for line in lines)
        try:
            done = os.pwrite(file, written, end)
            if done < len(written):
                raise OSError(28, "No space left on device")
            os.fsync(file)
        except OSError:
            os.ftruncate(file, end)
            raise
        return hashlib.sha256(lines[-1]).hexdigest()

    def _end_of(self, text: bytes) -> tuple[int, str]:
        if not text:
            return 0, ""
        line = text[:-1].rpartition(b"\n")[2]
        try:
            return int(json.loads(line)["number"]), hashlib.sha256(line).hexdigest()
        except (ValueError, TypeError, KeyError):
            raise UserError(
                self.path, "its last line is not one of an audit log", remedy=REMEDY
            ) from None

    def _verified(self) -> tuple[list[Entry], str]:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return [], ""
        except OSError as error:
            raise UserError(self.path, f"cannot be read: {error.strerror}") from None
        *lines, rest = text.split(b"\n")
        entries: list[Entry] = []
        last = ""
        for expected, line in enumerate(lines, start=1):
            entries.append(self._entry(line, expected, last))
            last = hashlib.sha256(line).hexdigest()
        if rest:
            raise UserError(
                self.path,
                f"line {len(lines) + 1} was cut short by a crash",
                remedy="The next line that the site writes notes it and takes its place.",
            )
        return entries, last

    def _entry(self, line: bytes, expected: int, last: str) -> Entry:
        try:
            told = json.loads(line)
            canonical = _canonical(told) == line
            number, previous = told.pop("number"), told.pop("previous")
            event, written = told.pop("event"), datetime.fromisoformat(told.pop("written"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                self.path, f"line {expected} is not one of an audit log", remedy=REMEDY
            ) from None
        if number != expected or previous != last or not canonical:
            raise UserError(
                self.path, f"the chain is broken at line {expected}", remedy=REMEDY
            ) from None
        return Entry(number, written, event, told)


def _line(number: int, previous: str, event: Event, told: Mapping[str, Any]) -> bytes:
    written = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {name: value for name, value in told.items() if value is not None}
    head = {"number": number, "previous": previous, "event": event, "written": written}
    return _canonical(fields | head)


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _read_all(file: int) -> bytes:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0)
