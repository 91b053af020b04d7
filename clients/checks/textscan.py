"""Identifiers in text values, counted while the events stream by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clients.checks.patterns import found_in

IMAGE, NOTE = "IMAGE//", "NOTE//"
DIGITS = re.compile(r"[0-9]{5,}")
"""Shorter numbers are too often something else than a patient's."""


@dataclass(frozen=True)
class TextCounts:
    """Identifiers in texts.

    Attributes:
        found: events in whose text a kind of identifier stands, by kind and code.
        files: image events whose file's name holds their own subject's identifier.
    """

    found: Mapping[tuple[str, str], int]
    files: int


class TextScanner:
    """Counts identifiers batch by batch."""

    def __init__(self) -> None:
        self._found = Counter[tuple[str, int]]()
        self._files = 0

    def add(
        self,
        column: pa.Array,
        code: NDArray[np.int64],
        subject: NDArray[np.int64],
        names: Sequence[str],
        subjects: Sequence[int],
    ) -> None:
        """Look through the texts of a batch.

        Args:
            column: (events,) strings, null where there is none.
            code: (events,) places among ``names``.
            subject: (events,) places among ``subjects``.
            names: codes.
            subjects: identifiers.
        """
        given = column.is_valid().to_numpy(zero_copy_only=False)
        if not given.any():
            return
        texts, code, subject = column.drop_null(), code[given], subject[given]
        for kind, where in found_in(texts).items():
            places, counts = np.unique(code[where], return_counts=True)
            for place, count in zip(places.tolist(), counts.tolist(), strict=True):
                self._found[kind, place] += count
        is_file = np.array([name.startswith(IMAGE) for name in names])[code]
        files = texts.filter(pa.array(is_file)).to_pylist()
        for text, place in zip(files, subject[is_file].tolist(), strict=True):
            self._files += subjects[place] in map(int, DIGITS.findall(text))

    def counts(self, names: Sequence[str]) -> TextCounts:
        """Return what was found; ``names`` as given with the batches."""
        found = {(kind, names[place]): n for (kind, place), n in sorted(self._found.items())}
        return TextCounts(found, self._files)
