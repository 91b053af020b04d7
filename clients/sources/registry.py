"""The readers by format: from a site's export to batches of events."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from clients.site import Site
from clients.sources import fhir, meds, omop, tables
from clients.sources.schema import Told
from clients.sources.settings import FhirEvents, MedsEvents, TablesEvents
from clients.sources.subjects import SubjectIds


def site_events(
    site: Site, subjects: SubjectIds | None = None, told: Told | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream a site's events as batches of ``EVENT_SCHEMA``, in no particular order.

    Args:
        site: whose ``data.events`` say the format, the mapping and the folder.
        subjects: names of patients to subject ids; by default under the site's patient key.
        told: is filled with what became no event; whole once the stream has ended.

    Raises:
        UserError: if a file cannot be read as the site file says, while streaming.
    """
    subjects = SubjectIds(site.patient_key) if subjects is None else subjects
    told = Told() if told is None else told
    settings, folder = site.settings.data.events, site.events
    if isinstance(settings, MedsEvents):
        return meds.batches(folder)
    if isinstance(settings, TablesEvents):
        return tables.batches(settings, folder, subjects, told)
    if isinstance(settings, FhirEvents):
        return fhir.batches(settings, folder, subjects, told)
    return omop.batches(folder, subjects, told)
