"""The readers by format: from a site's export to batches of events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from clients.sources import fhir, meds, omop, tables
from clients.sources.schema import Told
from clients.sources.settings import EventsSection, FhirEvents, MedsEvents, TablesEvents
from clients.sources.subjects import SubjectIds


def event_batches(
    settings: EventsSection, folder: Path, subjects: SubjectIds, told: Told
) -> Iterator[pa.RecordBatch]:
    """Stream a site's events as batches of ``EVENT_SCHEMA``, in no particular order.

    Args:
        settings: ``[data.events]`` of the site file.
        folder: its path.
        subjects: names of patients to subject ids.
        told: is filled with what became no event; whole once the stream has ended.

    Raises:
        UserError: if a file cannot be read as the site file says, while streaming.
    """
    if isinstance(settings, MedsEvents):
        return meds.batches(folder)
    if isinstance(settings, TablesEvents):
        return tables.batches(settings, folder, subjects, told)
    if isinstance(settings, FhirEvents):
        return fhir.batches(settings, folder, subjects, told)
    return omop.batches(folder, subjects, told)
