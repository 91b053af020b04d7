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
LABEL_VALUES: Mapping[str, pa.DataType] = {"boolean_value": pa.bool_(), "integer_value": pa.int64()}


def read_events(folder: Path, subjects: pa.Array) -> tuple[pd.DataFrame, int]:
    """Read the events of some subjects from a MEDS dataset.

    Args:
        folder: the dataset, with ``data/**/*.parquet`` (or the parquet files themselves).
        subjects: int64 subject ids to keep.

    Returns:
        Events with the columns of ``EVENT_COLUMNS`` (``code`` categorical), in the order of the
        files; and the number of further subjects, of whom nothing was kept.

    Raises:
        UserError: if there is no file, or one is unreadable, or a column is missing or wrong.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    files = sorted(root.rglob("*.parquet"))
    if not files:
        raise UserError(root, "no .parquet file was found; expected MEDS events")
    tables, others = [], set[int]()
    for file in files:
        table = _columns(file, EVENT_COLUMNS, OPTIONAL)
        _no_nulls(table, "subject_id", file)
        wanted = pc.is_in(table["subject_id"], value_set=subjects)
        others.update(pc.unique(table["subject_id"].filter(pc.invert(wanted))).to_pylist())
        tables.append(table.filter(wanted))
    events = pa.concat_tables(tables)
    _no_nulls(events, "code", root)
    coded = events.set_column(2, "code", events["code"].dictionary_encode())
    return coded.to_pandas(), len(others)


def read_labels(file: Path) -> pd.DataFrame:
    """Read labels in the MEDS label schema.

    Returns:
        ``subject_id`` int64, ``prediction_time`` datetime64[us] (may be NaT), ``label`` float64:
        0, 1, NaN where there is none, or another number where it is outside the classes.

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
        "prediction_time": pa.timestamp("us"),
        **{name: LABEL_VALUES[name] for name in values},
    }
    table = _columns(file, columns, ())
    _no_nulls(table, "subject_id", file)
    given = pc.coalesce(*(table[name].cast(pa.float64(), safe=False) for name in values))
    return pd.DataFrame(
        {
            "subject_id": table["subject_id"].to_numpy(),
            "prediction_time": table["prediction_time"].to_pandas(),
            "label": given.to_numpy().astype(np.float64),
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
    table = _columns(file, {"subject_id": pa.int64(), "split": pa.string()}, ())
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


def _columns(
    file: Path, expected: Mapping[str, pa.DataType], optional: tuple[str, ...]
) -> pa.Table:
    schema = _schema(file)
    missing = [name for name in expected if name not in schema.names and name not in optional]
    if missing:
        raise UserError(
            file, "the column is missing", field=", ".join(missing), remedy=_have(schema)
        )
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
            arrays.append(table[name].cast(kind, safe=kind != pa.timestamp("us")))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            found = schema.field(name).type
            raise UserError(file, f"expected {kind}, found {found}", field=name) from None
    return pa.table(arrays, names=list(expected))


def _have(schema: pa.Schema) -> str:
    return f"The file has: {', '.join(schema.names)}."
