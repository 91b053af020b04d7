"""Columns of CSV and parquet files as a stream of batches."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from clients.sources.parquet import readable
from clients.sources.schema import BATCH_ROWS
from federation.errors import UserError
from federation.validation import nearest

CSV_BLOCK = 8 << 20
LARGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Layout:
    """How a delimited text file is written; parquet ignores it."""

    delimiter: str = ","
    encoding: str = "utf-8"
    names: tuple[str, ...] = ()
    any_case: bool = False
    """Whether column names are found in capitals too, as databases export them."""
    quoted: bool = True


@dataclass(frozen=True)
class Rows:
    """Some consecutive rows of a file.

    Attributes:
        file: where they come from.
        first: number of the first, counted from 1 below the header.
        columns: arrays of equal length; those of a text file are strings.
    """

    file: Path
    first: int
    columns: Mapping[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def error(self, column: str, place: int, problem: str, remedy: str = "") -> UserError:
        """Name a cell, never its value."""
        return UserError(
            self.file, problem, field=f"{column}, row {self.first + place}", remedy=remedy
        )


def read_rows(
    file: Path, wanted: Sequence[str], layout: Layout, optional: Sequence[str] = ()
) -> Iterator[Rows]:
    """Stream some columns of a file; an optional column that is absent is all null.

    Raises:
        UserError: if the file cannot be read, or a column is missing or there twice.
    """
    parquet, names = file.suffix == ".parquet", names_of(file, layout)
    chosen = _choose(file, names, [*wanted, *optional], layout.any_case, set(optional))
    if not chosen:
        raise UserError(file, "none of the columns in the site file is there")
    stream = (
        _parquet_batches(file, chosen) if parquet else _csv_batches(file, names, chosen, layout)
    )
    first = 1
    for batch in stream:
        columns = {
            name: batch.column(chosen[name])
            if name in chosen
            else pa.nulls(len(batch), pa.string())
            for name in (*wanted, *optional)
        }
        yield Rows(file, first, columns)
        first += len(batch)


def names_of(file: Path, layout: Layout = Layout()) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        UserError: if they cannot be read.
    """
    return _parquet_names(file) if file.suffix == ".parquet" else _csv_names(file, layout)


def _choose(
    file: Path, names: Sequence[str], wanted: Sequence[str], any_case: bool, optional: set[str]
) -> dict[str, str]:
    shown = [name.lower() for name in names] if any_case else list(names)
    chosen = {}
    for name in dict.fromkeys(wanted):
        if (count := shown.count(name)) > 1:
            raise UserError(file, f"{count} columns have this name", field=name)
        if count:
            chosen[name] = names[shown.index(name)]
        elif name not in optional:
            guess = nearest(name, shown)
            hint = f'Did you mean "{guess}"? ' if guess else ""
            listed = ", ".join(names[:40])
            raise UserError(
                file, "there is no such column", field=name, remedy=f"{hint}It has: {listed}."
            )
    return chosen


def _parquet_names(file: Path) -> list[str]:
    with readable(file):
        return list(pq.read_schema(file).names)


