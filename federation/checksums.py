"""SHA-256 of files and folders of weights, by which studies name them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from federation.errors import UserError


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of its files' names and checksums.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.is_file())
            told = "".join(f"{f.relative_to(path).as_posix()} {checksum(f)}\n" for f in files)
            return hashlib.sha256(told.encode()).hexdigest()
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror}") from None
