"""Events and labels in the Medical Event Data Standard (MEDS 0.3 and 0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clients.sources.parquet import readable
from clients.sources.schema import BATCH_ROWS, EVENT_COLUMNS, EVENT_SCHEMA, TIME, files_below
from clients.sources.subjects import SubjectIds
from federation.errors import UserError

OPTIONAL = ("numeric_value", "text_value")
LABEL_VALUES: Mapping[str, pa.DataType] = {"boolean_value": pa.bool_(), "integer_value": pa.int64()}


def batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """Stream the events of a MEDS dataset in the order of its files.

    Args:
        folder: the dataset, with ``data/**/*.parquet`` (or the parquet files themselves).

    Yields:
        Batches of ``EVENT_SCHEMA``. A value that the file holds as NaN is infinite, and so can be
        told from no value.

    Raises:
        UserError: if there is no file, or one is unreadable, or a column is missing or wrong, or a
            row has no subject or no code.
    """
    for file in event_files(folder):
        schema = _checked(file, EVENT_COLUMNS, OPTIONAL)
        named = [name for name in EVENT_COLUMNS if name in schema.names]
        with readable(file), pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH_ROWS, columns=named):
                table = _cast(file, pa.Table.from_batches([batch]), schema, EVENT_COLUMNS)
                for column in ("subject_id", "code"):
                    if table[column].null_count:
                        _no_nulls(pq.read_table(file, columns=[column]), column, file)
                columns = [column.combine_chunks() for column in table.columns]
                values = columns[3]
                columns[3] = pc.if_else(pc.is_nan(values), pa.scalar(np.inf, values.type), values)
                yield pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def event_files(folder: Path) -> list[Path]:
    """Return the parquet files of a MEDS dataset, in the order in which they are read.

    Raises:
        UserError: if there is none.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    return files_below(root, ["**/*.parquet"], ".parquet file")


def read_labels(file: Path, subjects: SubjectIds) -> pd.DataFrame:
    """Read labels in the MEDS label schema.

    Args:
        file: parquet.
        subjects: makes ids of text, where the export's patients have no numbers.

    Returns:
        ``subject_id`` int64, ``prediction_time`` datetime64[us] (may be NaT), ``label`` float64:
        0, 1, NaN where there is none, or infinite where it is outside the classes;
        ``contradictory`` bool: whether the row's values differ.

    Raises:
        UserError: if the file is unreadable or lacks the columns.
    """
    schema = _schema(file)
    # A file may have all columns of the schema and fill only the one of its kind of task.
    values = [name for name in LABEL_VALUES if name in schema.names]
    if not values:
        raise UserError(
            file, "neither boolean_value nor integer_value is there", remedy=_have(schema)
        )
    named = (
        pa.types.is_string(schema.field("subject_id").type)
        if "subject_id" in schema.names
        else False
    )
    columns = {
        "subject_id": pa.string() if named else pa.int64(),
        "prediction_time": TIME,
        **{name: LABEL_VALUES[name] for name in values},
    }
    table = read_columns(file, columns, ())
    _no_nulls(table, "subject_id", file)
    numbers = [table[name].cast(pa.float64(), safe=False) for name in values]
    differ = pc.fill_null(pc.not_equal(numbers[0], numbers[-1]), False)
    given = pc.coalesce(*numbers).to_numpy().astype(np.float64)
    outside = ~np.isin(given, (0.0, 1.0)) & ~np.isnan(given)
    return pd.DataFrame(
        {
            "subject_id": subjects.of(table["subject_id"].combine_chunks()).to_numpy(),
            "prediction_time": table["prediction_time"].to_pandas(),
            "label": np.where(outside, np.inf, given),
            "contradictory": differ.to_numpy(),
        }
    )


