"""OMOP Common Data Model 5.4 tables.

A concept becomes ``VOCABULARY//CODE`` where the export has its ``concept`` table, and
``OMOP//CONCEPT_ID`` where not; a concept of 0 (unmapped) falls back to the source value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.sources.columns import Layout, Rows, no_nulls, read_rows
from clients.sources.parsing import read_numbers, read_times, read_words
from clients.sources.schema import (
    ABOVE_LIMIT,
    BELOW_LIMIT,
    BIRTH,
    DEATH,
    Told,
    event_batch,
    files_below,
)
from clients.sources.settings import NO_VALUE
from clients.sources.subjects import SubjectIds, in_sorted
from federation.errors import UserError

GENDERS = {"8507": "GENDER//M", "8532": "GENDER//F"}
RACES = {
    "8527": "RACE//White",
    "8516": "RACE//Black",
    "8515": "RACE//Asian",
    "8657": "RACE//American Indian or Alaska Native",
    "8557": "RACE//Native Hawaiian or Other Pacific Islander",
}
HISPANIC = {"38003563": "ETHNICITY//Hispanic"}
LESS, MORE = ("4171756", "4171754"), ("4172704", "4171755")
"""Operator concepts: < and <=, > and >=."""


@dataclass(frozen=True)
class ClinicalTable:
    """How the events of one table are read; ``day`` and ``moment`` are its time columns."""

    name: str
    concept: str
    source: str
    day: str
    moment: str
    number: bool = False
    prefix: str = ""


TABLES = (
    ClinicalTable(
        "visit_occurrence",
        "visit_concept_id",
        "visit_source_value",
        "visit_start_date",
        "visit_start_datetime",
        prefix="VISIT_START//",
    ),
    ClinicalTable(
        "visit_occurrence",
        "visit_concept_id",
        "visit_source_value",
        "visit_end_date",
        "visit_end_datetime",
        prefix="VISIT_END//",
    ),
    ClinicalTable(
        "condition_occurrence",
        "condition_concept_id",
        "condition_source_value",
        "condition_start_date",
        "condition_start_datetime",
    ),
    ClinicalTable(
        "drug_exposure",
        "drug_concept_id",
        "drug_source_value",
        "drug_exposure_start_date",
        "drug_exposure_start_datetime",
    ),
    ClinicalTable(
        "procedure_occurrence",
        "procedure_concept_id",
        "procedure_source_value",
        "procedure_date",
        "procedure_datetime",
    ),
    ClinicalTable(
        "measurement",
        "measurement_concept_id",
        "measurement_source_value",
        "measurement_date",
        "measurement_datetime",
        number=True,
    ),
    ClinicalTable(
        "observation",
        "observation_concept_id",
        "observation_source_value",
        "observation_date",
        "observation_datetime",
        number=True,
    ),
)


def batches(folder: Path, subjects: SubjectIds, told: Told) -> Iterator[pa.RecordBatch]:
    """Stream the events of the tables that are there; ``person`` must be.

    Raises:
        UserError: naming the file, and column and row where there is one.
    """
    files = _files(folder)
    if "person" not in files:
        raise UserError(
            folder, "holds no person table (person.csv, person.csv.gz, person.parquet or a folder)"
        )
    people: list[NDArray[np.int64]] = []
    for file in files["person"]:
        for rows in read_rows(file, ["person_id"], _LAYOUT, _PERSON):
            batch = _Batch(rows, subjects, told)
            people.append(batch.owner)
            yield from _person(batch)
    known = np.unique(np.concatenate(people)) if people else np.zeros(0, np.int64)
    concepts = _concepts(files.get("concept", []))
    for table in TABLES:
        for file in files.get(table.name, []):
            optional = (table.moment, table.source, *(_VALUES if table.number else ()))
            for rows in read_rows(file, ["person_id", table.concept, table.day], _LAYOUT, optional):
                yield from _clinical(_Batch(rows, subjects, told, known), table, concepts)
    for file in files.get("death", []):
        for rows in read_rows(file, ["person_id", "death_date"], _LAYOUT, ["death_datetime"]):
            batch = _Batch(rows, subjects, told, known)
            at = batch.times("death_datetime", "death_date")
            yield from batch.events(at, pa.array([DEATH] * len(rows), pa.string()))


_LAYOUT = Layout(any_case=True)
_PERSON = (
    "gender_concept_id",
    "year_of_birth",
    "month_of_birth",
    "day_of_birth",
    "birth_datetime",
    "race_concept_id",
    "ethnicity_concept_id",
)
_VALUES = ("value_as_number", "value_as_concept_id", "operator_concept_id", "unit_concept_id")


def _files(folder: Path) -> dict[str, list[Path]]:
    names = {table.name for table in TABLES} | {"person", "death", "concept"}
    every = [*folder.glob("*"), *folder.glob("*/*")]
    found: dict[str, list[Path]] = {}
    for file in sorted(every):
        stem = file.name.lower().removesuffix(".gz")
        name, dot, kind = stem.rpartition(".")
        if kind not in ("csv", "parquet") or not dot or file.is_dir():
            continue
        inside = file.parent.name.lower() if file.parent != folder else name
        if inside in names:
            found.setdefault(inside, []).extend(
                files_below(folder, [str(file.relative_to(folder))], "file")
            )
    return found


class _Batch:
    """Rows of one table with their subjects; rows of absent persons are counted and left out."""

    def __init__(
        self,
        rows: Rows,
        subjects: SubjectIds,
        told: Told,
        known: NDArray[np.int64] | None = None,
    ):
        words = read_words(rows.columns["person_id"], NO_VALUE)
        no_nulls(Rows(rows.file, rows.first, {"person_id": words}), "person_id", "person")
        self.rows, self.told = rows, told
        self.owner = np.asarray(subjects.of(words).to_numpy(), np.int64)
        self.present = np.ones(len(rows), bool)
        if known is not None:
            self.present = in_sorted(self.owner, known) >= 0
            told.absent(self.owner[~self.present].tolist())

    def words(self, column: str) -> pa.Array:
        return read_words(self.rows.columns[column], NO_VALUE)

    def concept(self, column: str) -> pa.Array:
        """Return concept ids as text; null for none and for 0."""
        return read_words(self.rows.columns[column], (*NO_VALUE, "0"))

    def numbers(self, column: str) -> NDArray[np.float64]:
        found = read_numbers(self.rows.columns[column], NO_VALUE)
        self.check(found.bad, column, "expected a number")
        return found.values

    def times(self, moment: str, day: str, early: bool = False) -> pa.Array:
        """Return the moment where it is given, else the end of the day."""
        arrays = []
        for column in (moment, day):
            found = read_times(self.rows.columns[column], NO_VALUE, early=early)
            self.check(found.bad, column, "expected a date or a time without a zone")
            arrays.append(found.array())
        return pc.coalesce(*arrays)

    def check(self, bad: NDArray[np.bool_], column: str, problem: str) -> None:
        if bad.any():
            raise self.rows.error(column, int(np.flatnonzero(bad)[0]), problem)

    def events(
        self, times: pa.Array | None, codes: pa.Array, values: pa.Array | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows that have a code, and a time unless they are facts without one."""
        coded = pc.is_valid(codes).to_numpy(zero_copy_only=False) & self.present
        if times is None:
            times = pa.nulls(len(self.owner), pa.timestamp("us"))
        else:
            timed = pc.is_valid(times).to_numpy(zero_copy_only=False)
            self.told.notice("event without a time, not used", self.owner[coded & ~timed])
            coded &= timed
        if coded.any():
            batch = event_batch(pa.array(self.owner), times, codes, values)
            yield batch.filter(pa.array(coded))