def _parquet_batches(file: Path, chosen: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    with readable(file), pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(BATCH_ROWS, columns=list(chosen.values()))


def _csv_names(file: Path, layout: Layout) -> list[str]:
    if layout.names:
        return list(layout.names)
    said = _said(file, "not a readable text file (damaged, or truncated gzip)")
    with said, pa.input_stream(str(file), compression="detect") as stream:
        start = stream.read(LARGEST_HEADER)
    line = _first_line(_decoded(file, start, layout).lstrip("\ufeff"))
    try:
        header = next(csv.reader([line], delimiter=layout.delimiter), [])
    except csv.Error:  # a name of over 131,072 characters
        raise UserError(file, "the header line cannot be read") from None
    if not header:
        raise UserError(file, "is empty; expected a header line with the names of the columns")
    return [name.strip() for name in header]


def _first_line(text: str) -> str:
    return re.split(r"\r\n|\r|\n", text, maxsplit=1)[0]


def _decoded(file: Path, start: bytes, layout: Layout) -> str:
    """Return the start of a file as text, whose first line is whole."""
    try:
        decoder = codecs.getincrementaldecoder(layout.encoding)("replace")
    except LookupError:
        raise UserError(file, f'"{layout.encoding}" is no encoding', field="encoding") from None
    text = decoder.decode(start)
    if "\ufffd" in _first_line(text):
        raise _not_text(file, layout, "the header")
    return text


def _csv_batches(
    file: Path, names: Sequence[str], chosen: Mapping[str, str], layout: Layout
) -> Iterator[pa.RecordBatch]:
    unique = [f"{i}" for i in range(len(names))]  # a table may hold names twice that nobody wants
    kinds = {unique[list(names).index(name)]: pa.binary() for name in chosen.values()}
    back = {unique[list(names).index(name)]: name for name in chosen.values()}
    said = _said(
        file,
        "not a readable text file (damaged, or truncated gzip)",
        above=0 if layout.names else 1,
    )
    with said, pa.input_stream(str(file), compression="detect") as stream:
        reader = _opened(
            _as_utf8(stream, layout),
            read_options=pacsv.ReadOptions(
                use_threads=False,  # else an invalid row has no number
                block_size=CSV_BLOCK,
                column_names=unique,
                skip_rows=0 if layout.names else 1,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=layout.delimiter,
                newlines_in_values=layout.quoted,
                quote_char='"' if layout.quoted else False,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=kinds,
                include_columns=list(kinds),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        first = 1
        for batch in reader or ():
            arrays = [_text(file, back[name], batch.column(name), first, layout) for name in kinds]
            yield pa.RecordBatch.from_arrays(arrays, names=[back[name] for name in kinds])
            first += len(batch)


def _opened(stream: pa.NativeFile, **options: Any) -> pacsv.CSVStreamingReader | None:
    """Open a stream; None if nothing follows the header."""
    try:
        return pacsv.open_csv(stream, **options)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return None
        raise


def _text(file: Path, name: str, column: pa.Array, first: int, layout: Layout) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        for place, value in enumerate(column):
            try:
                value.as_py().decode("utf-8")
            except UnicodeDecodeError:
                raise _not_text(file, layout, f"{name}, row {first + place}") from None
        raise


def _not_text(file: Path, layout: Layout, field: str) -> UserError:
    return UserError(
        file,
        f"not {layout.encoding} text",
        field=field,
        remedy='Give the encoding of the file in the site file, such as encoding = "latin-1".',
    )


def _as_utf8(stream: pa.NativeFile, layout: Layout) -> pa.NativeFile:
    if codecs.lookup(layout.encoding).name == "utf-8":
        return stream
    return pa.transcoding_input_stream(stream, layout.encoding, "utf-8")


@contextmanager
def _said(file: Path, problem: str, above: int = 0) -> Iterator[None]:
    """Turn what Arrow says, which may quote a row, into a message without it.

    Args:
        file: being read.
        problem: what to say of anything else than a row of the wrong length.
        above: rows of the file that are not counted, such as a header.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(file, "there is no such file") from None
    except UnicodeDecodeError:
        raise UserError(file, "not text of the given encoding", field="encoding") from None
    except (
        pa.ArrowInvalid,
        pa.ArrowNotImplementedError,
        pa.ArrowKeyError,
        OSError,
        EOFError,
    ) as error:
        if found := re.match(r"CSV parse error: Row #(\d+): Expected \d+ columns", str(error)):
            raise UserError(
                file,
                "has more or fewer fields than the header",
                field=f"row {int(found.group(1)) - above}",
                remedy='Check "delimiter" and the quoting of that row.',
            ) from None
        if "straddling" in str(error) or "block" in str(error).lower():
            problem = "a row is longer than 8 MB; a quote may be left open"
        raise UserError(file, problem) from None


def no_nulls(rows: Rows, column: str, what: str) -> None:
    """Refuse rows without a value in a column.

    Raises:
        UserError: naming the first.
    """
    empty = pc.is_null(rows.columns[column]).to_numpy(zero_copy_only=False).nonzero()[0]
    if len(empty):
        raise rows.error(column, int(empty[0]), f"has no {what}")
