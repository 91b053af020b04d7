"""Replies that a site has given, so that a message that comes again gets the same one.

To compute a private round a second time would show its patients twice: it is a new spend. A
message that a network delivers twice must not cost one.
"""

from __future__ import annotations

import os
import secrets
import zipfile
import zlib
from pathlib import Path

import numpy as np

from federation.bodies import TrainBody
from federation.messages import Reply

MOST_KEPT = 16
"""Models of runs whose last reply is kept; older ones are removed."""


class StoredReplies:
    """The last reply of each model of each run, one file each.

    Args:
        folder: made on the first reply.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def find(self, run: str, model: str, request: str) -> Reply | None:
        """Return the reply that was given to a request; None if it is not the model's last."""
        file = self._file(run, model)
        if not file.exists():
            return None
        try:
            with np.load(file, allow_pickle=False) as stored:
                if str(stored["request"]) != request:
                    return None
                body = TrainBody.model_validate_json(str(stored["body"]))
                return Reply("ok", body, update=stored["update"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None  # cut short by a crash: the round is computed, and paid for, again

    def keep(self, run: str, model: str, request: str, reply: Reply) -> None:
        """Keep a reply to training in place of the model's last one; on disk when it returns."""
        assert isinstance(reply.body, TrainBody) and reply.update is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{secrets.token_hex(8)}"
        with draft.open("wb") as file:
            np.savez(
                file,
                request=np.array(request),
                body=np.array(reply.body.model_dump_json()),
                update=reply.update,
            )
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._file(run, model))
        newest = sorted(self._folder.glob("*.npz"), key=lambda kept: -kept.stat().st_mtime)
        for old in newest[MOST_KEPT:]:
            old.unlink(missing_ok=True)

    def _file(self, run: str, model: str) -> Path:
        return self._folder / f"{run}.{model.replace(':', '.')}.npz"