def _person(batch: _Batch) -> Iterator[pa.RecordBatch]:
    for column, codes in (
        ("gender_concept_id", GENDERS),
        ("race_concept_id", RACES),
        ("ethnicity_concept_id", HISPANIC),
    ):
        place = pc.index_in(batch.concept(column), value_set=pa.array(list(codes)))
        yield from batch.events(None, pa.array(list(codes.values())).take(place))
    born = batch.times("birth_datetime", "birth_datetime", early=True)
    parts = [batch.numbers(f"{part}_of_birth") for part in ("year", "month", "day")]
    # The middle of what is not told, so that ages are right on average.
    filled = [
        np.where(np.isnan(part), middle, part) for part, middle in zip(parts, _MIDDLE, strict=True)
    ]
    written = [
        None
        if np.isnan(parts[0][i])
        else "-".join(f"{int(p[i]):0{w}d}" for p, w in zip(filled, (4, 2, 2), strict=True))
        for i in range(len(born))
    ]
    built = read_times(pa.array(written, pa.string()), (), early=True)
    batch.check(built.bad, "year_of_birth, month_of_birth, day_of_birth", "expected a date")
    born = pc.coalesce(born, built.array())
    known = pc.is_valid(born)
    code = pc.if_else(known, BIRTH, pa.scalar(None, pa.string()))
    yield from batch.events(born, code)


