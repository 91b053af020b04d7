"""Newline-delimited JSON resources, plain or gzip, one at a time."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from federation.errors import UserError

LONGEST_LINE = 32 << 20
"""Bytes; a longer one is no resource, and may be a bomb of a compressed file."""


def resources(file: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the resources of a file, all of one type.

    Raises:
        UserError: naming the line of what is not a resource of this type, or is no JSON.
    """
    for number, resource in _objects(file):
        found = resource.get("resourceType")
        if found != kind:
            what = found if isinstance(found, str) and found.isalpha() else "no resource type"
            raise UserError(
                file,
                f"expected a resource of the file's type, {kind}, found {what[:40]}",
                field=f"line {number}",
                remedy="A bulk export has a file, or several, for each resource type.",
            )
        yield resource


def resource_type(file: Path) -> str | None:
    """Return the type of a file's first resource; None for an empty file.

    Raises:
        UserError: if it is no resource.
    """
    for number, resource in _objects(file):
        kind = resource.get("resourceType")
        if not isinstance(kind, str) or not kind.isalpha():
            raise UserError(file, "has no resourceType", field=f"line {number}")
        return kind
    return None


def _objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with _opened(file) as stream:
            while line := stream.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise UserError(file, "a line of over 32 MB", field=f"line {number}")
                if line.strip():
                    yield number, _object(file, number, line)
    except (OSError, EOFError, zlib.error):
        raise UserError(
            file, "cannot be read to its end (truncated or damaged)", field=f"after line {number}"
        ) from None


def _opened(file: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def _object(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if b"\\ud" in line or b"\\uD" in line:
            json.dumps(found, ensure_ascii=False).encode()  # half of a pair is no text
    except (ValueError, RecursionError):  # not JSON, not UTF-8, nested without end
        found = None
    if not isinstance(found, dict):
        raise UserError(
            file,
            "is not a JSON object",
            field=f"line {number}",
            remedy="Expected one resource a line; the export may have been cut off.",
        )
    return found
