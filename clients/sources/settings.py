"""The ``[data.events]`` and ``[data.labels]`` tables of a site file: which format, how it maps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from federation.validation import Section

NO_VALUE = ("", "NA", "NaN", "nan", "NULL", "null")
"""Texts that stand for no value in every column of a table."""

OffsetUnit = Literal["seconds", "minutes", "hours", "days"]


class MedsEvents(Section):
    """Events in the Medical Event Data Standard, 0.3 or 0.4."""

    format: Literal["meds"]
    path: str


class FhirEvents(Section):
    """An R4 bulk export: ndjson files, each of one resource type, plain or gzip."""

    format: Literal["fhir"]
    path: str
    identifier: str | None = None
    """System of the ``Patient.identifier`` that is the subject; ``Patient.id`` if left away."""
    systems: Mapping[str, str] = Field(default_factory=dict)
    """Coding system to the first part of a code; adds to the well-known ones and goes first."""


class OmopEvents(Section):
    """OMOP CDM 5.4 tables, each a CSV or parquet file, or a folder of them."""

    format: Literal["omop"]
    path: str


class WideColumn(Section):
    """What one column of a wide table holds.

    ``number``: a value, times ``factor``. ``category``: the value becomes the end of the code, by
    ``categories`` where they are given. ``time``: something that happened then (a birth). ``age``:
    years at the row's time, which give the birth. ``text``: a note, or an image's path.
    """

    code: str = Field(min_length=1)
    kind: Literal["number", "category", "time", "age", "text"] = "number"
    missing: tuple[str, ...] = ()
    factor: float = 1.0
    values: Mapping[str, float] = Field(default_factory=dict)
    """Texts that stand for a number, such as ``"> 89" = 90``."""
    categories: Mapping[str, str] = Field(default_factory=dict)
    time: str | None = None
    offset: str | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> WideColumn:
        if self.categories and self.kind != "category":
            raise ValueError('"categories" go with kind = "category"')
        if (self.values or self.factor != 1) and self.kind not in ("number", "age"):
            raise ValueError('"factor" and "values" go with kind = "number" or "age"')
        if self.time is not None and self.offset is not None:
            raise ValueError('give "time" or "offset", not both')
        return self


class TableSection(Section):
    """One table, or several of the same columns: long (``code``) or wide (``columns``)."""

    file: str
    """A file name below the path, or a pattern such as ``"labs/*.csv.gz"``."""
    subject: str | None = None
    """The column of the patient, or ``"#row"`` where every row is another patient."""
    stay: str | None = None
    time: str | None = None
    time_format: str | None = None
    offset: str | None = None
    offset_unit: OffsetUnit = "minutes"
    static: bool = False
    names: tuple[str, ...] = ()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()
    unreadable: Literal["stop", "count"] = "stop"
    code: str | None = None
    value: str | None = None
    text: str | None = None
    unit: str | None = None
    units: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)
    columns: Mapping[str, WideColumn] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_whole(self) -> TableSection:
        if (self.subject is None) == (self.stay is None):
            raise ValueError(
                'give either "subject" or "stay": the column that names whose row it is'
            )
        if sum((self.time is not None, self.offset is not None, self.static)) > 1:
            raise ValueError('give one of "time", "offset" and "static"')
        if (self.code is None) == (not self.columns):
            raise ValueError('give either "code" (a row per measurement) or "columns" (a wide row)')
        if self.code is None and (self.value or self.text or self.unit or self.units):
            raise ValueError('"value", "text", "unit" and "units" go with "code"')
        if self.units and self.unit is None:
            raise ValueError('"units" needs "unit": the column that holds them')
        if self.static and any(c.kind == "age" for c in self.columns.values()):
            raise ValueError('kind = "age" needs a time, and so no "static"')
        if not self._always_timed():
            raise ValueError('give "time" or "offset", or "static = true" for what is always known')
        return self

    def _always_timed(self) -> bool:
        if self.time is not None or self.offset is not None or self.static:
            return True
        columns = self.columns.values()
        return bool(columns) and all(c.time or c.offset or c.kind == "time" for c in columns)

    @property
    def in_code(self) -> tuple[str, ...]:
        """The columns that the code is made of."""
        return tuple(re.findall(r"\{([^{}]+)\}", self.code or ""))


class StaysSection(Section):
    """The table that tells whose a stay (a visit) is, and when it began."""

    file: str
    key: str
    subject: str
    start: str | None = None
    time_format: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8"


class TablesEvents(Section):
    """CSV or parquet tables with a mapping to codes."""

    format: Literal["tables"]
    path: str
    origin: datetime | None = None
    """The moment from which offsets count where no stay has a start."""
    stays: StaysSection | None = None
    tables: tuple[TableSection, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _offsets_count_from_somewhere(self) -> TablesEvents:
        if self.origin is not None and self.origin.tzinfo is not None:
            raise ValueError("origin: a local time without a zone was expected")
        for table in self.tables:
            if table.stay is not None and self.stays is None:
                raise ValueError('"stay" needs [data.events.stays]')
            offset = table.offset or any(c.offset for c in table.columns.values())
            started = table.stay is not None and self.stays is not None and self.stays.start
            if offset and not started and self.origin is None:
                raise ValueError('offsets need "origin", or a stay with "start"')
        return self


EventsSection = Annotated[
    MedsEvents | TablesEvents | FhirEvents | OmopEvents, Field(discriminator="format")
]


class LabelRule(Section):
    """Labels from the events: is there an outcome within a horizon after an index event?

    Codes stand for themselves and for everything below them: ``"ICU"`` is also ``"ICU//MICU"``.
    """

    index: tuple[str, ...] = Field(min_length=1)
    predict_after_hours: float = Field(default=0.0, ge=0, le=24 * 366 * 20)
    outcome: tuple[str, ...] = Field(min_length=1)
    horizon_hours: float | None = Field(default=None, gt=0, le=24 * 366 * 50)
    """Counted from the index event; needs to be later than the prediction."""
    until: tuple[str, ...] = ()
    """Events, such as a discharge, with which the time after an index event ends."""
    time_to_event: bool = False
    """Days to the outcome, for a survival task, instead of whether there is one."""

    @model_validator(mode="after")
    def _ends(self) -> LabelRule:
        if self.horizon_hours is None and not self.until and not self.time_to_event:
            raise ValueError(
                'give "horizon_hours" or "until", or everybody has the outcome one day'
            )
        if self.horizon_hours is not None and self.horizon_hours <= self.predict_after_hours:
            raise ValueError('"horizon_hours" must be more than "predict_after_hours"')
        return self


def _source(given: Any) -> str:
    return "file" if isinstance(given, str) else "rule"


def _source_or_table(given: Any) -> str:
    """A rule has codes of an index event; a table of labels has sources by their names."""
    if isinstance(given, Mapping) and given and not {"index", "outcome"} & given.keys():
        return "by name"
    return _source(given)


LabelSource = Annotated[
    Annotated[str, Tag("file")] | Annotated[LabelRule, Tag("rule")], Discriminator(_source)
]

LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,63}$")]

LabelsSection = Annotated[
    Annotated[str, Tag("file")]
    | Annotated[LabelRule, Tag("rule")]
    | Annotated[dict[LabelName, LabelSource], Tag("by name")],
    Discriminator(_source_or_table),
]


class ExcludeSection(Section):
    """Patients who are treated at several hospitals: hashes under a key that only sites share."""

    hashes: str
    key: str
    identifiers: str | None = None
    """A CSV of ``subject_id,identifier`` where hospitals share another number than the subject."""
