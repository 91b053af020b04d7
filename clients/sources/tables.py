"""CSV and parquet tables, wide or long, by the mapping in the site file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.sources.columns import Layout, Rows, no_nulls, read_rows
from clients.sources.parsing import Numbers, micros_of, read_numbers, read_times, read_words
from clients.sources.schema import (
    ABOVE_LIMIT,
    BELOW_LIMIT,
    BIRTH,
    Told,
    event_batch,
    files_below,
)
from clients.sources.settings import NO_VALUE, TableSection, TablesEvents, WideColumn
from clients.sources.stays import UNKNOWN_START, Stays, read_stays
from clients.sources.subjects import SubjectIds

ROW = "#row"
MICROS = {"seconds": 1e6, "minutes": 60e6, "hours": 3600e6, "days": 86400e6}
YEAR = 365.25 * 86400e6
LARGEST_MICROS = 2**62


def batches(
    settings: TablesEvents, folder: Path, subjects: SubjectIds, told: Told
) -> Iterator[pa.RecordBatch]:
    """Stream the events of all tables, table by table in the order of the site file.

    Raises:
        UserError: naming the file, and column and row where there is one.
    """
    stays = None if settings.stays is None else read_stays(settings.stays, folder, subjects)
    for table in settings.tables:
        for file in files_below(folder, [table.file], f'file "{table.file}"'):
            reader = _Table(table, settings, stays, subjects, told, {})
            for rows in read_rows(file, _wanted(table), _layout(table)):
                yield from reader.events(rows)


def _wanted(table: TableSection) -> list[str]:
    own = [table.subject if table.subject != ROW else None, table.stay, table.time, table.offset]
    long = [*table.in_code, table.value, table.text, table.unit]
    wide = [x for name, c in table.columns.items() for x in (name, c.time, c.offset)]
    return list(dict.fromkeys(name for name in (*own, *long, *wide) if name is not None))


def _layout(table: TableSection) -> Layout:
    return Layout(table.delimiter, table.encoding, table.names)


@dataclass(frozen=True)
class _Table:
    """One file being read."""

    table: TableSection
    settings: TablesEvents
    stays: Stays | None
    subjects: SubjectIds
    told: Told
    units: dict[str, str]
    """The first unit of each code of this file."""

    def events(self, rows: Rows) -> Iterator[pa.RecordBatch]:
        owner, start = self._owners(rows)
        at = self._times(rows, self.table.time, self.table.offset, start, owner)
        if self.table.code is not None:
            yield from self._long(rows, owner, at)
        for name, column in self.table.columns.items():
            yield from self._wide(rows, name, column, owner, at, start)

    def _owners(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each row's subject (0 and counted where it is unknown), and its stay's start."""
        origin = self.settings.origin
        fixed = _NEVER if origin is None else micros_of(origin)
        starts = np.full(len(rows), fixed)
        if self.table.subject == ROW:
            return np.arange(rows.first, rows.first + len(rows)), starts
        name = self.table.subject or self.table.stay
        assert name is not None
        words = read_words(rows.columns[name], ("", *self.table.missing))
        no_nulls(Rows(rows.file, rows.first, {name: words}), name, "patient")
        if self.table.subject is not None:
            return self.subjects.of(words).to_numpy(), starts
        assert self.stays is not None
        place = self.stays.places(words)
        known = place >= 0
        self.told.absent(words.filter(pa.array(~known)).to_pylist())
        owner = np.where(known, self.stays.subjects[place], _NOBODY)
        if self.stays.started:
            starts = np.where(known, self.stays.starts[place], _NEVER)
        return owner, starts

    def _times(
        self,
        rows: Rows,
        time: str | None,
        offset: str | None,
        start: NDArray[np.int64],
        owner: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return when a row's events happened; ``_NEVER`` where that is not known."""
        missing = (*NO_VALUE, *self.table.missing)
        if time is not None:
            found = read_times(rows.columns[time], missing, self.table.time_format)
            self._bad(rows, time, found.bad, owner, _TIME_EXPECTED)
            return np.where(found.known, found.micros, _NEVER)
        if offset is None:
            return np.full(len(rows), _NEVER)
        numbers = read_numbers(rows.columns[offset], missing, self.table.decimal)
        gap = numbers.values * MICROS[self.table.offset_unit]
        far = np.abs(np.nan_to_num(gap)) > LARGEST_MICROS / 2
        wrong = numbers.bad | (numbers.limit != 0) | far
        self._bad(rows, offset, wrong, owner, f"expected {self.table.offset_unit} as a number")
        known = ~np.isnan(gap) & ~wrong & (start != _NEVER)
        return np.where(known, start + np.where(known, gap, 0).astype(np.int64), _NEVER)

    def _long(
        self, rows: Rows, owner: NDArray[np.int64], at: NDArray[np.int64]
    ) -> Iterator[pa.RecordBatch]:
        table = self.table
        codes = self._codes(rows)
        there = pc.is_valid(codes).to_numpy(zero_copy_only=False)
        self.told.notice("event without a code, not used", owner[~there & (owner != _NOBODY)])
        values = Numbers(np.full(len(rows), np.nan), *_nothing(len(rows)))
        if table.value is not None:
            missing = (*NO_VALUE, *table.missing)
            values = read_numbers(rows.columns[table.value], missing, table.decimal)
            self._bad(rows, table.value, values.bad, owner, _NUMBER_EXPECTED)
        if table.unit is not None:
            values = self._in_one_unit(rows, codes, values, owner)
        texts = None
        if table.text is not None:
            texts = read_words(rows.columns[table.text], (*NO_VALUE, *table.missing))
        empty = there & np.isnan(values.values) & (values.limit == 0)
        if table.value is not None:
            has_text = np.zeros(len(rows), bool)
            if texts is not None:
                has_text = pc.is_valid(texts).to_numpy(zero_copy_only=False)
            if without := int((empty & ~has_text).sum()):
                self.told.rows["row without a value"] += without
            there &= ~empty | has_text
        yield from self._emit(owner, at, codes, values, texts, there)

    def _codes(self, rows: Rows) -> pa.Array:
        assert self.table.code is not None
        pieces = self.table.code.replace("}", "{").split("{")
        parts = [
            read_words(rows.columns[piece], ("", *self.table.missing)) if i % 2 else piece
            for i, piece in enumerate(pieces)
        ]
        if len(parts) == 1:
            return pa.array([self.table.code] * len(rows), pa.string())
        return pc.binary_join_element_wise(*parts, "", null_handling="emit_null")

    def _in_one_unit(
        self, rows: Rows, codes: pa.Array, values: Numbers, owner: NDArray[np.int64]
    ) -> Numbers:
        """Convert to the unit of the site file; elsewhere insist that a code has one unit."""
        column, numbers = self.table.unit, values.values.copy()
        assert column is not None
        units = read_words(rows.columns[column], (*NO_VALUE, *self.table.missing))
        pairs = pc.binary_join_element_wise(
            codes, units.fill_null(""), "\n", null_handling="emit_null"
        ).dictionary_encode()
        places = pairs.indices.fill_null(-1).to_numpy()
        given = ~np.isnan(numbers)
        bad = np.zeros(len(rows), bool)
        for number, pair in enumerate(pairs.dictionary.to_pylist()):
            code, _, unit = pair.rpartition("\n")
            where = (places == number) & given
            if not where.any():
                continue
            if code in self.table.units:
                factor = self.table.units[code].get(unit)
                if factor is None:
                    bad |= where
                else:
                    numbers[where] *= factor
            elif self.units.setdefault(code, unit) != unit:
                bad |= where
        self._bad(rows, column, bad, owner, _UNIT_EXPECTED, _UNIT_REMEDY)
        numbers[bad] = np.nan
        return Numbers(numbers, values.limit, values.bad | bad)

    def _wide(
        self,
        rows: Rows,
        name: str,
        column: WideColumn,
        owner: NDArray[np.int64],
        at: NDArray[np.int64],
        start: NDArray[np.int64],
    ) -> Iterator[pa.RecordBatch]:
        if column.time is not None or column.offset is not None:
            at = self._times(rows, column.time, column.offset, start, owner)
        missing = (*NO_VALUE, *self.table.missing, *column.missing)
        cells, count = rows.columns[name], len(rows)
        codes = pa.array([column.code] * count, pa.string())
        nothing = Numbers(np.full(count, np.nan), *_nothing(count))
        if column.kind == "number":
            values = read_numbers(cells, missing, self.table.decimal, column.values)
            self._bad(rows, name, values.bad, owner, _NUMBER_EXPECTED)
            there = ~np.isnan(values.values) | (values.limit != 0)
            scaled = Numbers(values.values * column.factor, values.limit, values.bad)
            yield from self._emit(owner, at, codes, scaled, None, there)
        elif column.kind == "age":
            years = read_numbers(cells, missing, self.table.decimal, column.values)
            wrong = years.bad | (years.limit != 0) | (years.values < 0) | (years.values > 150)
            self._bad(rows, name, wrong, owner, "expected an age in years")
            there = ~np.isnan(years.values) & ~wrong
            lived = np.where(there, years.values * column.factor * YEAR, 0).astype(np.int64)
            born = np.where(at == _NEVER, _NEVER, at - lived)
            yield from self._emit(owner, born, codes, nothing, None, there)
        elif column.kind == "time":
            early = column.code == BIRTH
            times = read_times(cells, missing, self.table.time_format, early)
            self._bad(rows, name, times.bad, owner, _TIME_EXPECTED)
            yield from self._emit(owner, times.micros, codes, nothing, None, times.known)
        else:
            words = read_words(cells, missing)
            there = pc.is_valid(words).to_numpy(zero_copy_only=False)
            if column.kind == "text":
                yield from self._emit(owner, at, codes, nothing, words, there)
                return
            named = self._named(rows, name, column, words, owner)
            there &= pc.is_valid(named).to_numpy(zero_copy_only=False)
            codes = pc.binary_join_element_wise(codes, named, "//", null_handling="emit_null")
            yield from self._emit(owner, at, codes, nothing, None, there)

    def _named(
        self, rows: Rows, name: str, column: WideColumn, words: pa.Array, owner: NDArray[np.int64]
    ) -> pa.Array:
        if not column.categories:
            return words
        known = pa.array(list(column.categories), pa.string())
        place = pc.index_in(words, value_set=known)
        bad = pc.and_(pc.is_valid(words), pc.is_null(place)).to_numpy(zero_copy_only=False)
        self._bad(rows, name, bad, owner, 'expected one of its "categories" in the site file')
        return pa.array(list(column.categories.values()), pa.string()).take(place)

    def _emit(
        self,
        owner: NDArray[np.int64],
        at: NDArray[np.int64],
        codes: pa.Array,
        values: Numbers,
        texts: pa.Array | None,
        there: NDArray[np.bool_],
    ) -> Iterator[pa.RecordBatch]:
        there = there & (owner != _NOBODY)
        if not self.table.static:
            timeless = there & (at == _NEVER)
            self.told.notice("event without a time, not used", owner[timeless])
            there &= ~timeless
        if not there.any():
            return
        if values.limit.any():
            ends = pa.array(["", ABOVE_LIMIT, BELOW_LIMIT]).take(pa.array(values.limit % 3))
            codes = pc.binary_join_element_wise(codes, ends, "", null_handling="emit_null")
        times = pa.array(at, pa.int64(), mask=at == _NEVER).cast(pa.timestamp("us"))
        numbers = pa.array(values.values, mask=np.isnan(values.values))
        batch = event_batch(pa.array(owner), times, codes, numbers, texts)
        yield batch if there.all() else batch.filter(pa.array(there))

    def _bad(
        self,
        rows: Rows,
        column: str,
        bad: NDArray[np.bool_],
        owner: NDArray[np.int64],
        problem: str,
        remedy: str = "",
    ) -> None:
        if not bad.any():
            return
        if self.table.unreadable == "stop":
            _stop(rows, column, int(np.flatnonzero(bad)[0]), problem, remedy)
        self.told.notice("value: cannot be read, not used", owner[bad & (owner != _NOBODY)])


_NEVER = UNKNOWN_START
_NOBODY = np.iinfo(np.int64).min
_NUMBER_EXPECTED = 'expected a number, or a text in "missing"'
_TIME_EXPECTED = "expected a time without a zone (ISO 8601, or as in time_format)"
_UNIT_EXPECTED = "another unit than the file's earlier rows of this code, or than the site file's"
_UNIT_REMEDY = (
    'Give the factor of each unit: units = { "CODE" = { "mg/dl" = 1.0, "mmol/l" = 18.0 } }.'
)


def _nothing(count: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    return np.zeros(count, np.int8), np.zeros(count, bool)


def _stop(rows: Rows, column: str, place: int, problem: str, remedy: str) -> NoReturn:
    further = 'Correct the cell, or give unreadable = "count" to leave such cells out, counted.'
    raise rows.error(column, place, problem, f"{remedy} {further}".strip())