def read_splits(folder: Path) -> dict[int, str]:
    """Read ``metadata/subject_splits.parquet``: subject to train, tuning or held_out.

    Raises:
        UserError: if the file is missing or names other splits.
    """
    file = folder / "metadata" / "subject_splits.parquet"
    if not file.is_file():
        raise UserError(
            file, 'there is no such file; split.by = "given" needs it', field="split.by"
        )
    table = read_columns(file, {"subject_id": pa.int64(), "split": pa.string()}, ())
    unknown = set(pc.unique(table["split"]).to_pylist()) - {"train", "tuning", "held_out"}
    if unknown:
        raise UserError(
            file,
            f"{len(unknown)} values are none of train, tuning, held_out",
            field="split",
        )
    return dict(zip(table["subject_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _no_nulls(table: pa.Table, column: str, where: Path) -> None:
    if table[column].null_count:
        raise UserError(where, f"{table[column].null_count} rows have none", field=column)


def _schema(file: Path) -> pa.Schema:
    with readable(file):
        return pq.read_schema(file)


def read_columns(
    file: Path, expected: Mapping[str, pa.DataType], optional: tuple[str, ...]
) -> pa.Table:
    """Read the expected columns of a parquet file, cast to their types.

    An optional column that the file lacks is all null.

    Raises:
        UserError: if the file is unreadable, or a column is missing or of another kind.
    """
    schema = _checked(file, expected, optional)
    with readable(file):
        table = pq.read_table(file, columns=[name for name in expected if name in schema.names])
    return _cast(file, table, schema, expected)


def _checked(
    file: Path, expected: Mapping[str, pa.DataType], optional: tuple[str, ...]
) -> pa.Schema:
    """Return the schema of a file that has the expected columns, once, of kinds that fit."""
    schema = _schema(file)
    missing = [name for name in expected if name not in schema.names and name not in optional]
    if missing:
        raise UserError(
            file, "the column is missing", field=", ".join(missing), remedy=_have(schema)
        )
    for name in expected:
        if schema.names.count(name) > 1:
            raise UserError(
                file, "more than one column has this name", field=name, remedy=_have(schema)
            )
        if name in schema.names:
            _check_kind(file, name, expected[name], schema.field(name).type)
    return schema


def _cast(
    file: Path, table: pa.Table, schema: pa.Schema, expected: Mapping[str, pa.DataType]
) -> pa.Table:
    arrays = []
    for name, kind in expected.items():
        if name not in schema.names:
            arrays.append(pa.nulls(len(table), kind))
            continue
        try:
            # A finer time than microseconds is cut; a text that is no time still fails.
            arrays.append(table[name].cast(kind, safe=kind != TIME))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise _unexpected(file, name, kind, schema.field(name).type) from None
    return pa.table(arrays, names=list(expected))


def _check_kind(file: Path, name: str, kind: pa.DataType, found: pa.DataType) -> None:
    """Refuse what a cast would take and change: numbers as times or as truth, times with a zone."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    fits = True
    if kind == TIME:
        local = pa.types.is_timestamp(found) and found.tz is None
        text = pa.types.is_string(found) or pa.types.is_large_string(found)
        fits = local or pa.types.is_date(found) or text
    elif pa.types.is_boolean(kind):
        fits = pa.types.is_boolean(found)
    if not fits and not pa.types.is_null(found):  # a column of nulls may have no type
        raise _unexpected(file, name, kind, found)


def _unexpected(file: Path, name: str, kind: pa.DataType, found: pa.DataType) -> UserError:
    expected, remedy = str(kind), ""
    if kind == TIME:
        expected = "timestamp without a time zone (the hospital's local time)"
        remedy = "Convert the column; dates and ISO 8601 text without a zone are taken too."
    elif pa.types.is_boolean(kind):
        remedy = "Convert the column, or name it integer_value if it holds 0 and 1."
    return UserError(file, f"expected {expected}, found {found}", field=name, remedy=remedy)


def _have(schema: pa.Schema) -> str:
    return f"The file has: {', '.join(schema.names)}."
