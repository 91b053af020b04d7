"""Events and labels in the Medical Event Data Standard (MEDS 0.3 and 0.4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from federation.errors import UserError

EVENT_COLUMNS: Mapping[str, pa.DataType] = {
    "subject_id": pa.int64(),
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float32(),
    "text_value": pa.string(),
}
OPTIONAL = ("numeric_value", "text_value")
TIME = EVENT_COLUMNS["time"]
LABEL_VALUES: Mapping[str, pa.DataType] = {"boolean_value": pa.bool_(), "integer_value": pa.int64()}


def read_events(folder: Path, subjects: pa.Array) -> tuple[pd.DataFrame, int]:
    """Read the events of some subjects from a MEDS dataset.

    Args:
        folder: the dataset, with ``data/**/*.parquet`` (or the parquet files themselves).
        subjects: int64 subject ids to keep.

    Returns:
        Events with the columns of ``EVENT_COLUMNS`` (``code`` categorical), in the order of the
        files; and the number of further subjects, of whom nothing was kept. A value that the file
        holds as NaN is infinite, and so can be told from no value.

    Raises:
        UserError: if there is no file, or one is unreadable, or a column is missing or wrong.
    """
    tables, others = [], set[int]()
    for file in event_files(folder):
        table = read_columns(file, EVENT_COLUMNS, OPTIONAL)
        _no_nulls(table, "subject_id", file)
        wanted = pc.is_in(table["subject_id"], value_set=subjects)
        others.update(pc.unique(table["subject_id"].filter(pc.invert(wanted))).to_pylist())
        tables.append(table.filter(wanted))
        _no_nulls(tables[-1], "code", file)
    events = pa.concat_tables(tables)
    at = events.schema.get_field_index("numeric_value")
    values = events["numeric_value"]
    marked = pc.if_else(pc.is_nan(values), pa.scalar(np.inf, values.type), values)
    events = events.set_column(at, "numeric_value", marked)
    coded = events.set_column(2, "code", events["code"].dictionary_encode())
    return coded.to_pandas(), len(others)


def event_files(folder: Path) -> list[Path]:
    """Return the parquet files of a MEDS dataset, in the order in which they are read.

    Raises:
        UserError: if there is none.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    files = sorted(root.rglob("*.parquet"))
    if not files:
        raise UserError(root, "no .parquet file was found; expected MEDS events")
    return files


def read_labels(file: Path) -> pd.DataFrame:
    """Read labels in the MEDS label schema.

    Returns:
        ``subject_id`` int64, ``prediction_time`` datetime64[us] (may be NaT), ``label`` float64:
        0, 1, NaN where there is none, or another number where it is outside the classes;
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
    columns = {
        "subject_id": pa.int64(),
        "prediction_time": TIME,
        **{name: LABEL_VALUES[name] for name in values},
    }
    table = read_columns(file, columns, ())
    _no_nulls(table, "subject_id", file)
    numbers = [table[name].cast(pa.float64(), safe=False) for name in values]
    differ = pc.fill_null(pc.not_equal(numbers[0], numbers[-1]), False)
    given = pc.coalesce(*numbers)
    return pd.DataFrame(
        {
            "subject_id": table["subject_id"].to_numpy(),
            "prediction_time": table["prediction_time"].to_pandas(),
            "label": given.to_numpy().astype(np.float64),
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
    try:
        return pq.read_schema(file)
    except FileNotFoundError:
        raise UserError(file, "there is no such file") from None
    except (pa.ArrowInvalid, OSError):
        raise UserError(file, "not a readable parquet file (truncated or another format)") from None


def read_columns(
    file: Path, expected: Mapping[str, pa.DataType], optional: tuple[str, ...]
) -> pa.Table:
    """Read the expected columns of a parquet file, cast to their types.

    An optional column that the file lacks is all null.

    Raises:
        UserError: if the file is unreadable, or a column is missing or of another kind.
    """
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
    try:
        table = pq.read_table(file, columns=[name for name in expected if name in schema.names])
    except (pa.ArrowInvalid, OSError):
        raise UserError(file, "not a readable parquet file (truncated or damaged)") from None
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
