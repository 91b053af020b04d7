"""Identifiers in text values, counted while the events stream by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.checks.patterns import found_in
from clients.checks.tools import Growing

IMAGE, NOTE = "IMAGE//", "NOTE//"
DIGITS = re.compile(r"[0-9]{5,}")
"""Shorter numbers are too often something else than a patient's."""


@dataclass(frozen=True)
class TextCounts:
    """Texts and the identifiers in them.

    Attributes:
        texts: events with a text, by code.
        found: events in whose text a kind of identifier stands, by kind and code.
        patients: subjects with such an event, by kind.
        files: image events whose file's name holds their own subject's identifier.
        words: characters of notes, in all.
    """

    texts: Mapping[str, int]
    found: Mapping[tuple[str, str], int]
    patients: Mapping[str, int]
    files: int
    words: int


class TextScanner:
    """Counts texts batch by batch."""

    def __init__(self) -> None:
        self._texts = Growing(0)
        self._found = Counter[tuple[str, int]]()
        self._holders: dict[str, Growing] = {}
        self._files = 0
        self._words = 0

    def add(
        self,
        column: pa.Array,
        code: NDArray[np.int64],
        subject: NDArray[np.int64],
        names: Sequence[str],
        subjects: Sequence[int],
    ) -> None:
        """Count the texts of a batch.

        Args:
            column: (events,) strings, null where there is none.
            code: (events,) places among ``names``.
            subject: (events,) places of subjects.
            names: codes.
            subjects: their identifiers.
        """
        given = column.is_valid().to_numpy(zero_copy_only=False)
        if not given.any():
            return
        texts, code, subject = column.drop_null(), code[given], subject[given]
        self._texts.add(code)
        for kind, where in found_in(texts).items():
            if where.any():
                self._holders.setdefault(kind, Growing(0)).maximum(
                    subject[where], np.ones(int(where.sum()), np.int64)
                )
                places, counts = np.unique(code[where], return_counts=True)
                for place, count in zip(places.tolist(), counts.tolist(), strict=True):
                    self._found[kind, place] += count
        is_file = np.array([name.startswith(IMAGE) for name in names])[code]
        files = texts.filter(pa.array(is_file)).to_pylist()
        for text, place in zip(files, subject[is_file].tolist(), strict=True):
            self._files += subjects[place] in map(int, DIGITS.findall(text))
        is_note = np.array([name.startswith(NOTE) for name in names])[code]
        self._words += pc.sum(pc.utf8_length(texts.filter(pa.array(is_note)))).as_py() or 0

    def counts(self, names: Sequence[str], subjects: int) -> TextCounts:
        """Return what was counted."""
        texts = self._texts.of(len(names))
        return TextCounts(
            texts={name: int(n) for name, n in zip(names, texts, strict=True) if n},
            found={(kind, names[place]): n for (kind, place), n in sorted(self._found.items())},
            patients={
                kind: int(holders.of(subjects).sum())
                for kind, holders in sorted(self._holders.items())
            },
            files=self._files,
            words=self._words,
        )
