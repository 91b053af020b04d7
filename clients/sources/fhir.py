"""An HL7 FHIR R4 bulk export: one JSON resource a line, one resource type a file.

Read as plain JSON: a model of every resource costs thirty times as much and takes nothing that is
used here more strictly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from clients.sources.fhir_codes import Coder
from clients.sources.fhir_events import EVENTS, Event, patient_events, reference_id
from clients.sources.fhir_times import micros
from clients.sources.ndjson import resource_type, resources
from clients.sources.schema import EVENT_SCHEMA, Told, event_batch, files_below
from clients.sources.settings import FhirEvents
from clients.sources.subjects import SubjectIds
from federation.errors import UserError

PATTERNS = ("**/*.ndjson", "**/*.ndjson.gz", "**/*.jsonl", "**/*.jsonl.gz")
EVENTS_A_BATCH = 50_000
NOT_DONE = {"entered-in-error", "not-done", "cancelled", "refuted"}


def batches(
    settings: FhirEvents, folder: Path, subjects: SubjectIds, told: Told
) -> Iterator[pa.RecordBatch]:
    """Stream the events of a bulk export: patients first, then all that refers to them.

    Raises:
        UserError: naming the file and line of what is no resource.
    """
    export = _Export(folder, settings, subjects, told)
    yield from _batched(export.people())
    for kind, files in export.files.items():
        if kind in EVENTS:
            for file in files:
                yield from _batched(export.of_file(file, kind))
        elif kind not in ("Patient", "Medication"):
            told.rows[f"{kind}: a resource type that is not read (files)"] += len(files)


@dataclass
class _Export:
    """What the resources of an export refer to."""

    folder: Path
    settings: FhirEvents
    subjects: SubjectIds
    told: Told
    patients: dict[str, int] = field(default_factory=dict)

    @cached_property
    def files(self) -> Mapping[str, list[Path]]:
        found: defaultdict[str, list[Path]] = defaultdict(list)
        for file in files_below(self.folder, PATTERNS, ".ndjson or .ndjson.gz file"):
            if (kind := resource_type(file)) is not None:
                found[kind].append(file)
        if "Patient" not in found:
            raise UserError(self.folder, "no file holds Patient resources")
        return dict(found)

    @cached_property
    def coder(self) -> Coder:
        medications: dict[str, str] = {}
        coder = Coder(self.settings.systems, medications)
        for file in self.files.get("Medication", []):
            for resource in resources(file, "Medication"):
                code = coder.medication(resource)
                if code is not None and isinstance(resource.get("id"), str):
                    medications[resource["id"]] = code
        return coder

    @cached_property
    def ends(self) -> Mapping[str, int]:
        """When each encounter ended; read only if something has no time of its own."""
        found = {}
        for file in self.files.get("Encounter", []):
            for resource in resources(file, "Encounter"):
                period = resource.get("period")
                at = micros(period.get("end")) if isinstance(period, dict) else None
                if at is not None and isinstance(resource.get("id"), str):
                    found[resource["id"]] = at
        return found

    def people(self) -> Iterator[tuple[int, Event]]:
        for file in self.files["Patient"]:
            for line, resource in enumerate(resources(file, "Patient"), start=1):
                subject = self._subject(file, line, resource)
                if isinstance(resource.get("id"), str):
                    self.patients[resource["id"]] = subject
                for event in patient_events(resource):
                    yield subject, event

    def _subject(self, file: Path, line: int, resource: Mapping[str, Any]) -> int:
        system = self.settings.identifier
        if system is None:
            name = resource.get("id")
        else:
            listed = resource.get("identifier")
            ours = [
                one.get("value")
                for one in (listed if isinstance(listed, list) else [])
                if isinstance(one, dict) and one.get("system") == system
            ]
            name = ours[0] if ours else None
        if not isinstance(name, str) or not name:
            what = "id" if system is None else f"identifier of {system}"
            raise UserError(
                file,
                f"a patient has no {what}",
                field=f"line {line}",
                remedy="Give data.events.identifier the system of the number that all have.",
            )
        return self.subjects.of_text(name)

    def of_file(self, file: Path, kind: str) -> Iterator[tuple[int, Event]]:
        for resource in resources(file, kind):
            named = reference_id(resource.get("subject") or resource.get("patient"))
            subject = self.patients.get(named) if named is not None else None
            if subject is None:
                self.told.absent(["no name" if named is None else named])
            elif _status(resource) in NOT_DONE:
                self.told.notice("event cancelled or entered in error, not used", [subject])
            else:
                yield from self._events(subject, kind, resource)

    def _events(
        self, subject: int, kind: str, resource: Mapping[str, Any]
    ) -> Iterator[tuple[int, Event]]:
        for event in EVENTS[kind](resource, self.coder):
            at = event.micros
            if at is None:
                met = reference_id(resource.get("encounter") or resource.get("context"))
                at = None if met is None else self.ends.get(met)
            if at is None:
                self.told.notice("event without a time, not used", [subject])
            elif event.code is None:
                self.told.notice("event without a code, not used", [subject])
            else:
                yield subject, event._replace(micros=at)


def _status(resource: Mapping[str, Any]) -> object:
    verified = resource.get("verificationStatus")
    coding = verified.get("coding") if isinstance(verified, dict) else None
    if isinstance(coding, list) and coding and isinstance(coding[0], dict):
        code = coding[0].get("code")
        if isinstance(code, str) and code in NOT_DONE:
            return code
    status = resource.get("status")
    return status if isinstance(status, str) else None


def _batched(events: Iterator[tuple[int, Event]]) -> Iterator[pa.RecordBatch]:
    held: list[tuple[int, Event]] = []
    for event in events:
        held.append(event)
        if len(held) == EVENTS_A_BATCH:
            yield _batch(held)
            held = []
    if held:
        yield _batch(held)


def _batch(held: list[tuple[int, Event]]) -> pa.RecordBatch:
    events = [event for _, event in held]
    return event_batch(
        pa.array([subject for subject, _ in held], pa.int64()),
        pa.array([event.micros for event in events], pa.int64()).cast(pa.timestamp("us")),
        pa.array([event.code for event in events], EVENT_SCHEMA.field("code").type),
        pa.array([event.value for event in events], pa.float64()),
        pa.array([event.text for event in events], pa.string()),
    )
