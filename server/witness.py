"""What the coordinator remembers of the sites' privacy ledgers.

A ledger that was restored from a backup, or copied, has forgotten what was spent since. The site
cannot tell; the coordinator, who was told its length and the hash of its last line, can.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from federation.errors import UserError
from federation.messages import LedgerHead

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
        try:
            known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            self._heads = {site: LedgerHead.model_validate(head) for site, head in known.items()}
        except (OSError, ValueError, AttributeError):
            raise UserError(
                file,
                "what the coordinator knew of the sites' privacy ledgers is damaged",
                remedy="Restore it from a backup. Without it, a site's restored ledger goes "
                "unnoticed.",
            ) from None

    def of(self, site: str) -> LedgerHead | None:
        """Return the last head of a site; None if it never told one."""
        return self._heads.get(site)

    def note(self, site: str, head: LedgerHead) -> str:
        """Remember a site's head, on disk.

        Returns:
            Why the site cannot be believed; empty if it can.
        """
        known = self._heads.get(site)
        if known is not None and (
            head.length < known.length or (head.length == known.length and head != known)
        ):
            return WENT_BACK
        if head != known:
            self._heads[site] = head
            self._write()
        return ""

    def _write(self) -> None:
        heads = {site: head.model_dump() for site, head in sorted(self._heads.items())}
        draft = self._file.with_name(f".{self._file.name}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(heads, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file)
