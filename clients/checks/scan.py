"""One pass over all of a site's events, in batches: what can be counted without a label."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clients.checks.histogram import BINS, bin_of
from clients.checks.textscan import TextCounts, TextScanner
from clients.checks.tools import Growing, Numbered, mixed, unique_sorted

DAY = 86_400_000_000
"""In microseconds, as times are counted here."""
BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
MOST_PAIRS = 1 << 22
"""Pairs of code and subject that are held before equal ones are joined."""


@dataclass(frozen=True)
class Scan:
    """What a site's events are, whoever has a label.

    Attributes:
        events: how many.
        subjects: (subjects,) int64, their identifiers as read.
        codes: (codes,) in the order in which they were met.
        counts: (codes,) events.
        patients: (codes,) subjects with such an event.
        holder: (codes,) place of one of them among ``subjects``.
        valued: (codes,) events with a finite value.
        histograms: of a code's values, over ``histogram.BINS``; absent where it has none.
        months: events by month since 1970-01.
        span: first and last time, None if no event has one; births do not count.
        untimed: events without a time.
        future: events later than now.
        before_birth: subjects with an event over a day before their birth.
        after_death: subjects with one over a day after their death.
        born: subjects with a birth.
        repeated: events without a text that equal another one of the same batch.
        alike: groups of subjects whose timed events are the same, at least three each.
        texts: identifiers in text values and names of files.
    """

    events: int
    subjects: NDArray[np.int64]
    codes: tuple[str, ...]
    counts: NDArray[np.int64]
    patients: NDArray[np.int64]
    holder: NDArray[np.int64]
    valued: NDArray[np.int64]
    histograms: Mapping[int, NDArray[np.int64]]
    months: Mapping[int, int]
    span: tuple[datetime, datetime] | None
    untimed: int
    future: int
    before_birth: int
    after_death: int
    born: int
    repeated: int
    alike: tuple[int, ...]
    texts: TextCounts


def scan_events(batches: Iterable[pa.RecordBatch]) -> Scan:
    """Count a site's events.

    Memory grows with the subjects, the codes and their pairs, not with the events.

    Args:
        batches: of ``subject_id, time, code, numeric_value, text_value``.
    """
    scanner = _Scanner()
    for batch in batches:
        scanner.add(batch)
    return scanner.scan()


class _Scanner:
    def __init__(self) -> None:
        self._subjects, self._codes = Numbered[int](), Numbered[str]()
        self._events = self._untimed = self._future = self._repeated = 0
        self._now = int(datetime.now(UTC).timestamp() * 1e6) + DAY  # a day: local times
        self._counts, self._valued = Growing(0), Growing(0)
        self._first, self._last = Growing(np.iinfo(np.int64).max), Growing(np.iinfo(np.int64).min)
        self._birth, self._death = Growing(np.iinfo(np.int64).min), Growing(np.iinfo(np.int64).max)
        self._signature, self._timed = Growing(0), Growing(0)
        self._code_hash: list[int] = []
        self._histograms: dict[int, NDArray[np.int64]] = {}
        self._months = Counter[int]()
        self._pairs: list[NDArray[np.int64]] = []
        self._texts = TextScanner()

    def add(self, batch: pa.RecordBatch) -> None:
        self._events += len(batch)
        subject = self._subjects.places(*np.unique(batch["subject_id"], return_inverse=True))
        coded = batch["code"].dictionary_encode()
        code = self._codes.places(coded.dictionary.to_pylist(), coded.indices.to_numpy())
        for known in self._codes.names[len(self._code_hash) :]:
            self._code_hash.append(mixed(np.frombuffer(_digest(known), np.int64))[0])
        values = batch["numeric_value"].to_numpy(zero_copy_only=False).astype(np.float64)
        self._counts.add(code)
        self._add_pairs(code, subject)
        self._add_values(code, values)
        self._add_times(batch, code, subject, values)
        names, subjects = self._codes.names, self._subjects.names
        self._texts.add(batch["text_value"], code, subject, names, subjects)

    def _add_pairs(self, code: NDArray[np.int64], subject: NDArray[np.int64]) -> None:
        self._pairs.append(unique_sorted(code << 32 | subject))
        if sum(map(len, self._pairs[1:])) > MOST_PAIRS:
            self._pairs = [unique_sorted(np.concatenate(self._pairs))]

    def _add_values(self, code: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        finite = np.isfinite(values)
        if not finite.any():
            return
        self._valued.add(code[finite])
        key, count = np.unique(code[finite] * BINS + bin_of(values[finite]), return_counts=True)
        starts = np.flatnonzero(np.diff(key // BINS, prepend=-1))
        for where in np.split(np.arange(len(key)), starts[1:]):
            counts = self._histograms.setdefault(
                int(key[where[0]] // BINS), np.zeros(BINS, np.int64)
            )
            counts[key[where] % BINS] += count[where]

    def _add_times(
        self,
        batch: pa.RecordBatch,
        code: NDArray[np.int64],
        subject: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> None:
        column = batch["time"]
        timed = column.is_valid().to_numpy(zero_copy_only=False)
        self._untimed += int((~timed).sum())
        time = column.cast(pa.int64()).drop_null().to_numpy()
        code, subject, values = code[timed], subject[timed], values[timed]
        birth, death = (code == self._codes.place_of(name) for name in (BIRTH, DEATH))
        self._birth.maximum(subject[birth], time[birth])
        self._death.minimum(subject[death], time[death])
        lived = ~birth
        self._first.minimum(subject[lived], time[lived])
        self._last.maximum(subject[lived], time[lived])
        self._future += int((time > self._now).sum())
        months = time[lived].astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
        found, counts = np.unique(months, return_counts=True)
        self._months.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        hashed = mixed(np.array(self._code_hash, np.int64)[code] ^ mixed(time))
        hashed = mixed(hashed ^ values.view(np.int64))
        self._signature.add(subject, hashed)
        self._timed.add(subject)
        bare = batch["text_value"].is_null().to_numpy(zero_copy_only=False)[timed]
        rows = mixed(hashed ^ subject)[bare]
        self._repeated += len(rows) - len(unique_sorted(rows))

    def scan(self) -> Scan:
        codes, subjects = len(self._codes), len(self._subjects)
        pairs = unique_sorted(np.concatenate([*self._pairs, np.zeros(0, np.int64)]))
        first, last = self._first.of(subjects), self._last.of(subjects)
        birth, death = self._birth.of(subjects), self._death.of(subjects)
        timed = self._timed.of(subjects)
        born = birth > np.iinfo(np.int64).min
        dead = death < np.iinfo(np.int64).max
        lived = first <= last
        span = None
        if lived.any():
            span = (_datetime(first[lived].min()), _datetime(last[lived].max()))
        _, alike = np.unique(self._signature.of(subjects)[timed >= 3], return_counts=True)
        return Scan(
            events=self._events,
            subjects=np.array(self._subjects.names, np.int64),
            codes=tuple(self._codes.names),
            counts=self._counts.of(codes),
            patients=np.bincount(pairs >> 32, minlength=codes),
            holder=pairs[np.searchsorted(pairs, np.arange(codes) << 32)] & 0xFFFFFFFF,
            valued=self._valued.of(codes),
            histograms=self._histograms,
            months=dict(sorted(self._months.items())),
            span=span,
            untimed=self._untimed,
            future=self._future,
            before_birth=int((born & lived & (first < birth - DAY)).sum()),
            after_death=int((dead & lived & (last > np.minimum(death, 2**62) + DAY)).sum()),
            born=int(born.sum()),
            repeated=self._repeated,
            alike=tuple(int(n) for n in alike[alike > 1]),
            texts=self._texts.counts(self._codes.names),
        )


def _digest(code: str) -> bytes:
    return hashlib.blake2b(code.encode(), digest_size=8).digest()


def _datetime(microseconds: np.int64) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=int(microseconds))