_MIDDLE = (0, 7, 1)


def _clinical(batch: _Batch, table: ClinicalTable, concepts: _Concepts) -> Iterator[pa.RecordBatch]:
    codes = concepts.codes(batch.concept(table.concept), batch.words(table.source))
    uncoded = pc.is_null(codes).to_numpy(zero_copy_only=False) & batch.present
    batch.told.notice("event without a code, not used", batch.owner[uncoded])
    if table.prefix:
        codes = pc.binary_join_element_wise(table.prefix, codes, "", null_handling="emit_null")
    values = None
    if table.number:
        numbers = batch.numbers("value_as_number")
        numbers, codes = _with_operator(batch, numbers, codes)
        answers = concepts.codes(batch.concept("value_as_concept_id"), None)
        both = pc.binary_join_element_wise(codes, answers, "//", null_handling="emit_null")
        codes = pc.coalesce(both, codes)
        values = pa.array(numbers, mask=np.isnan(numbers))
    yield from batch.events(batch.times(table.moment, table.day), codes, values)


def _with_operator(
    batch: _Batch, numbers: NDArray[np.float64], codes: pa.Array
) -> tuple[NDArray[np.float64], pa.Array]:
    operator = batch.concept("operator_concept_id")
    for operators, end in ((LESS, BELOW_LIMIT), (MORE, ABOVE_LIMIT)):
        at = pc.is_in(operator, value_set=pa.array(operators))
        limited = at.to_numpy(zero_copy_only=False) & ~np.isnan(numbers)
        numbers = np.where(limited, np.nan, numbers)
        ended = pc.binary_join_element_wise(codes, end, "", null_handling="emit_null")
        codes = pc.if_else(pa.array(limited), ended, codes)
    return numbers, codes


@dataclass(frozen=True)
class _Concepts:
    """The vocabulary that came with the export, by concept id in order; may be empty."""

    ids: NDArray[np.int64]
    names: pa.Array

    def codes(self, concept: pa.Array, source: pa.Array | None) -> pa.Array:
        coded = concept.dictionary_encode()
        named = pa.array([self._code(text) for text in coded.dictionary.to_pylist()], pa.string())
        codes = named.take(coded.indices)
        if source is None:
            return codes
        own = pc.binary_join_element_wise("SOURCE", source, "//", null_handling="emit_null")
        return pc.coalesce(codes, own)

    def _code(self, text: str) -> str:
        if text.isdecimal() and len(text) < 19:
            place = int(in_sorted(np.array([int(text)]), self.ids)[0])
            if place >= 0:
                return str(self.names[place].as_py())
        return f"OMOP//{text}"


def _concepts(files: list[Path]) -> _Concepts:
    ids, names = [np.zeros(0, np.int64)], [pa.array([], pa.string())]
    join = partial(pc.binary_join_element_wise, null_handling="emit_null")
    for file in files:
        delimiter = _concept_delimiter(file)
        # Athena's tab-separated files hold unpaired quotes in names.
        layout = Layout(delimiter, any_case=True, quoted=delimiter != "\t")
        for rows in read_rows(file, ["concept_id", "vocabulary_id", "concept_code"], layout):
            numbers = read_numbers(rows.columns["concept_id"], ())
            if (numbers.bad | np.isnan(numbers.values)).any():
                place = int(np.flatnonzero(numbers.bad | np.isnan(numbers.values))[0])
                raise rows.error("concept_id", place, "expected a whole number")
            pair = [read_words(rows.columns[c], ("",)) for c in ("vocabulary_id", "concept_code")]
            coded = join(*pair, "//")
            kept = pc.is_valid(coded)
            ids.append(numbers.values[kept.to_numpy(zero_copy_only=False)].astype(np.int64))
            names.append(coded.filter(kept))
    every = np.concatenate(ids)
    order = np.argsort(every, kind="stable")
    return _Concepts(every[order], pa.chunked_array(names).combine_chunks().take(pa.array(order)))


def _concept_delimiter(file: Path) -> str:
    """Athena writes its CSV files with tabs."""
    if file.suffix == ".parquet":
        return ","
    with pa.input_stream(str(file), compression="detect") as stream:
        return "\t" if b"\t" in stream.read(1 << 12).partition(b"\n")[0] else ","
