"""What can go wrong while a parquet file is read, as one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from federation.errors import UserError

DAMAGED = (
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    pa.ArrowKeyError,
    OSError,
    UnicodeDecodeError,  # a column's name is no text
)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what Arrow says of a parquet file, which may quote a row, into a message without it.

    Raises:
        UserError: if the file is missing or cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(file, "there is no such file") from None
    except DAMAGED:
        what = "not a readable parquet file (truncated, damaged, or another format)"
        raise UserError(file, what) from None
