"""What a site keeps for itself of one model, from round to round; it never leaves.

A file for each round in which something was kept, so that a round that is repeated, by a message
that is sent again or a run that is resumed, begins with what there was before it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from federation.errors import UserError
from federation.models.build import Vector

logger = logging.getLogger("wardround.site")

SUFFIX, FIRST = ".safetensors", "first"


@dataclass(frozen=True)
class Memory:
    """One site's memory of one model of one run.

    Attributes:
        folder: made when something is kept.
    """

    folder: Path

    def before(self, round_: int) -> dict[str, Vector]:
        """Return what was kept in the last round before this one; nothing if there was none.

        Raises:
            UserError: if the file is damaged, or was forgotten since.
        """
        rounds = sorted(self._rounds())
        earlier = [found for found in rounds if found < round_]
        if earlier:
            return self._read(earlier[-1])[0]
        if rounds and self._read(rounds[0])[1] < round_:
            raise UserError(
                self.folder,
                f"round {round_} is to be repeated, and what was kept before it is gone",
                remedy="Start the run anew.",
            )
        return {}

    def last(self) -> dict[str, Vector]:
        """Return what was kept last; nothing if nothing was.

        Raises:
            UserError: if the file is damaged.
        """
        rounds = self._rounds()
        return self._read(max(rounds))[0] if rounds else {}

    def keep(self, round_: int, arrays: Mapping[str, Vector], after: int | None = None) -> None:
        """Keep arrays of a round, and those from which it can be repeated; forget the others.

        Args:
            round_: from 1.
            arrays: finite, or nothing is kept.
            after: the round from which this one went on, or a later one; None for the last.

        What a later round left belongs to a run that was resumed before it. Arrays that are not
        finite come of training that diverged: what was there before stays.
        """
        if not all(np.isfinite(array).all() for array in arrays.values()):
            logger.warning(
                "%s: training diverged in round %s, so what the site keeps of its own model stays "
                "as it was before",
                self.folder,
                round_,
            )
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        rounds = sorted(self._rounds())
        first = min(self._read(rounds[0])[1], round_) if rounds else round_
        draft = self.folder / f".{round_:06d}{SUFFIX}"
        save_file(dict(arrays), draft, metadata={FIRST: str(first)})
        draft.chmod(0o600)
        os.replace(draft, self._file(round_))
        last = round_ - 1 if after is None else after
        base = max((found for found in rounds if found <= last), default=0)
        for other in {*rounds} - {base, round_}:
            self._file(other).unlink(missing_ok=True)

    def _read(self, round_: int) -> tuple[dict[str, Vector], int]:
        """Return what was kept in a round, and the first round in which anything was."""
        file = self._file(round_)
        try:
            with safe_open(file, "numpy") as opened:
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                return arrays, int(opened.metadata()[FIRST])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            raise UserError(
                file,
                "what the site kept of its own model is damaged",
                remedy="Remove its folder; the site's own model then begins anew.",
            ) from None

    def _rounds(self) -> list[int]:
        return [int(file.stem) for file in self.folder.glob(f"[0-9]*{SUFFIX}")]

    def _file(self, round_: int) -> Path:
        return self.folder / f"{round_:06d}{SUFFIX}"
