"""What every reader yields: batches of MEDS events; and what it tells of the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from federation.bodies import Reason
from federation.errors import UserError

TIME = pa.timestamp("us")
EVENT_COLUMNS: Mapping[str, pa.DataType] = {
    "subject_id": pa.int64(),
    "time": TIME,
    "code": pa.string(),
    "numeric_value": pa.float32(),
    "text_value": pa.string(),
}
EVENT_SCHEMA = pa.schema(EVENT_COLUMNS)
BATCH_ROWS = 1 << 17
"""Rows of a file that are in memory at once."""

BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
BELOW_LIMIT, ABOVE_LIMIT = "//BELOW_LIMIT", "//ABOVE_LIMIT"
"""End of the code of a measurement of which only the limit of detection is known."""


@dataclass
class Told:
    """What a reader could not turn into events, for the site's own eyes until it is counted.

    Attributes:
        notices: subjects of whom something is left out, by reason.
        excluded: subjects (or names of absent ones) of whom nothing can be used, by reason.
        rows: rows or resources left out, by reason.
    """

    notices: defaultdict[Reason, set[int]] = field(default_factory=lambda: defaultdict(set))
    excluded: defaultdict[Reason, set[object]] = field(default_factory=lambda: defaultdict(set))
    rows: Counter[str] = field(default_factory=Counter)

    def notice(self, reason: Reason, subjects: Iterable[int]) -> None:
        """Note rows of known patients that became no event; one subject a row."""
        listed = list(subjects)
        if listed:
            self.notices[reason].update(listed)
            self.rows[reason] += len(listed)

    def absent(self, names: Iterable[object]) -> None:
        """Note rows of patients whom no table holds; one name a row."""
        listed = list(names)
        if listed:
            self.excluded["reference to an absent patient"].update(listed)
            self.rows["reference to an absent patient"] += len(listed)


def event_batch(
    subjects: pa.Array,
    times: pa.Array,
    codes: pa.Array,
    values: pa.Array | None = None,
    texts: pa.Array | None = None,
) -> pa.RecordBatch:
    """Put columns of equal length together as events; values and texts may be left away."""
    count = len(subjects)
    columns = [
        subjects,
        times,
        codes,
        pa.nulls(count, pa.float32()) if values is None else values.cast(pa.float32(), safe=False),
        pa.nulls(count, pa.string()) if texts is None else texts,
    ]
    return pa.RecordBatch.from_arrays([_flat(c) for c in columns], schema=EVENT_SCHEMA)


def files_below(folder: Path, patterns: Iterable[str], what: str) -> list[Path]:
    """Return the files below a folder that fit a pattern, by name.

    Raises:
        UserError: if there is none, or a link leads out of the folder.
    """
    root = folder.resolve()
    found = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    files = [file for file in found if not file.is_dir()]
    if not files:
        raise UserError(folder, f"no {what} was found")
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise UserError(
                file,
                "is a link that leads out of the data folder",
                remedy="Put the file itself there, or give the folder that holds it as the path.",
            )
    return files


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
