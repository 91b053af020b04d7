"""From the patient names of an export to int64 subject ids that are the site's own."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

HASHED = 1 << 62
"""Ids from here on are hashes, and so never meet a whole number that an export holds."""

WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class SubjectIds:
    """Whole numbers stay what they are; any other name becomes a keyed hash.

    Args:
        key: returns the site's patient key; called only when there is a name to hash.

    >>> ids = SubjectIds(lambda: b"k" * 32)
    >>> ids.of_text("10006580"), ids.of_text("002-1039") >= HASHED
    (10006580, True)
    """

    def __init__(self, key: Callable[[], bytes]):
        self._key = key
        self._known: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def of_text(self, name: str) -> int:
        """Return the subject id of a patient's name in the export."""
        if WHOLE_NUMBER.fullmatch(name):
            return int(name)
        if name not in self._known:
            digest = hmac.digest(self._key(), b"subject/" + name.encode(), hashlib.sha256)
            hashed = HASHED | (int.from_bytes(digest[:8], "big") >> 2)
            self._known[name] = hashed
            self._names[hashed] = name
        return self._known[name]

    def of(self, names: pa.Array) -> pa.Array:
        """Return int64 subject ids of a column of names (whole numbers or text, no nulls)."""
        if pa.types.is_integer(names.type):
            return names.cast(pa.int64())
        coded = names.cast(pa.string()).dictionary_encode()
        ids = np.array([self.of_text(name) for name in coded.dictionary.to_pylist()], np.int64)
        return pa.array(ids[coded.indices.to_numpy()] if len(ids) else ids)

    def name_of(self, subject: int) -> str:
        """Return what the export calls a patient."""
        return self._names.get(subject, str(subject))


def in_sorted(ids: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each id in a sorted array, -1 where it is not in it."""
    if not len(among):
        return np.full(len(ids), -1)
    place = np.minimum(np.searchsorted(among, ids), len(among) - 1)
    return np.where(among[place] == ids, place, -1)
