"""Other values in the columns of a table, in the type that each column has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from federation.tasks import MulticlassTask, MultilabelTask, SurvivalTask, Task
from simulations.shifts.kind import Floats


def with_labels(
    table: pa.Table, task: Task, column: str, values: Floats, changed: NDArray[np.bool_]
) -> pa.Table:
    """Write labels anew as `clients.label_values` reads them.

    Args:
        table: of labels.
        task: whose they are.
        column: one of `clients.label_values.value_columns`.
        values: (rows,) of it.
        changed: (rows,) which to write.
    """
    if isinstance(task, MultilabelTask):
        return with_numbers(table, column.removeprefix("label:"), values, changed)
    if isinstance(task, SurvivalTask) and column == "days":
        return with_numbers(table, "float_value", values, changed)
    for name in ("boolean_value", "integer_value", "categorical_value"):
        if name not in table.schema.names:
            continue
        here = changed & table[name].is_valid().to_numpy(zero_copy_only=False)
        if name == "categorical_value" and isinstance(task, MulticlassTask) and here.any():
            texts = np.array(table[name].to_pylist(), dtype=object)
            texts[here] = [task.classes[int(value)] for value in values[here]]
            table = with_texts(table, name, texts)
        elif name != "categorical_value" and here.any():
            table = with_numbers(table, name, values, here)
    return table


def with_numbers(
    table: pa.Table, name: str, values: Floats, changed: NDArray[np.bool_]
) -> pa.Table:
    """Replace numbers where they changed; in a column of texts they are whole where they can be."""
    field = table.schema.field(name)
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = np.array(table[name].to_pylist(), dtype=object)
        texts[changed] = [f"{value:.10g}" for value in values[changed]]
        return with_texts(table, name, texts)
    new = pa.array(values, pa.float64()).cast(kind, safe=False)
    column = pa.compute.if_else(pa.array(changed), new, table[name].combine_chunks())
    return table.set_column(table.schema.get_field_index(name), field, column)


def with_texts(table: pa.Table, name: str, texts: Iterable[Any]) -> pa.Table:
    """Replace a column of texts."""
    field = table.schema.field(name)
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    column = pa.array(list(texts), kind)
    if pa.types.is_dictionary(field.type):
        column = column.dictionary_encode().cast(field.type)
    return table.set_column(table.schema.get_field_index(name), field, column)
