"""What all converters share: the folder to write, the patient key, text tables, radiographs."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from meds.schema import LabelSchema

from federation.errors import UserError


def require_empty(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UserError: if it does, or cannot be looked into.
    """
    try:
        occupied = any(out.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            out, f"is not a folder that can be written to ({error.strerror})"
        ) from error
    if occupied:
        raise UserError(out, "is not empty", remedy="Give a new folder; nothing is written over.")


def require_files(source: Path, names: Sequence[str], remedy: str) -> None:
    """Refuse a source that lacks files.

    Raises:
        UserError: naming them.
    """
    if not source.is_dir():
        raise UserError(source, "is not a folder", remedy=remedy)
    if missing := [name for name in names if not (source / name).is_file()]:
        raise UserError(source, f"has no {', '.join(missing)}", remedy=remedy)


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Say in one message that a folder cannot be written to."""
    try:
        yield
    except OSError as error:
        raise UserError(folder, f"cannot be written ({error.strerror or error})") from error


def write_patient_key(state: Path, name: str) -> None:
    """Write a key that follows from a name, so that everyone splits public data equally.

    A real site draws its key at random.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / "patient.key").write_text(hashlib.sha256(name.encode()).hexdigest(), encoding="ascii")
    (state / "patient.key").chmod(0o600)


def write_csv(file: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def write_meds_labels(file: Path, subjects: pa.Array, times: pa.Array, labels: pa.Array) -> None:
    """Write labels with the columns in use: MEDS forbids nulls in the other ones."""
    schema = LabelSchema.schema()
    names = ("subject_id", "prediction_time", "boolean_value")
    used = pa.schema([schema.field(name) for name in names])
    pq.write_table(pa.table([subjects, times, labels], schema=used), file)
