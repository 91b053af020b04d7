"""A site's events as a stream of batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clients.site import Site
from clients.sources.meds import EVENT_COLUMNS, OPTIONAL, event_files, read_columns

BATCH_ROWS = 1 << 17


def site_events(site: Site) -> Iterator[pa.RecordBatch]:
    """Stream a site's events as batches with the columns of ``EVENT_COLUMNS``.

    Raises:
        UserError: if a file is missing or malformed, while streaming.
    """
    for file in event_files(site.events):
        table = read_columns(file, EVENT_COLUMNS, OPTIONAL)
        values = table["numeric_value"]
        marked = pc.if_else(pc.is_nan(values), pa.scalar(np.inf, values.type), values)
        table = table.set_column(
            table.schema.get_field_index("numeric_value"), "numeric_value", marked
        )
        yield from table.to_batches(BATCH_ROWS)
