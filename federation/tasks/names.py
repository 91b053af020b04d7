"""Names of classes and findings: part of the study, and so of what leaves a site."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

OutcomeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _./+()-]{0,63}$")]
RESERVED = ("subject_id", "prediction_time")


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a name that is given twice, or that is a column of every labels file."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'"{name}" is given twice')
        if name in RESERVED:
            raise ValueError(f'"{name}" is a column of every labels file; give another name')
    return names
