"""What the coordinator remembers of the sites' privacy ledgers.

A ledger that was restored from a backup, or copied, has forgotten what was spent since. The site
cannot tell; the coordinator, who was told its length and the hash of its last line, can.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.bodies import LedgerHead
from federation.errors import UserError

WITNESS = "witness.json"
"""The file's name; it stands beside the run folders, or the sites of a simulation."""
WENT_BACK = "its privacy ledger does not go on from the one it told of before"


class Witness:
    """The last head of every site's ledger, kept in a file over all runs.

    Args:
        file: made when the first head is noted.

    Raises:
        UserError: if the file is damaged.
    """

    def __init__(self, file: Path):
        self._file = file
        self._heads = self._read()

    def of(self, site: str) -> LedgerHead | None:
        """Return the last head of a site; None if it never told one."""
        return self._heads.get(site)

    def note(self, site: str, head: LedgerHead) -> str:
        """Remember a site's head, on disk.

        Returns:
            Why the site cannot be believed; empty if it can.
        """
        with self._alone():
            self._heads = self._read()  # other runs note heads too
            known = self._heads.get(site)
            if known is not None and head.length <= known.length and head != known:
                return WENT_BACK
            if head != known:
                self._heads[site] = head
                self._write()
        return ""

    def _read(self) -> dict[str, LedgerHead]:
        try:
            text = self._file.read_text(encoding="utf-8") if self._file.exists() else "{}"
            known = json.loads(text).items()
            return {site: LedgerHead.model_validate(head) for site, head in known}
        except (OSError, ValueError, AttributeError):
            raise UserError(
                self._file,
                "what the coordinator knew of the sites' privacy ledgers is damaged",
                remedy="Restore it from a backup. Without it, a site's restored ledger goes "
                "unnoticed.",
            ) from None

    def _write(self) -> None:
        heads = {site: head.model_dump() for site, head in sorted(self._heads.items())}
        draft = self._file.with_name(f".{self._file.name}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(heads, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold back other runs of this coordinator."""
        with self._file.with_name(f".{self._file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
