"""Which patient a stay belongs to and when it began, for tables that name the stay alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.sources.columns import Layout, Rows, no_nulls, read_rows
from clients.sources.parsing import read_times, read_words
from clients.sources.schema import files_below
from clients.sources.settings import NO_VALUE, StaysSection
from clients.sources.subjects import SubjectIds
from federation.errors import UserError

UNKNOWN_START = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Stays:
    """All stays of a site, in memory: they are few beside their measurements.

    Attributes:
        keys: names of the stays.
        subjects: (stays,) int64.
        starts: (stays,) int64 microseconds since 1970; ``UNKNOWN_START`` where there is none.
        started: whether the site file names a start.
    """

    keys: pa.Array
    subjects: NDArray[np.int64]
    starts: NDArray[np.int64]
    started: bool

    def places(self, names: pa.Array) -> NDArray[np.int64]:
        """Return each named stay's place, -1 for one that is not there."""
        return np.asarray(pc.index_in(names, value_set=self.keys).fill_null(-1), np.int64)


def read_stays(section: StaysSection, folder: Path, subjects: SubjectIds) -> Stays:
    """Read the table of stays.

    Raises:
        UserError: if it cannot be read, or holds a stay twice or without a patient.
    """
    wanted = [section.key, section.subject, *([section.start] if section.start else [])]
    keys: list[pa.Array] = []
    owners: list[NDArray[np.int64]] = []
    starts: list[NDArray[np.int64]] = []
    (file, *_) = files_below(folder, [section.file], f'file "{section.file}"')
    for rows in read_rows(file, wanted, Layout(section.delimiter, section.encoding)):
        key = read_words(rows.columns[section.key], ("",))
        owner = read_words(rows.columns[section.subject], ("",))
        both = Rows(rows.file, rows.first, {section.key: key, section.subject: owner})
        no_nulls(both, section.key, "stay")
        no_nulls(both, section.subject, "patient")
        keys.append(key)
        owners.append(subjects.of(owner).to_numpy())
        starts.append(_starts(rows, section))
    if not keys:
        raise UserError(file, "holds no stay")
    together = pa.chunked_array(keys).combine_chunks()
    if len(pc.unique(together)) != len(together):
        raise UserError(
            file, "a stay is there more than once", field=section.key, remedy="Give one row a stay."
        )
    return Stays(
        together, np.concatenate(owners), np.concatenate(starts), section.start is not None
    )


def _starts(rows: Rows, section: StaysSection) -> NDArray[np.int64]:
    if section.start is None:
        return np.full(len(rows), UNKNOWN_START)
    times = read_times(rows.columns[section.start], NO_VALUE, section.time_format)
    if times.bad.any():
        place = int(np.flatnonzero(times.bad)[0])
        raise rows.error(section.start, place, "expected a time without a zone")
    return np.where(times.known, times.micros, UNKNOWN_START)
